package handler

import (
	"context"
	"errors"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/internal/heap"
	"github.com/starpod/caddy-starpod/tokens"
	"go.uber.org/zap"
)

// Proxy is the engine of this package. It knows no Caddy: the module [Handler]
// configures one per Caddyfile directive, and the embedded proxy of
// `caddy starpod run` is one behind a plain http.Server.
//
// Set the exported fields, then serve; they must not change afterwards.
type Proxy struct {
	// Keys returns the keyring that opens tokens. It is called for each request.
	Keys func() (*tokens.Keyring, error)

	// Authority mints the certificates for interception; nil means that nothing
	// is intercepted and every CONNECT is a blind tunnel.
	Authority func(context.Context) (*ca.Authority, error)

	// Tunnel lists the hosts that are never intercepted, as patterns of tokens.
	Tunnel []string

	// Swap says where tokens are looked for and what becomes of those that are
	// not replaced.
	Swap SwapPolicy

	// Guard decides where connections may go.
	Guard *Guard

	// Egress holds what else there is to say about connections to upstreams.
	Egress EgressOptions

	// HandOver gives swapped requests to the next handler of the route in place
	// of the transport.
	HandOver bool

	// Limits bound what clients can make the proxy hold.
	Limits Limits

	// OneClient says that whoever reaches the proxy is the same client, whatever
	// its address.
	OneClient bool

	// Authenticate judges the proxy credentials of a request; nil lets everyone in.
	Authenticate func(r *http.Request, user, password string) bool

	// Log receives warnings, and Audit one line per request with tokens.
	Log, Audit *zap.Logger

	// Watch, if set, is told what Audit is. It is called while a request waits.
	Watch func(Record)

	// Stats counts; may be shared by several proxies.
	Stats *Stats

	once     sync.Once
	spooled  atomic.Int64 // bytes of bodies that wait in files
	live     liveTunnels
	clients  *clients
	forward  *httputil.ReverseProxy
	upstream *upstream
	inner    *innerServer

	hostsSeen *lru.Cache[string, struct{}] // host:port that unrestricted tokens went to
}

// Init makes what the fields describe. Serve calls it when nobody else has.
func (p *Proxy) Init() {
	p.once.Do(func() {
		p.Swap.setDefaults()
		if p.Log == nil {
			p.Log = zap.NewNop()
		}
		if p.Audit == nil {
			p.Audit = zap.NewNop()
		}
		if p.Stats == nil {
			p.Stats = new(Stats)
		}
		if p.Guard == nil {
			p.Guard = new(Guard)
		}
		p.Limits.setDefaults(p.Swap.MaxSpool, p.OneClient)
		p.clients = newClients(&p.Limits)
		p.hostsSeen, _ = lru.New[string, struct{}](maxHostsSeen) // fails for no size but 0
		p.upstream = newUpstream(p.Guard, p.Egress)
		p.forward = p.newForwarder()
		p.inner = newInnerServer(p)
	})
}

// Close ends idle tunnels and lets busy ones, and blind ones, whose traffic it
// cannot tell, finish for as long as ctx lasts.
func (p *Proxy) Close(ctx context.Context) error {
	p.Init()
	err := p.inner.shutdown(ctx, func() bool { return p.live.count() == 0 })
	p.live.drain(ctx)
	p.upstream.closeIdle()
	return err
}

// Serve handles one request.
//
// A CONNECT, an absolute-form request, a request from inside an intercepted tunnel
// and one of a [TransparentListener] are served; reenter is where the requests from inside a new tunnel go,
// which leads back here. Anything else is not for the proxy: served is false.
// next is where swapped requests go with HandOver, else nil will do. The error,
// if any, is a *Refusal that nobody has written yet.
func (p *Proxy) Serve(w http.ResponseWriter, r *http.Request, reenter http.Handler, next NextFunc) (served bool, err error) {
	p.Init()
	heap.Used()
	ex, from := exchangeFrom(r.Context()), originFrom(r.Context())
	dest := Destination{}
	switch {
	case ex != nil:
		dest, err = ex.dest, p.serveForward(w, r, ex.dest, ex, next)
	case from.transparent() && from.content == contentHTTP:
		dest, err = p.serveTransparent(w, r, from, next)
	case r.Method == http.MethodConnect:
		dest, err = p.serveConnect(w, r, reenter)
	case r.URL.Host != "":
		dest, err = p.serveAbsolute(w, r, next)
	default:
		return false, nil
	}
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		p.refused(r, dest, refusal)
	}
	return true, err
}

// NextFunc is the next handler of a route.
type NextFunc func(http.ResponseWriter, *http.Request) error

// serveAbsolute forwards a request in absolute form (RFC 9112, section 3.2.2),
// which is how clients ask a proxy for http:// URLs.
func (p *Proxy) serveAbsolute(w http.ResponseWriter, r *http.Request, next NextFunc) (Destination, error) {
	if refusal := p.checkCredentials(r); refusal != nil {
		return Destination{}, refusal
	}
	if r.URL.Scheme != "http" {
		return Destination{}, &Refusal{
			Status: http.StatusBadRequest, Rule: RuleAuthority,
			Reason: "only http:// URLs can be asked for in absolute form",
			Mend:   "let the client use CONNECT for https://, as clients do when HTTPS_PROXY is set",
		}
	}
	if ambiguousTarget(r.RequestURI) {
		return Destination{}, refuseAuthority(ambiguous)
	}
	if r.URL.User != nil {
		return Destination{}, refuseAuthority("user information is not allowed in the URL of a proxy request")
	}
	dest, err := parseDestination("http", r.URL.Host, 80)
	if err != nil {
		return dest, refuseAuthority(err.Error())
	}
	// Over HTTP/1 Go's server has put the URL's authority in the place of Host, as
	// RFC 9112 demands of a proxy; over HTTP/2 :authority is whatever came.
	if !dest.agrees(r.Host) || contradicted(r, dest) {
		return dest, &Refusal{
			Status: http.StatusMisdirectedRequest, Rule: RuleMisdirected,
			Reason: "the request is for " + dest.String() + ", but " + quoteName(r.Host) + " is in :authority or Host",
		}
	}
	if lengthLies(r) {
		return dest, errLength
	}
	return dest, p.serveForward(w, r, dest, nil, next)
}

// checkName judges what is known of dest before anything is dialled. Behind an
// upstream proxy nobody sees the address of a name, so the names that stand for a
// special one are judged by it.
func (p *Proxy) checkName(dest Destination) error {
	if _, err := p.Guard.CheckName(dest); err != nil {
		return err
	}
	if p.Egress.Upstream == nil {
		return nil
	}
	for _, known := range specialNames {
		if dest.Host == known.name || strings.HasSuffix(dest.Host, "."+known.name) {
			return p.Guard.checkAddr(dest, known.addr)
		}
	}
	return nil
}

func refuseAuthority(why string) *Refusal {
	return &Refusal{Status: http.StatusBadRequest, Rule: RuleAuthority, Reason: "malformed target: " + why}
}

// checkCredentials judges Proxy-Authorization where the proxy wants one.
func (p *Proxy) checkCredentials(r *http.Request) error {
	if p.Authenticate == nil || originFrom(r.Context()).needsNoCredentials() {
		return nil
	}
	user, password, ok := proxyBasicAuth(r)
	if ok && p.Authenticate(r, user, password) {
		return nil
	}
	return &Refusal{
		Status: http.StatusProxyAuthRequired, Rule: RuleAuth,
		Reason: "this proxy wants credentials",
		Mend:   "put them into the proxy URL: http://user:password@host:port",
	}
}
