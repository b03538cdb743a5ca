package handler

import (
	"context"
	"net"
	"net/http"
	"net/netip"

	"go.uber.org/zap"
)

// TransparentListener makes clients of the proxy out of connections that were
// led here on their way to somewhere else. To the server behind it
//
//   - TLS is a CONNECT for the name in the ClientHello, else for the name that the
//     name service gave the address, else for the address, at the port dialled;
//   - HTTP is itself, and [Proxy.Serve] takes its requests for Host, which must
//     agree with the address and the port dialled;
//   - anything else, and silence, is a CONNECT that is refused unless the
//     destination is tunnelled blindly.
//
// A server needs no more than to listen by it: the connection's local address
// tells the engine (http.LocalAddrContextKey). Transparent connections need no
// proxy credentials: their clients know of no proxy that could have asked.
type TransparentListener struct {
	net.Listener

	// Original tells the address that the client dialled, and whether it dialled
	// something else than the proxy. Connections that it did not dial elsewhere
	// pass as they are.
	Original func(net.Conn) (dialled netip.AddrPort, transparent bool, err error)

	// Name returns the name behind an address of the name service; may be nil.
	Name func(netip.Addr) (string, bool)

	// Trusted says that no connection needs credentials, since only who may use
	// the proxy reaches the listener.
	Trusted bool

	// From is the only address that connections are taken from; not valid for any.
	// It goes with Trusted where others could reach the listener.
	From netip.Addr

	// Log receives connections whose destination cannot be told; may be nil.
	Log *zap.Logger
}

// Accept never waits for a client to say something.
func (l *TransparentListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !l.admits(conn) {
			_ = conn.Close()
			continue
		}
		dialled, transparent, err := l.Original(conn)
		if err != nil {
			if l.Log != nil {
				l.Log.Warn("finding out where a connection was going", zap.Error(err))
			}
			_ = conn.Close()
			continue
		}
		o := &origin{Addr: conn.LocalAddr(), trusted: l.Trusted}
		switch {
		case transparent:
			o.dialled = dialled
			if l.Name != nil {
				o.name, _ = l.Name(dialled.Addr())
			}
			return &transparentConn{Conn: conn, origin: o}, nil
		case l.Trusted:
			return &trustedConn{conn, o}, nil
		}
		return conn, nil
	}
}

func (l *TransparentListener) admits(conn net.Conn) bool {
	if !l.From.IsValid() {
		return true
	}
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	return ok && remote.AddrPort().Addr().Unmap() == l.From
}

// origin is the local address of a connection from a TransparentListener, with
// what is known of the connection.
type origin struct {
	net.Addr
	trusted bool
	dialled netip.AddrPort // not valid where the client speaks to the proxy knowingly
	name    string         // of dialled, "" if it has none
	content content        // set before the server reads its first byte
}

// content is what a transparent connection turned out to carry.
type content int

const (
	contentUnknown content = iota
	contentTLS
	contentHTTP
	contentOther
	contentSilence // the client waits for the server to speak first
)

// originFrom returns nil for connections of other listeners.
func originFrom(ctx context.Context) *origin {
	o, _ := ctx.Value(http.LocalAddrContextKey).(*origin)
	return o
}

func (o *origin) transparent() bool { return o != nil && o.dialled.IsValid() }

// needsNoCredentials reports whether the way that a client came says enough.
func (o *origin) needsNoCredentials() bool { return o != nil && (o.trusted || o.transparent()) }

// host is the destination as far as the address tells.
func (o *origin) host() string {
	if o.name != "" {
		return o.name
	}
	return o.dialled.Addr().String()
}

// refusesContent says what is wrong with a CONNECT that stands for something that
// cannot be looked into.
func (o *origin) refusesContent(dest Destination) error {
	reason := ""
	switch {
	case !o.transparent():
	case o.content == contentOther:
		reason = "what was sent to " + dest.HostPort() + " is neither TLS nor HTTP"
	case o.content == contentSilence:
		reason = "a client of " + dest.HostPort() + " says nothing, so it is neither TLS nor HTTP"
	}
	if reason == "" {
		return nil
	}
	return &Refusal{
		Status: http.StatusBadRequest, Rule: RuleTunnel, Reason: reason,
		Mend: "if it shall pass without being looked into, name " + dest.HostPort() + " in `tunnel`",
	}
}

// serveTransparent serves a request of plain HTTP whose client takes us for the
// server it dialled.
func (p *Proxy) serveTransparent(w http.ResponseWriter, r *http.Request, o *origin, next NextFunc) (Destination, error) {
	dest, err := o.destination(r)
	if err != nil {
		return dest, err
	}
	return dest, p.serveForward(w, r, dest, nil, next)
}

// destination is Host's, if that agrees with what was dialled.
func (o *origin) destination(r *http.Request) (Destination, error) {
	misdirected := func(what string) error {
		return &Refusal{
			Status: http.StatusMisdirectedRequest, Rule: RuleMisdirected,
			Reason: "Host " + quoteName(r.Host) + " is not " + what + " that the connection was made to",
			Mend:   "use a URL with the host and port that are to receive the request",
		}
	}
	switch {
	case r.Method == http.MethodConnect:
		return Destination{}, &Refusal{
			Status: http.StatusBadRequest, Rule: RuleTunnel,
			Reason: "CONNECT is not served on a connection that was made to somebody else",
			Mend:   "use the proxy that HTTPS_PROXY names",
		}
	case r.URL.Scheme != "" && r.URL.Scheme != "http":
		return Destination{}, refuseAuthority("only http:// is asked for without TLS")
	case ambiguousTarget(r.RequestURI):
		return Destination{}, refuseAuthority(ambiguous)
	case r.URL.User != nil:
		return Destination{}, refuseAuthority("user information is not allowed in the URL of a proxy request")
	}
	dest, err := parseDestination("http", r.Host, 80)
	if err != nil {
		return dest, refuseAuthority(err.Error())
	}
	if dest.Port != o.dialled.Port() {
		return dest, misdirected("the port")
	}
	if o.name != "" && dest.Host != o.name {
		return dest, misdirected("the host, " + o.name + ",")
	}
	addr, err := netip.ParseAddr(dest.Host)
	if err == nil && o.name == "" && addr != o.dialled.Addr() {
		return dest, misdirected("the address")
	}
	return dest, nil
}

// trustedConn is a connection of a client that knows the proxy.
type trustedConn struct {
	net.Conn
	origin *origin
}

func (c *trustedConn) LocalAddr() net.Addr { return c.origin }

// CloseWrite is for half-closed tunnels.
func (c *trustedConn) CloseWrite() error { return closeWrite(c.Conn) }
