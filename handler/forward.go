package handler

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starpod/caddy-starpod/tokens"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"
)

// forwarding is the state of one request on its way out. Real values are in it
// only between RoundTrip and the end of the request, and nothing prints it.
type forwarding struct {
	proxy    *Proxy
	dest     Destination
	in       *http.Request // as it came through Caddy; never altered
	original *http.Request // as it was read, see exchange; its trailers are complete
	holder   *client       // who the request counts for
	decoding bool          // it has its turn to decode
	host     string        // Host as the client spelled it
	path     string        // what globs of tokens are held against, escaped
	dropped  http.Header   // what Caddy's server removed, see exchange
	keys     *tokens.Keyring
	started  time.Time
	status   int
	err      error    // what the transport said, for the answer
	client   net.Conn // once the protocol is switched

	mu     sync.Mutex
	tokens []foundToken
	// credentials are the Basic credentials that were written anew, in base64.
	credentials []string
	masked      maskCache
	hidden      atomic.Int64 // values that were masked in the answer
	result      tokens.Result
	passing     bool     // the answer is under way and can no longer be masked
	cleanup     []func() // what to let go of at the end
	unscanned   string   // why the body was not looked into, "" if it was
}

// foundToken is one token and the place it was found in.
type foundToken struct {
	tokens.Token
	place Place
}

type forwardingKey struct{}

// IsForwarded reports whether r is of a client of the proxy, on its way to another
// host by `egress next`.
func IsForwarded(r *http.Request) bool { return forwardingFrom(r.Context()) != nil }

func forwardingFrom(ctx context.Context) *forwarding {
	f, _ := ctx.Value(forwardingKey{}).(*forwarding)
	return f
}

// serveForward carries one request to dest and its response back. ex is nil for
// a request that came in absolute form.
func (p *Proxy) serveForward(w http.ResponseWriter, r *http.Request, dest Destination, ex *exchange, next NextFunc) error {
	if err := p.checkName(dest); err != nil {
		return err
	}
	name := ""
	if ex != nil {
		name = ex.client
	} else {
		name = p.clientOf(r)
	}
	holder, done, refusal := p.clients.take(name, kindRequest)
	if refusal != nil {
		return refusal
	}
	defer done()
	keys, err := p.Keys()
	if err != nil {
		return err
	}
	f := &forwarding{proxy: p, dest: dest, in: r, original: r, holder: holder, host: r.Host, path: r.URL.EscapedPath(), keys: keys, started: time.Now()}
	if ex != nil {
		f.original, f.host, f.dropped = ex.original, ex.host, ex.dropped
	}
	if o := outcomeFrom(r.Context()); o != nil {
		o.Destination = dest
	}
	if err := f.checkHeader(); err != nil {
		return err
	}
	defer p.finish(f) // also when the response breaks off and the handler panics
	ctx, cancel := patientContext(r)
	defer cancel()
	r = r.WithContext(context.WithValue(ctx, forwardingKey{}, f))
	mw := &mirrorWriter{ResponseWriter: w, f: f}
	if t, ok := r.Context().Value(tunnelKey{}).(*tunnel); ok && r.ProtoMajor == 1 {
		mw.batcher = t.batcher
	}
	if p.HandOver {
		return f.handOver(mw, r, next)
	}
	withoutOwnHeaders(w.Header())
	if r.ProtoMajor == 1 && r.ContentLength != 0 { // Caddy puts a body around none as well
		mw.body = &clientBody{ReadCloser: r.Body, left: r.ContentLength, batcher: mw.batcher}
		r.Body = mw.body
	}
	p.forward.ServeHTTP(mw, r)
	if mw.batcher != nil {
		mw.batcher.ahead.Store(false) // also where the body was not read to its end
	}
	mw.leaveBody()
	if f.err != nil {
		f.awaitDeadline()
		return f.refusal(f.err)
	}
	return nil
}

// handOver swaps and gives the request to the next handler of the route.
func (f *forwarding) handOver(w http.ResponseWriter, r *http.Request, next NextFunc) error {
	path, query, hasQuery := rawTarget(r)
	out := r.Clone(r.Context())
	out.URL = f.targetURL(path, query, hasQuery)
	out.Host = f.host
	for name, values := range f.dropped {
		out.Header[name] = values
	}
	out.Header.Del("Proxy-Authorization") // was for this proxy
	out, err := f.swap(out)
	if err != nil {
		return f.refusal(err)
	}
	if _, ok := out.Header["Content-Length"]; ok {
		// Some handlers read the field.
		out.Header.Set("Content-Length", strconv.FormatInt(out.ContentLength, 10))
	}
	// Handlers of Caddy read Path, not Opaque.
	u, err := url.ParseRequestURI(out.URL.RequestURI())
	if err != nil {
		return refuseAuthority("the path cannot be read")
	}
	f.note(f.result)
	u.Scheme, u.Host = f.dest.Scheme, out.URL.Host
	out.URL, out.RequestURI = u, u.RequestURI()
	if len(f.tokens) > 0 {
		defer f.hidePanic()
	}
	return next(w, out)
}

