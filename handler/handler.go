// Package handler is http.handlers.starpod_secrets: a forward proxy that swaps
// opaque tokens for the secrets sealed in them, on the way out and only towards
// the hosts that the token itself names.
//
// A request passes four stages, a file or two each:
//
//	unwrap   connect.go, inner.go     CONNECT is accepted, its TLS terminated
//	decide   destination.go, exchange.go, guard.go   one destination, checked
//	forward  forward.go, egress.go    httputil.ReverseProxy over our transport
//	swap     transport.go, body.go    tokens become values, inside RoundTrip
//
// [Proxy] is the engine and knows no Caddy; [Handler] configures it.
package handler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/starpod/caddy-starpod/ca"
)

// Handler is a forward proxy that swaps tokens for secrets. It serves CONNECT,
// requests in absolute form, and what comes out of the tunnels that it
// intercepts; every other request goes on to the next handler.
type Handler struct {
	// Files with master keys: 32 bytes, raw, hex or base64, readable by the
	// owner only. The first seals, all open. At least one is needed.
	MasterKeyFiles []string `json:"master_key_files,omitempty"`

	// Create the first key file if it is missing. Default: false.
	GenerateKey bool `json:"generate_key,omitempty"`

	// Where tokens are looked for: header, path, query, body, basic (inside the
	// credentials of Authorization: Basic), and websocket (messages of the
	// client). Default: all.
	Scan []string `json:"scan,omitempty"`

	// What becomes of a token that is not for the destination: strip, deny (the
	// request is refused) or pass. Default: strip.
	OnMismatch string `json:"on_mismatch,omitempty"`

	// What becomes of a token that no key opens: pass, strip or deny.
	// Default: pass.
	OnUndecodable string `json:"on_undecodable,omitempty"`

	// What becomes of tokens towards http://: replace, strip or deny.
	// Default: replace.
	PlaintextHTTP string `json:"plaintext_http,omitempty"`

	// Whether TLS is terminated, so that tokens inside are found. When off,
	// every CONNECT is a blind tunnel. Default: true.
	Intercept *bool `json:"intercept,omitempty"`

	// Hosts that are never intercepted, for clients that pin certificates;
	// patterns like example.com, *.example.com, example.com:8443.
	Tunnel []string `json:"tunnel,omitempty"`

	// Whether values that were put into a request are hidden in its answer.
	// Default: true.
	MaskResponses *bool `json:"mask_responses,omitempty"`

	// How much of a request body is held in memory, in bytes. Default: 1 MiB.
	BodyBuffer int64 `json:"body_buffer,omitempty"`

	// How long request bodies with a Content-Length or Content-Encoding may be,
	// each and all at one time together, in bytes; over body_buffer they wait in unnamed temporary
	// files (tokens still in them, never values). Default: 10 GiB.
	MaxSpool int64 `json:"max_spool,omitempty"`

	// How long request bodies with a Content-Encoding may become without it, in
	// bytes; above 16 MiB it is 200 times their coded length at most. Default: 1 GiB.
	MaxDecoded int64 `json:"max_decoded,omitempty"`

	// The account that clients of the proxy must name. Default: none needed.
	ProxyAuth *ProxyAuth `json:"proxy_auth,omitempty"`

	// How much clients may hold, one and all together.
	Limits *Limits `json:"limits,omitempty"`

	// Where connections may go, and how.
	Egress *Egress `json:"egress,omitempty"`

	proxy   *Proxy
	server  *caddyhttp.Server
	runtime Runtime
	keys    *keyFiles
	leaving leaving
}

// ProxyAuth is an account of the proxy.
type ProxyAuth struct {
	User string `json:"user"`
	Hash string `json:"hash"` // bcrypt, as `caddy hash-password` prints it
}

// Egress says where connections may go, and how.
type Egress struct {
	// Rules in the order they are tried; the first match decides. Without a
	// match the public internet is open, everything else closed.
	Rules []EgressLine `json:"rules,omitempty"`

	// PEM files with roots that upstreams are verified against, besides the
	// system's.
	Trust []string `json:"trust,omitempty"`

	// URL of a proxy that all connections go through (http or https). A
	// password in it has to be a placeholder, like {file./run/secrets/proxy}.
	Upstream string `json:"upstream,omitempty"`

	// How long connecting may take. Default: 10s.
	DialTimeout caddy.Duration `json:"dial_timeout,omitempty"`

	// Hand swapped requests to the next handler of the route in place of
	// forwarding them. That handler then sees real values. Default: false.
	Next bool `json:"next,omitempty"`
}

