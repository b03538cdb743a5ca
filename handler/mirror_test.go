package handler

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestChunkedRequests keep what they mean, however a client writes its chunks.
func TestChunkedRequests(t *testing.T) {
	b := newBench(t, nil)
	token := b.token("api.starpod.test")
	for _, test := range []struct{ name, chunks, body, trailer string }{
		{"extensions", "3;a=b\r\nabc\r\n2; q=\"x;y\"\r\nde\r\n0;last\r\n\r\n", "abcde", ""},
		{"sizes in capitals and with zeros", "00A\r\n0123456789\r\n000\r\n\r\n", "0123456789", ""},
		{"a token over two chunks with extensions", fmt.Sprintf("%x;a\r\n%s\r\n%x;b\r\n%s\r\n0\r\n\r\n", 20, token[:20], len(token)-20, token[20:]), canary, ""},
		{"a trailer that was not announced", "1\r\nx\r\n0\r\nX-Sum: a\r\n\r\n", "x", "a"},
		{"a token in a trailer that was not announced", "1\r\nx\r\n0\r\nX-Sum: a" + token + "b\r\n\r\n", "x", "a" + canary + "b"},
		{"a byte at a time", strings.Repeat("1\r\nx\r\n", 500) + "0\r\n\r\n", strings.Repeat("x", 500), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			if response := b.send("POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n" + test.chunks); response.StatusCode != 200 {
				t.Fatalf("got status %d, want 200", response.StatusCode)
			}
			got := b.up.Last(t)
			if string(got.Body) != test.body || got.Trailer.Get("X-Sum") != test.trailer || !slices.Equal(got.TransferEncoding, []string{"chunked"}) {
				t.Errorf("upstream got %q with trailer %q in %v, want %q and %q in chunks", got.Body, got.Trailer, got.TransferEncoding, test.body, test.trailer)
			}
		})
	}
}

// TestPipelinedKinds: requests of every framing behind each other, sent before
// the first is answered.
func TestPipelinedKinds(t *testing.T) {
	b := newBench(t, nil)
	b.up.Handle("/", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		fmt.Fprintf(w, "%s %s %s", got.Method, got.Target, got.Body)
	})
	host := "Host: " + b.apiAuthority() + "\r\n"
	conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "http/1.1")
	go func() {
		_, _ = io.WriteString(conn, "GET /1 HTTP/1.1\r\n"+host+"\r\n"+
			"POST /2 HTTP/1.1\r\n"+host+"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"+
			"HEAD /3 HTTP/1.1\r\n"+host+"\r\n"+
			"PUT /4 HTTP/1.1\r\n"+host+"Content-Length: 3\r\n\r\nxyz"+
			"DELETE /5 HTTP/1.1\r\n"+host+"Content-Length: 0\r\nConnection: close\r\n\r\n")
	}()
	r := bufio.NewReader(conn)
	for _, want := range []string{"GET /1 ", "POST /2 abc", "", "PUT /4 xyz", "DELETE /5 "} {
		method := http.MethodGet
		if want == "" {
			method = http.MethodHead
		}
		response, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("instead of %q: %v", want, err)
		}
		if body, err := io.ReadAll(response.Body); err != nil || string(body) != want {
			t.Errorf("got %q (%v), want %q", body, err, want)
		}
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("behind Connection: close: got %q (%v), want the end", rest, err)
	}
}

// TestOldClients speak HTTP/1.0: no chunks for them, and a connection that ends
// unless they ask for it to stay.
func TestOldClients(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, test := range []struct{ name, fields, answer, want string }{
		{"a length", "", ok + "Content-Length: 2\r\n\r\nhi", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"},
		{"a length, kept alive", "Connection: keep-alive\r\n", ok + "Content-Length: 2\r\n\r\nhi", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi"},
		{"chunks", "", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n2\r\nho\r\n0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nhiho"},
		{"chunks, kept alive", "Connection: keep-alive\r\n", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nhi"},
		{"no length", "", ok + "\r\nhello", "HTTP/1.0 200 OK\r\n\r\nhello"},
		{"early hints are not for them", "", "HTTP/1.1 103 E\r\nLink: </s>\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil)
			heads := make(chan string, 2)
			authority := fmt.Sprintf("api.starpod.test:%d", b.rawUpstream(true, func(conn net.Conn) {
				head, err := readHead(bufio.NewReader(conn))
				if err == nil {
					heads <- head
					_, _ = io.WriteString(conn, test.answer)
				}
			}))
			conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
			rounds := 1
			if strings.Contains(test.want, "keep-alive") {
				rounds = 2
			}
			for range rounds {
				fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\n%s\r\n", authority, test.fields)
				got, err := readRaw(conn, "GET")
				if err != nil {
					t.Fatal(err)
				}
				if got, want := plainMessage(got), plainMessage(test.want); got != want {
					t.Errorf("client got %q\nwant       %q", got, want)
				}
				if got, want := <-heads, "GET / HTTP/1.1\r\nHost: "+authority+"\r\n\r\n"; got != want {
					t.Errorf("upstream got %q, want %q", got, want)
				}
			}
		})
	}
}

// TestEarlyStatus passes every informational answer on, in order, and with its
// own fields only.
func TestEarlyStatus(t *testing.T) {
	const answer = "HTTP/1.1 102 Processing\r\nX-Step: 1\r\n\r\n" +
		"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n" +
		"HTTP/1.1 103 Early Hints\r\nLink: </c>\r\n\r\n" +
		"HTTP/1.1 199 Odd\r\nX-Odd: 1\r\n\r\n" +
		"HTTP/1.1 200 OK\r\nX-Last: 1\r\nContent-Length: 2\r\n\r\nhi"
	b := newBench(t, nil)
	authority := fmt.Sprintf("api.starpod.test:%d", b.rawUpstream(true, answering(answer)))
	t.Run("h1", func(t *testing.T) {
		conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", authority)
		got, err := readRaw(conn, "GET")
		if err != nil {
			t.Fatal(err)
		}
		messages, wanted := strings.SplitAfter(got, "\r\n\r\n"), strings.SplitAfter(answer, "\r\n\r\n")
		if len(messages) != len(wanted) {
			t.Fatalf("got %q, want %q", messages, wanted)
		}
		for i, want := range wanted {
			if plainMessage(messages[i]) != plainMessage(want) {
				t.Errorf("message %d: got %q, want %q", i, messages[i], want)
			}
		}
	})
	t.Run("h2", func(t *testing.T) {
		var got []string
		r := b.request("GET", "https://"+authority+"/", "")
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				got = append(got, fmt.Sprint(code, h["X-Step"], h["Link"], h["X-Odd"]))
				return nil
			},
		}))
		response, body := b.do(b.client(true), r)
		want := []string{"102 [1] [] []", "103 [] [</a>; rel=preload </b>] []", "103 [] [</c>] []", "199 [] [] [1]"}
		if !slices.Equal(got, want) || body != "hi" || response.Header.Get("Link") != "" || response.Header.Get("X-Last") != "1" {
			t.Errorf("got %q then %v, want %q and then a header of its own", got, response.Header, want)
		}
	})
}