// hidePanic keeps what a handler said that has seen values out of the log, where
// net/http would write it.
func (f *forwarding) hidePanic() {
	cause := recover()
	if cause == nil {
		return
	}
	if cause != http.ErrAbortHandler {
		f.proxy.Log.Error("the handler behind egress next panicked; what it said is not shown, for it had seen values",
			zap.String("type", fmt.Sprintf("%T", cause)), zap.Stack("stack"))
	}
	panic(http.ErrAbortHandler)
}

// refusal turns an error of swapping or sending into the answer.
func (f *forwarding) refusal(err error) error {
	if f.clientGone(err) {
		// The status is for the access log alone.
		return &Refusal{Status: 499, Rule: RuleBody, Reason: "the client went away", Err: context.Canceled}
	}
	return f.scrub(refuseUpstream(f.dest, err))
}

// scrub drops the cause of a refusal where a value was put into the request:
// errors of libraries may quote what they choke on, in whatever spelling.
func (f *forwarding) scrub(err error) error {
	refusal, ok := err.(*Refusal)
	if !ok || refusal.Err == nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.result.Replaced > 0 || len(f.tokens) > 0 {
		refusal.Err = nil
	}
	return refusal
}

// targetURL makes the URL of the outgoing request out of the raw target. The
// path travels as Opaque, the only form that net/url does not encode anew.
func (f *forwarding) targetURL(path, query string, hasQuery bool) *url.URL {
	u := &url.URL{Scheme: f.dest.Scheme, Host: f.dest.HostPort(), RawQuery: query, ForceQuery: hasQuery && query == ""}
	f.setPath(u, path)
	return u
}

func (f *forwarding) setPath(u *url.URL, path string) {
	switch {
	case f.dest.Scheme == "http" && f.proxy.Egress.Upstream != nil:
		u.Opaque = "//" + f.host + path // absolute form, as a proxy is asked
	case strings.HasPrefix(path, "//"):
		// An Opaque like this would be taken for an authority. What has to be
		// escaped for that is escaped behind the swap.
		u.RawPath = path
	default:
		u.Opaque = path
	}
}

// setRawPath makes net/url write the path as it is, but for the characters that
// are not allowed in a URL: with one of them it would escape all of it anew.
func setRawPath(u *url.URL, path string) {
	var escaped strings.Builder
	for i := range len(path) {
		if c := path[i]; c >= 0x80 || strings.IndexByte("\"<>\\^`{|}", c) >= 0 {
			fmt.Fprintf(&escaped, "%%%02X", c)
		} else {
			escaped.WriteByte(c)
		}
	}
	u.Opaque, u.RawPath = "", escaped.String()
	u.Path, _ = url.PathUnescape(u.RawPath)
}

// withoutOwnHeaders removes what Caddy's server says of itself: the response is
// the destination's.
func withoutOwnHeaders(h http.Header) {
	if v := h["Server"]; len(v) == 1 && v[0] == "Caddy" {
		delete(h, "Server")
	}
	delete(h, "Alt-Svc")
}

// mirrorWriter keeps net/http from adding to a response what the destination
// did not send: nil entries switch its Date and Content-Type off.
type mirrorWriter struct {
	http.ResponseWriter
	f      *forwarding
	body   *clientBody // nil where the answer cannot begin before its end
	duplex bool        // it has begun before

	batcher *batcher // of an HTTP/1 client in a tunnel, else nil
}

func (w *mirrorWriter) WriteHeader(status int) {
	if status < 200 && !w.f.in.ProtoAtLeast(1, 1) {
		return // clients of HTTP/1.0 know no early answers (RFC 9110, section 15.2)
	}
	h := w.Header()
	for _, name := range [...]string{"Date", "Content-Type"} {
		if _, ok := h[name]; !ok {
			h[name] = nil
		}
	}
	if m := w.f.currentMask(); m != nil && status < 200 {
		m.header(h) // the final answer has been masked; an early one comes another way
	}
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.f.status = status
		w.openEnd()
	}
	if status >= 200 && w.f.proxy.inner.leaving.Load() {
		h.Set("Connection", "close") // HTTP/2: GOAWAY
	}
	w.ResponseWriter.WriteHeader(status)
	if _, sized := h["Content-Length"]; !sized && status >= 200 && w.f.in.ProtoMajor == 1 && w.f.in.Method != http.MethodHead {
		// Else net/http would give a length to a body that turns out to be empty.
		_ = http.NewResponseController(w.ResponseWriter).Flush()
	}
}

// Write writes to the client. The records of a long piece leave together.
func (w *mirrorWriter) Write(p []byte) (int, error) {
	if w.batcher != nil && len(p) > tlsRecord {
		return w.batcher.write(w.ResponseWriter, p)
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *mirrorWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// connectionNamed reports whether Connection lists the field, which makes it
// one for this hop only (RFC 9110, section 7.6.1).
func connectionNamed(h http.Header, name string) bool {
	return httpguts.HeaderValuesContainsToken(h["Connection"], name)
}