// EgressLine is one allow or deny line: CIDRs, addresses, host patterns, "*",
// or private_ranges.
type EgressLine struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
}

// Runtime is what the handler needs of the app.
type Runtime interface {
	// Authority returns the certificate authority, making it when needed.
	Authority(context.Context) (*ca.Authority, error)

	// Listeners returns the addresses of this process that no client may reach
	// through a proxy: Caddy's admin endpoint.
	Listeners() []netip.AddrPort

	// TierLevel is 1 where the kernel keeps clients from going around the proxy,
	// else 0.
	TierLevel() int

	// Attach tells the app of a proxy. start is called when the app starts and
	// has the side effects that provisioning must not have.
	Attach(p *Proxy, at Site, start func() error)
}

// Site is where a proxy stands.
type Site struct {
	Server   *caddyhttp.Server // whose routes lead to it; may be nil
	KeyFiles []string
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.starpod_secrets",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets the handler up. It reads, but changes nothing on disk.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := ctx.App("starpod")
	if err != nil {
		return err
	}
	runtime, ok := app.(Runtime)
	if !ok {
		return fmt.Errorf("the starpod app is a %T, which lacks what this handler needs", app)
	}
	h.runtime = runtime
	h.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	repl := caddy.NewReplacer()
	h.keys = &keyFiles{generate: h.GenerateKey, log: ctx.Logger(), ended: make(chan struct{})}
	for _, path := range h.MasterKeyFiles {
		h.keys.paths = append(h.keys.paths, repl.ReplaceKnown(path, ""))
	}
	if err := h.keys.read(); err != nil {
		return err
	}
	h.proxy = &Proxy{
		Keys:   h.keys.ring,
		Tunnel: h.Tunnel,
		Log:    ctx.Logger(),
		Audit:  ctx.Logger().Named("audit"),
		Guard:  &Guard{Self: h.self},
	}
	if h.Intercept == nil || *h.Intercept {
		h.proxy.Authority = runtime.Authority
	}
	if err := h.configureSwap(); err != nil {
		return err
	}
	if err := h.configureAuth(); err != nil {
		return err
	}
	if err := h.configureEgress(repl); err != nil {
		return err
	}
	if h.Limits != nil {
		h.proxy.Limits = *h.Limits
	}
	h.leaving.init(h.proxy)
	if h.server != nil {
		h.server.RegisterConnState(h.proxy.ConnState)
		h.server.RegisterOnShutdown(h.leaving.begin)
		h.server.RegisterOnStop(h.leaving.await)
	}
	runtime.Attach(h.proxy, Site{Server: h.server, KeyFiles: h.keys.paths}, h.keys.watch)
	return nil
}

func (h *Handler) configureSwap() (err error) {
	swap := &h.proxy.Swap
	if swap.Scan, err = ParsePlaces(h.Scan); err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	if swap.OnMismatch, err = parsePolicy(h.OnMismatch); err != nil {
		return fmt.Errorf("on_mismatch: %w", err)
	}
	if swap.OnUndecodable, err = parsePolicy(h.OnUndecodable); err != nil {
		return fmt.Errorf("on_undecodable: %w", err)
	}
	if swap.PlaintextHTTP, err = parsePlaintext(h.PlaintextHTTP); err != nil {
		return fmt.Errorf("plaintext_http: %w", err)
	}
	if h.BodyBuffer < 0 || h.MaxSpool < 0 || h.MaxDecoded < 0 {
		return errors.New("body_buffer, max_spool and max_decoded must not be negative")
	}
	swap.Unmasked = h.MaskResponses != nil && !*h.MaskResponses
	swap.BodyBuffer, swap.MaxSpool, swap.MaxDecoded = h.BodyBuffer, h.MaxSpool, h.MaxDecoded
	if err := checkHosts(h.Tunnel); err != nil {
		return fmt.Errorf("tunnel: %w", err)
	}
	return nil
}

