package handler

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// EgressOptions is what there is to say about connections to upstreams besides
// where they may go.
type EgressOptions struct {
	// Roots verify upstreams; nil means the system's.
	Roots *x509.CertPool

	// Upstream is a proxy (http or https) that all connections go through.
	Upstream *url.URL
}

const (
	// idlePerHost is how many idle connections to one host are kept. Go's
	// default of 2 makes clients that work in parallel dial again and again.
	idlePerHost = 100

	// idleInAll bounds them over all hosts.
	idleInAll = 1000

	idleConnTimeout       = 90 * time.Second
	upstreamHandshake     = 10 * time.Second
	expectContinueTimeout = 5 * time.Second
	tlsRecord             = 16 << 10 // how much a record of TLS carries at most
)

// upstream holds the connections towards destinations: HTTP/1 for clients that
// speak it, HTTP/2 where client and destination both do.
type upstream struct {
	guard *Guard
	proxy *url.URL
	h1    *http.Transport
	h2    *http.Transport

	direct *directTransport // the plain cases of h1; nil where a proxy leads to destinations
}

func newUpstream(guard *Guard, o EgressOptions) *upstream {
	u := &upstream{guard: guard, proxy: o.Upstream}
	u.h1 = u.transport(o, false)
	u.h2 = u.transport(o, true)
	if u.proxy == nil {
		u.direct = &directTransport{tls: u.h1.TLSClientConfig, dial: func(ctx context.Context, d Destination) (net.Conn, error) {
			return u.h1.DialContext(ctx, "tcp", d.HostPort())
		}}
	}
	return u
}

func (u *upstream) transport(o EgressOptions, h2 bool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(h2)
	t := &http.Transport{
		DialContext:           u.dialContext,
		TLSClientConfig:       &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
		Protocols:             protocols,
		TLSHandshakeTimeout:   upstreamHandshake,
		DisableCompression:    true,
		MaxIdleConns:          idleInAll,
		MaxIdleConnsPerHost:   idlePerHost,
		IdleConnTimeout:       idleConnTimeout,
		ExpectContinueTimeout: expectContinueTimeout,
		ReadBufferSize:        tlsRecord,
		WriteBufferSize:       tlsRecord,
	}
	if u.proxy != nil {
		t.Proxy = http.ProxyURL(u.proxy)
	}
	return t
}

// dialContext is asked by the transports for the destination itself, or for the
// upstream proxy, which the operator has chosen and the guard does not judge.
func (u *upstream) dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if u.proxy != nil {
		dialer := net.Dialer{Timeout: u.guard.timeout(), Resolver: u.guard.Resolver}
		return dialer.DialContext(ctx, network, addr)
	}
	dest, err := parseDestination("https", addr, 0)
	if err != nil {
		return nil, fmt.Errorf("dialling: %w", err)
	}
	if f := forwardingFrom(ctx); f != nil {
		dest.Scheme = f.dest.Scheme // for what a refusal says
	}
	return u.guard.Dial(ctx, dest)
}

// dial opens a connection for a blind tunnel.
func (u *upstream) dial(ctx context.Context, dest Destination) (net.Conn, error) {
	if u.proxy == nil {
		return u.guard.Dial(ctx, dest)
	}
	return dialThrough(ctx, u.proxy, dest, u.dialContext, u.h1.TLSClientConfig)
}

func (u *upstream) closeIdle() {
	u.h1.CloseIdleConnections()
	u.h2.CloseIdleConnections()
	if u.direct != nil {
		u.direct.idle.close()
	}
}

// send sends a request by the client that fits it. Towards a destination that
// speaks HTTP/1 alone, a client of HTTP/2 gets HTTP/1.
func (u *upstream) send(req *http.Request, f *forwarding) (*http.Response, error) {
	switch {
	case f.in.ProtoMajor >= 2 && f.dest.Scheme == "https":
		if req.Body != nil && req.Body != http.NoBody {
			req.Body = &interruptible{req.Body, f.in.Body}
		}
		return u.h2.RoundTrip(req)
	case u.direct != nil && u.direct.takes(req):
		return u.direct.RoundTrip(req, f.dest)
	}
	return u.h1.RoundTrip(req)
}

// newForwarder makes the reverse proxy that carries requests. All it adds to a
// request is taken away again in rewrite, so both ends see what the other sent.
func (p *Proxy) newForwarder() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:  &swapTransport{proxy: p},
		Rewrite:    rewrite,
		BufferPool: &buffers,
		// What it logs quotes malformed responses, and so values that they echo.
		ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			forwardingFrom(r.Context()).err = err
		},
	}
}

// rewrite points the outgoing request at the destination and restores what
// ReverseProxy took from it.
func rewrite(pr *httputil.ProxyRequest) {
	f := forwardingFrom(pr.In.Context())
	in, out := pr.In, pr.Out
	path, query, hasQuery := rawTarget(in)
	out.URL = f.targetURL(path, query, hasQuery)
	out.Host = f.host
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := in.Header[name]; ok && !connectionNamed(in.Header, name) {
			out.Header[name] = values
		}
	}
	for name, values := range f.dropped {
		if !connectionNamed(in.Header, name) {
			out.Header[name] = values
		}
	}
	if httpguts.HeaderValuesContainsToken(out.Header["Upgrade"], "h2c") {
		// Behind it come requests that nobody here reads, and no host needs it any
		// more (RFC 9113, section 3.1).
		out.Header.Del("Connection")
		out.Header.Del("Upgrade")
	}
}

// buffers serve copies of bodies.
var buffers bufferPool

type bufferPool struct{ pool sync.Pool }

const copyBuffer = 4 * tlsRecord

func (b *bufferPool) Get() []byte {
	if p, ok := b.pool.Get().(*[copyBuffer]byte); ok {
		return p[:]
	}
	return make([]byte, copyBuffer)
}

func (b *bufferPool) Put(p []byte) { b.pool.Put((*[copyBuffer]byte)(p)) }

// refuseUpstream turns a failure towards dest into the answer the client gets.
// Only known kinds of errors are told; their texts hold names and addresses.
func refuseUpstream(dest Destination, err error) error {
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		return refusal
	}
	refusal := &Refusal{Status: http.StatusBadGateway, Rule: RuleUpstream, Err: err}
	var (
		dns     *net.DNSError
		op      *net.OpError
		verify  *tls.CertificateVerificationError
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.As(err, &verify):
		refusal.Rule = RuleCertificate
		refusal.Reason = fmt.Sprintf("the certificate of %s is not valid: %v", dest, verify.Err)
		refusal.Mend = "if its authority is your own, name its PEM file with `trust` in egress"
	case errors.As(err, &dns):
		refusal.Reason = fmt.Sprintf("the name %s cannot be resolved: %s", dest.Host, dns.Err)
		refusal.Mend = "check the name; where only a proxy leads out of this network, name it with `upstream` in egress"
	case errors.As(err, &timeout) && timeout.Timeout():
		refusal.Reason = dest.String() + " did not answer in time"
	case errors.As(err, &op) && op.Op == "dial":
		refusal.Reason = fmt.Sprintf("%s cannot be reached: %v", dest, op.Err)
	default:
		refusal.Reason = "the connection to " + dest.String() + " broke off before it had answered"
	}
	return refusal
}
