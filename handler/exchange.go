package handler

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/starpod/caddy-starpod/tokens"
	"golang.org/x/net/http/httpguts"
)

// exchange is what is known of a request from inside a tunnel before Caddy has
// seen it. It travels in the request's context.
type exchange struct {
	dest Destination

	// client is the name of who opened the tunnel.
	client string

	// original is the request as it was read from the tunnel. Trailers that the
	// client did not announce appear on it and on no copy.
	original *http.Request

	// host is Host or :authority as the client spelled it.
	host string

	// dropped are the header fields that Caddy's server removes from every
	// request because their names hold "_" or ".". Inside a tunnel they are
	// none of Caddy's business and are put back.
	dropped http.Header

	outcome Outcome
}

type exchangeKey struct{}

func exchangeFrom(ctx context.Context) *exchange {
	ex, _ := ctx.Value(exchangeKey{}).(*exchange)
	return ex
}

// newExchange checks a request from inside a tunnel against the destination of
// the tunnel.
func newExchange(dest Destination, client string, r *http.Request) (*exchange, error) {
	misdirected := func(what, name string) error {
		return &Refusal{
			Status: http.StatusMisdirectedRequest, Rule: RuleMisdirected,
			Reason: what + " " + quoteName(name) + " is not the destination of this tunnel, " + dest.String(),
			Mend:   "open a tunnel (CONNECT) for each host",
		}
	}
	switch {
	case r.Method == http.MethodConnect:
		return nil, &Refusal{Status: http.StatusBadRequest, Rule: RuleTunnel, Reason: "CONNECT inside a tunnel is not served"}
	case !httpguts.ValidHeaderFieldName(r.Method): // a token as well, which HTTP/2's server does not check
		return nil, refuseAuthority("the method is not a token")
	case !sniAgrees(r.TLS.ServerName, dest):
		return nil, misdirected("the TLS server name", r.TLS.ServerName)
	case r.URL.Scheme != "" && r.URL.Scheme != "https":
		return nil, &Refusal{Status: http.StatusBadRequest, Rule: RuleTunnel, Reason: "only https:// is served inside a tunnel"}
	case ambiguousTarget(r.RequestURI):
		return nil, refuseAuthority(ambiguous)
	case r.URL.User != nil:
		return nil, refuseAuthority("user information is not allowed in the URL of a proxy request")
	case r.URL.Host != "" && !dest.agrees(r.URL.Host):
		return nil, misdirected("the URL's host", r.URL.Host)
	case !dest.agrees(r.Host):
		return nil, misdirected("Host", r.Host)
	case contradicted(r, dest):
		return nil, misdirected("the field Host", strings.Join(r.Header["Host"], ", "))
	case lengthLies(r):
		return nil, errLength
	}
	return &exchange{dest: dest, client: client, original: r, host: r.Host, dropped: dottedHeaders(r.Header)}, nil
}

var errLength = &Refusal{Status: http.StatusBadRequest, Rule: RuleBody, Reason: "Content-Length is not the length of the body"}

// contradicted reports whether a request has a field Host that names somebody
// else. net/http leaves one that came beside :authority in the header of HTTP/2;
// of HTTP/1 it leaves none, and puts the authority of the target in its place, as
// RFC 9112, section 3.2.2, demands.
func contradicted(r *http.Request, dest Destination) bool {
	return slices.ContainsFunc(r.Header["Host"], func(name string) bool { return !dest.agrees(name) })
}

// lengthLies reports whether the Content-Length of a request over HTTP/2 is
// malformed, or stated of a body that there is not (RFC 9113, section 8.1.1).
// net/http takes either for a length of 0.
func lengthLies(r *http.Request) bool {
	stated := r.Header["Content-Length"]
	if r.ProtoMajor < 2 || len(stated) == 0 {
		return false
	}
	length, err := strconv.ParseUint(stated[0], 10, 63)
	return len(stated) > 1 || err != nil || int64(length) != r.ContentLength
}

// sniAgrees reports whether a server name is the destination's host. Clients
// send none for an address.
func sniAgrees(sni string, dest Destination) bool {
	if sni == "" {
		return true
	}
	host, err := tokens.CanonicalHost(sni)
	return err == nil && host == dest.Host
}

const ambiguous = "a request target has no white space, no control characters and no fragment"

// ambiguousTarget reports whether servers could disagree about where the target
// ends (RFC 9112, section 3.2): they cut it at a space or a "#", and then the
// path that a token was checked against is not the one that is served.
func ambiguousTarget(target string) bool {
	return strings.ContainsFunc(target, func(c rune) bool { return c <= ' ' || c == '#' || c == 0x7f })
}

// quoteName makes a hostile name fit for a message.
func quoteName(name string) string {
	if len(name) > 100 {
		name = name[:100] + "…"
	}
	return `"` + strings.Map(func(c rune) rune {
		if c < ' ' || c == '"' || c == 0x7f {
			return '?'
		}
		return c
	}, name) + `"`
}

// dottedHeaders returns the fields whose names hold "_" or ".", nil if none.
func dottedHeaders(h http.Header) http.Header {
	var found http.Header
	for name, values := range h {
		if strings.ContainsAny(name, "_.") {
			if found == nil {
				found = http.Header{}
			}
			found[name] = values
		}
	}
	return found
}

// rawTarget returns path and query of the request line byte for byte, unless a
// handler has rewritten the URL, in which case the rewritten one counts.
func rawTarget(r *http.Request) (path, query string, hasQuery bool) {
	target := r.RequestURI
	if r.URL.Host != "" {
		// Absolute form: what follows the authority.
		if i := strings.Index(target, "://"); i >= 0 {
			rest := target[i+3:]
			switch j := strings.IndexAny(rest, "/?"); {
			case j >= 0:
				target = rest[j:]
			case r.Method == http.MethodOptions:
				return "*", "", false // RFC 9112, section 3.2.4
			default:
				target = "/"
			}
		}
		if strings.HasPrefix(target, "?") {
			target = "/" + target
		}
	}
	path, query, hasQuery = strings.Cut(target, "?")
	if untouched(r.URL, path, query) {
		return path, query, hasQuery
	}
	return r.URL.EscapedPath(), r.URL.RawQuery, r.URL.RawQuery != "" || r.URL.ForceQuery
}

// untouched reports whether u still says what the request line said.
func untouched(u *url.URL, path, query string) bool {
	if u.RawQuery != query {
		return false
	}
	if u.Path == path || u.RawPath == path {
		return true
	}
	plain, err := url.PathUnescape(path)
	return err == nil && (plain == u.Path || u.Path == "" && path == "/")
}