func (h *Handler) configureAuth() error {
	if h.ProxyAuth == nil {
		return nil
	}
	if h.ProxyAuth.User == "" {
		return errors.New("proxy_auth: the user is missing")
	}
	auth, err := newBcryptAuth(h.ProxyAuth.User, h.ProxyAuth.Hash)
	if err != nil {
		return fmt.Errorf("proxy_auth: %w", err)
	}
	h.proxy.Authenticate = auth.check
	return nil
}

func (h *Handler) configureEgress(repl *caddy.Replacer) error {
	if h.Egress == nil {
		return nil
	}
	h.proxy.HandOver = h.Egress.Next
	h.proxy.Guard.Timeout = time.Duration(h.Egress.DialTimeout)
	rules, err := h.Egress.ParseRules()
	if err != nil {
		return fmt.Errorf("egress: %w", err)
	}
	h.proxy.Guard.Rules = rules
	roots, err := TrustRoots(h.Egress.Trust)
	if err != nil {
		return fmt.Errorf("egress: %w", err)
	}
	h.proxy.Egress.Roots = roots
	if h.Egress.Upstream != "" {
		if h.proxy.Egress.Upstream, err = ParseUpstream(repl.ReplaceKnown(h.Egress.Upstream, "")); err != nil {
			return fmt.Errorf("egress: %w", err)
		}
	}
	return nil
}

// ParseRules returns the rules for a [Guard], in their order. A nil Egress has none.
func (e *Egress) ParseRules() ([]EgressRule, error) {
	if e == nil {
		return nil, nil
	}
	var all []EgressRule
	for _, line := range e.Rules {
		allow, words := true, line.Allow
		if len(line.Deny) > 0 {
			allow, words = false, line.Deny
		}
		for _, word := range words {
			rules, err := ParseEgressRule(allow, word)
			if err != nil {
				return nil, err
			}
			all = append(all, rules...)
		}
	}
	return all, nil
}

// Validate checks what a file of JSON may hold and the Caddyfile refuses.
func (h *Handler) Validate() error {
	if h.Limits != nil {
		if err := h.Limits.Validate(); err != nil {
			return err
		}
	}
	if h.Egress == nil {
		return nil
	}
	for _, line := range h.Egress.Rules {
		if len(line.Allow) > 0 && len(line.Deny) > 0 {
			return errors.New("egress: a rule either allows or denies; write two rules, their order counts")
		}
	}
	if err := checkUpstream(h.Egress.Upstream); err != nil {
		return fmt.Errorf("egress: %w", err)
	}
	return nil
}

// Cleanup lets busy tunnels finish and closes idle ones, without holding up
// whoever reloads the configuration.
func (h *Handler) Cleanup() error {
	if h.keys != nil {
		h.keys.stop()
	}
	if h.proxy != nil {
		h.leaving.begin()
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if r.Method == http.MethodConnect {
		defer keepOpen(r.Context())()
	}
	r = h.withPlaceholders(r)
	served, err := h.proxy.Serve(w, r, server, next.ServeHTTP)
	if !served {
		return next.ServeHTTP(w, r)
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		return err
	}
	if server != nil && server.Errors != nil && len(server.Errors.Routes) > 0 {
		return caddyhttp.Error(refusal.Status, refusal)
	}
	refusal.Write(w)
	return nil
}

// keepOpen lifts Caddy's idle timeouts from a tunnel that is a stream of HTTP/2
// or HTTP/3, which would count as a stalled request. The server inside the
// tunnel closes what is idle.
func keepOpen(ctx context.Context) (restore func()) {
	reader, writer := caddyhttp.IdleTimeoutsFromContext(ctx)
	restore = func() {}
	if reader != nil {
		restore = reader.Override(longTime, 0)
	}
	if writer != nil {
		before := restore
		after := writer.Override(longTime, 0, 0)
		restore = func() { before(); after() }
	}
	return restore
}

const longTime = 365 * 24 * time.Hour

// self returns the addresses of the server that this handler belongs to, and of
// the admin endpoint: who reaches that can have any file served, the key too.
func (h *Handler) self() []netip.AddrPort {
	own := h.runtime.Listeners()
	if h.server == nil {
		return own
	}
	for _, listener := range h.server.Listeners() {
		if addr, ok := listener.Addr().(*net.TCPAddr); ok {
			own = append(own, addr.AddrPort())
		}
	}
	return own
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)

	_ interface{ Status() int } = caddyhttp.ResponseRecorder(nil) // as isObserved looks for
)
