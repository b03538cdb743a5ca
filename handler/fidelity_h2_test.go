package handler

import (
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestHTTP2Requests compares what an HTTP/2 client says with what an upstream
// that speaks HTTP/2 hears.
func TestHTTP2Requests(t *testing.T) {
	b := newBench(t, nil)
	client := b.client(true)
	for _, test := range []struct {
		name, method, target, body string
		header                     http.Header
	}{
		{"GET", "GET", "/", "", nil},
		{"escaped slash and parameters", "GET", "/a%2Fb;c=d?x=1&a=2&a=1&b=%zz", "", nil},
		{"raw bytes", "GET", "/\xc3\xbc\"|^", "", nil},
		{"empty query", "GET", "/?", "", nil},
		{"custom method", "frobnicate", "/a", "", nil},
		{"body", "PUT", "/a", "hello", nil},
		{"names and duplicates", "GET", "/", "", http.Header{"Access_token": {"1"}, "X.dotted": {"2"}, "X-A": {"1", "2", "1"}, "X-Empty": {""}}},
		{"forwarding fields", "GET", "/", "", http.Header{"X-Forwarded-For": {"1", "2"}, "Forwarded": {"for=x"}, "Via": {"2 me"}}},
		{"trailers accepted", "GET", "/", "", http.Header{"Te": {"trailers"}, "Accept-Encoding": {"br"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			r := b.request(test.method, b.up.URL("api.starpod.test"), test.body)
			path, query, found := strings.Cut(test.target, "?")
			r.URL = &url.URL{Scheme: "https", Host: b.apiAuthority(), Opaque: path, RawQuery: query, ForceQuery: found}
			r.Header = http.Header{"User-Agent": {""}}
			for name, values := range test.header {
				r.Header[name] = values
			}
			response, _ := b.do(client, r)
			got := b.up.Last(t)
			delete(got.Header, "Content-Length")
			if got.Proto != "HTTP/2.0" || response.Proto != "HTTP/2.0" {
				t.Errorf("got %s upstream and %s downstream, want HTTP/2.0", got.Proto, response.Proto)
			}
			if got.Method != test.method || got.Target != test.target || string(got.Body) != test.body || got.Host != b.apiAuthority() {
				t.Errorf("got %s %q %q at %s, want %s %q %q", got.Method, got.Target, got.Body, got.Host, test.method, test.target, test.body)
			}
			want := http.Header{}
			for name, values := range test.header {
				want[textproto.CanonicalMIMEHeaderKey(name)] = values
			}
			if len(got.Header) != len(want) {
				t.Errorf("got fields %v, want %v", got.Header, want)
			}
			for name, values := range want {
				if !slices.Equal(got.Header[name], values) {
					t.Errorf("%s: got %q, want %q", name, got.Header[name], values)
				}
			}
		})
	}
}

func TestHTTP2Responses(t *testing.T) {
	b := newBench(t, nil)
	b.up.Handle("/cookies", testbench.Cookies("b=1", "a=2"))
	b.up.Handle("/204", testbench.Status(204, ""))
	b.up.Handle("/304", testbench.Status(304, ""))
	b.up.Handle("/307", testbench.Redirect(307, "https://evil.starpod.test/"))
	b.up.Handle("/trailers", testbench.Trailers("body", map[string]string{"X-T": "1"}))
	b.up.Handle("/big", testbench.Big(3_000_000))
	client := b.client(true)
	for _, test := range []struct {
		path   string
		status int
		check  func(*http.Response, string) bool
	}{
		{"/cookies", 200, func(r *http.Response, _ string) bool {
			return slices.Equal(r.Header["Set-Cookie"], []string{"b=1", "a=2"})
		}},
		{"/204", 204, func(r *http.Response, body string) bool { return body == "" }},
		{"/304", 304, func(r *http.Response, body string) bool { return body == "" }},
		{"/307", 307, func(r *http.Response, _ string) bool {
			return r.Header.Get("Location") == "https://evil.starpod.test/"
		}},
		{"/trailers", 200, func(r *http.Response, body string) bool { return body == "body" && r.Trailer.Get("X-T") == "1" }},
		{"/big", 200, func(r *http.Response, body string) bool {
			return r.ContentLength == 3_000_000 && len(body) == 3_000_000
		}},
	} {
		t.Run(test.path, func(t *testing.T) {
			response, body := b.do(client, b.request("GET", b.up.URL("api.starpod.test")+test.path, ""))
			if response.StatusCode != test.status || !test.check(response, body) {
				t.Errorf("got %d %v %v and %d bytes, want %d", response.StatusCode, response.Header, response.Trailer, len(body), test.status)
			}
		})
	}
}

// TestHTTP2FallsBack to HTTP/1 where the upstream speaks nothing else.
func TestHTTP2FallsBack(t *testing.T) {
	b := newBench(t, nil)
	port := b.rawUpstream(true, answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"))
	response, body := b.do(b.client(true), b.request("GET", fmt.Sprintf("https://api.starpod.test:%d/", port), ""))
	if response.Proto != "HTTP/2.0" || body != "hi" {
		t.Errorf("got %s %q, want HTTP/2.0 and the body", response.Proto, body)
	}
}

func TestEarlyHintsOverHTTP2(t *testing.T) {
	b := newBench(t, nil)
	b.up.Handle("/", testbench.EarlyHints("</s>"))
	var hints []int
	r := b.request("GET", b.up.URL("api.starpod.test")+"/", "")
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { hints = append(hints, code); return nil },
	}))
	if response, _ := b.do(b.client(true), r); response.StatusCode != 200 || !slices.Equal(hints, []int{103}) {
		t.Errorf("got %v then %d, want [103] then 200", hints, response.StatusCode)
	}
}
