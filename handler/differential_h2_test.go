package handler

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// heard is a message of HTTP/2 as its receiver's library gives it.
type heard struct {
	Proto, Line, Host string // Line is method and target, or the status
	Header, Trailer   http.Header
	Length            int64
	Body              string
}

// TestDifferentialHTTP2 is TestDifferential for clients and servers that speak
// HTTP/2, with fields in place of bytes.
func TestDifferentialHTTP2(t *testing.T) {
	source := newSource(t)
	var respond http.HandlerFunc
	var last heard
	pki := testbench.NewPKI(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("the server got a body that breaks off: %v", err)
		}
		last = heard{r.Proto, r.Method + " " + r.RequestURI, r.Host, r.Header, r.Trailer, r.ContentLength, string(body)}
		respond(w, r)
	}))
	server.EnableHTTP2 = true
	server.Config.DisableGeneralOptionsHandler = true
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Leaf(t)}}
	server.StartTLS()
	t.Cleanup(server.Close)
	b := newBench(t, func(p *Proxy) { p.Swap.BodyBuffer, p.Egress.Roots = randomBuffer, pki.Pool() })
	conn, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{RootCAs: pki.Pool(), ServerName: "api.starpod.test", NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	direct, through := inTunnel(t, conn, true), b.client(true)
	direct.CheckRedirect = through.CheckRedirect
	_, port, _ := strings.Cut(server.Listener.Addr().String(), ":")
	for round := 0; round < count(150, 400) && !t.Failed(); round++ {
		last = heard{}
		maker := &requestMaker{choices: source, tb: t}
		r := maker.request()
		respond = maker.handlerFunc()
		answered := b.hear(direct, r.http(t, port, func(t *twin) string { return t.want.String() }))
		want := last
		last = heard{}
		answer := b.hear(through, r.http(t, port, func(t *twin) string { return t.sent.String() }))
		got := last
		if _, asks := want.Header["Accept-Encoding"]; asks && r.hidden {
			want.Header.Set("Accept-Encoding", "identity") // as in acceptedRequest
		}
		if r.coding != nil && r.body.sent.String() != r.body.want.String() {
			for _, side := range []*heard{&got, &want} {
				side.Body, side.Length = r.coding.decoded(t, side.Body), 0
				side.Header.Del("Content-Length")
			}
		}
		if want.Line == "" {
			t.Fatalf("round %d: nothing arrived straight, and the answer is %s", round, answered.Line)
		}
		if got, want := fmt.Sprintf("%#v", got), fmt.Sprintf("%#v", want); got != want {
			t.Errorf("round %d: the server got another request\n%s", round, difference(got, want))
		}
		if got, want := fmt.Sprintf("%#v", answer), fmt.Sprintf("%#v", answered); got != want {
			t.Errorf("round %d: the client got another answer\n%s", round, difference(got, want))
		}
	}
}

// hear sends a request and returns the answer.
func (b *bench) hear(client *http.Client, r *http.Request) heard {
	b.t.Helper()
	response, body := b.do(client, r)
	if response.ProtoMajor != 2 {
		b.t.Errorf("got an answer in %s, want HTTP/2", response.Proto)
	}
	return heard{response.Proto, response.Status, "", response.Header, response.Trailer, response.ContentLength, body}
}

// http makes one version of the request for net/http's client.
func (r *randomRequest) http(tb testing.TB, port string, text func(*twin) string) *http.Request {
	path, query, asks := strings.Cut(text(&r.target), "?")
	if strings.HasPrefix(path, "//") {
		path = "/" + strings.TrimLeft(path, "/") // the client would take it for an authority
	}
	out := &http.Request{
		Method: r.method, Header: http.Header{"User-Agent": {""}},
		URL: &url.URL{Scheme: "https", Host: "api.starpod.test:" + port, Opaque: path, RawQuery: query, ForceQuery: asks},
	}
	for _, field := range r.fields {
		name, value, _ := strings.Cut(text(field), ":")
		if key := http.CanonicalHeaderKey(name); key == "User-Agent" || key == "Te" { // Go's server refuses a second
			out.Header.Set(name, strings.Trim(value, " \t"))
		} else {
			out.Header.Add(name, strings.Trim(value, " \t"))
		}
	}
	if r.body == nil {
		return out
	}
	body := r.coding.coded(tb, text(r.body))
	out.Body, out.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	if r.chunked {
		out.ContentLength = -1
	}
	for _, trailer := range r.trailers {
		if out.Trailer == nil {
			out.Trailer = http.Header{}
		}
		name, value, _ := strings.Cut(text(trailer), ":")
		out.Trailer.Add(name, strings.Trim(value, " \t"))
	}
	return out
}

// handlerFunc makes a random answer, the same each time.
func (m *requestMaker) handlerFunc() http.HandlerFunc {
	status := pick(m, 200, 200, 201, 204, 299, 302, 304, 404, 500)
	var fields [][2]string
	for range m.IntN(6) {
		fields = append(fields, pick(m, [2]string{"Server", "x"}, [2]string{"Set-Cookie", "a=1"}, [2]string{"Set-Cookie", "b=2"}, [2]string{"X_under.dot", "1"},
			[2]string{"Content-Type", "text/html"}, [2]string{"Location", "https://evil.test/?a=%2f#b"}, [2]string{"Alt-Svc", `h3=":443"`}, [2]string{"X-Empty", ""},
			[2]string{"X-Long", strings.Repeat("y", 5000)}, [2]string{"Pragma", "no-cache"}))
	}
	body := strings.Repeat("answer ", pick(m, 0, 1, 10, 1000, 20_000))
	sized, trailer := oneIn(m, 2), oneIn(m, 4)
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["Date"] = nil
		for _, field := range fields {
			h.Add(field[0], field[1])
		}
		if _, typed := h["Content-Type"]; !typed {
			h["Content-Type"] = nil
		}
		if status == 204 || status == 304 {
			w.WriteHeader(status)
			return
		}
		if sized {
			h.Set("Content-Length", strconv.Itoa(len(body)))
		} else if trailer {
			h.Set("Trailer", "X-After")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		if trailer && !sized {
			h.Set("X-After", "1")
		}
	}
}