// replaceFront puts a server in the place of the bench's that shows each request
// before it is served.
func (b *bench) replaceFront(show func(*http.Request)) {
	b.front.Close()
	var front http.Handler
	front = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		show(r)
		if _, err := b.proxy.Serve(w, r, front, nil); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	b.front = httptest.NewServer(front)
}

// TestHalfClosingClient ends its half right behind the request, and wants its
// answer all the same.
func TestHalfClosingClient(t *testing.T) {
	for _, secure := range []bool{true, false} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			b := newBench(t, nil)
			gone, contexts := make(chan struct{}), make(chan context.Context, 1)
			b.replaceFront(func(r *http.Request) {
				if r.Method != http.MethodConnect {
					contexts <- r.Context()
				}
			})
			port := b.rawUpstream(secure, func(conn net.Conn) {
				request, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, request.Body)
				<-gone
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer")
			})
			authority := fmt.Sprintf("api.starpod.test:%d", port)
			conn, target := b.dialFront(), "http://"+authority+"/"
			if secure {
				conn, target = b.tunnel(authority, "api.starpod.test", "http/1.1"), "/"
			}
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 4\r\n\r\nbody", target, authority)
			if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			<-(<-contexts).Done() // the server has seen the end
			close(gone)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(response.Body); err != nil || string(body) != "answer" {
				t.Errorf("got status %d %q (%v), want the answer", response.StatusCode, body, err)
			}
		})
	}
}

// TestOptionsOfTheServerOverHTTP2 goes to the upstream too.
func TestOptionsOfTheServerOverHTTP2(t *testing.T) {
	b := newBench(t, nil)
	targets := make(chan string, 1)
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		targets <- fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, r.Proto)
	}))
	up.EnableHTTP2, up.Config.DisableGeneralOptionsHandler = true, true
	pki := testbench.NewPKI(t)
	b.proxy.Egress.Roots.AppendCertsFromPEM(pki.RootPEM)
	up.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Leaf(t)}}
	up.StartTLS()
	t.Cleanup(func() { up.CloseClientConnections(); up.Close() })
	r := b.request("OPTIONS", fmt.Sprintf("https://api.starpod.test:%d", up.Listener.Addr().(*net.TCPAddr).Port), "")
	r.URL.Opaque, r.URL.Path = "*", ""
	b.do(b.client(true), r)
	select {
	case got := <-targets:
		if want := "OPTIONS * HTTP/2.0"; got != want {
			t.Errorf("upstream got %q, want %q", got, want)
		}
	default:
		t.Error("upstream got nothing, want the request")
	}
}

// TestVersionsOffered: each client's version goes as far as the
// upstream goes along.
func TestVersionsOffered(t *testing.T) {
	for _, test := range []struct {
		name    string
		offers  []string
		h2      bool
		spoken  string
		through string
	}{
		{"HTTP/1 in, both offered", []string{"h2", "http/1.1"}, false, "HTTP/1.1", "HTTP/1.1"},
		{"HTTP/2 in, both offered", []string{"h2", "http/1.1"}, true, "HTTP/2.0", "HTTP/2.0"},
		{"HTTP/2 in, HTTP/1 offered", []string{"http/1.1"}, true, "HTTP/1.1", "HTTP/2.0"},
		{"HTTP/2 in, nothing offered", nil, true, "HTTP/1.1", "HTTP/2.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil)
			pki := testbench.NewPKI(t)
			b.proxy.Egress.Roots.AppendCertsFromPEM(pki.RootPEM)
			b.up = testbench.NewUpstreamWith(t, pki.Leaf(t), test.offers...)
			r := b.request("POST", b.up.URL("api.starpod.test")+"/", "body", "X-Key", b.token("api.starpod.test"))
			response, _ := b.do(b.client(test.h2), r)
			got := b.up.Last(t)
			if got.Proto != test.spoken || response.Proto != test.through || got.Header.Get("X-Key") != canary || string(got.Body) != "body" {
				t.Errorf("got %s upstream and %s downstream with %q, want %s and %s with the value", got.Proto, response.Proto, got.Header.Get("X-Key"), test.spoken, test.through)
			}
		})
	}
}
