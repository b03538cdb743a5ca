package testbench

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"
)

// exchange sends bytes to an address and returns what comes back until the
// server closes.
func exchange(t *testing.T, port int, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	return string(answer)
}

func TestUpstreamKeepsTheBytesOfEachRequest(t *testing.T) {
	upstream := NewUpstream(t, NewPKI(t))
	requests := []string{
		"POST /a%2Fb;c?z=1&a=%20&z=2 HTTP/1.1\r\nhOsT: x\r\nx_under.score:  v \r\nContent-Length: 3\r\n\r\nabc",
		"POST /chunked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\nX-T: end\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", upstream.PlainPort()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for i, request := range requests {
		io.WriteString(conn, request)
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		if got := string(upstream.Last(t).Raw); got != request {
			t.Errorf("request %d: got %q, want %q", i, got, request)
		}
	}
	got := upstream.Requests()
	if got[0].Target != "/a%2Fb;c?z=1&a=%20&z=2" || got[0].Path != "/a%2Fb;c" || got[0].RawQuery != "z=1&a=%20&z=2" {
		t.Errorf("target: got %q, %q, %q", got[0].Target, got[0].Path, got[0].RawQuery)
	}
	if string(got[1].Body) != "hello" || got[1].Trailer.Get("X-T") != "end" || got[1].ContentLength != -1 {
		t.Errorf("chunked: got %+v", got[1])
	}
	if all := upstream.Connections(); len(all) != 1 || string(all[0]) != strings.Join(requests, "") {
		t.Errorf("connections: got %q", all)
	}
}

func TestUpstreamKeepsWhatIsNoRequest(t *testing.T) {
	upstream := NewUpstream(t, NewPKI(t))
	answer := exchange(t, upstream.PlainPort(), "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nabc")
	if !strings.HasPrefix(answer, "HTTP/1.1 400 ") {
		t.Errorf("answer: got %q, want a 400", answer)
	}
	if !upstream.Saw("Content-Length: 2") || len(upstream.Requests()) != 0 {
		t.Errorf("got %q and requests %v", upstream.Connections(), upstream.Requests())
	}
}

func TestUpstreamSpeaksWhatTheClientSpeaks(t *testing.T) {
	pki := NewPKI(t)
	upstream := NewUpstream(t, pki)
	h1 := pki.Client(t)
	h1.Transport.(*http.Transport).ForceAttemptHTTP2 = false
	for _, test := range []struct {
		name, url, proto, sni string
		client                *http.Client
	}{
		{"h2 over TLS", upstream.URL(APIHost), "HTTP/2.0", APIHost, pki.Client(t)},
		{"h1 over TLS", upstream.URL(APIHost), "HTTP/1.1", APIHost, h1},
		{"plain h1", upstream.PlainURL(EvilHost), "HTTP/1.1", "", pki.Client(t)},
	} {
		t.Run(test.name, func(t *testing.T) {
			upstream.Forget()
			resp, err := test.client.Post(test.url+"/p?q=1", "text/plain", strings.NewReader("needle"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got := upstream.Last(t)
			if resp.Proto != test.proto || got.Proto != test.proto || got.ServerName != test.sni {
				t.Errorf("got %s, %s, SNI %q; want %s, SNI %q", resp.Proto, got.Proto, got.ServerName, test.proto, test.sni)
			}
			if got.Target != "/p?q=1" || string(got.Body) != "needle" || !upstream.Saw("needle") || upstream.Saw("nothing") {
				t.Errorf("got %+v", got)
			}
			if (got.Raw != nil) != (test.proto == "HTTP/1.1") || upstream.Received() == 0 {
				t.Errorf("raw: got %q", got.Raw)
			}
		})
	}
}

func TestUpstreamCertificatesNobodyShouldAccept(t *testing.T) {
	pki := NewPKI(t)
	for _, test := range []struct {
		name, want string
		leaf       tls.Certificate
	}{
		{"untrusted", "unknown authority", NewPKI(t).Leaf(t)},
		{"expired", "expired", pki.Expired(t)},
		{"wrong name", "not " + APIHost, pki.WrongName(t)},
	} {
		t.Run(test.name, func(t *testing.T) {
			upstream := NewUpstreamWith(t, test.leaf, "h2", "http/1.1")
			_, err := pki.Client(t).Get(upstream.URL(APIHost))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error: got %v, want one with %q", err, test.want)
			}
			Await(t, 5*time.Second, func() error {
				if len(upstream.HandshakeErrors()) == 0 {
					return fmt.Errorf("handshake errors: got none, want one")
				}
				return nil
			})
			if upstream.Received() != 0 {
				t.Errorf("received: got %q, want nothing", upstream.Connections())
			}
		})
	}
}

func TestUpstreamHashesBodiesLargerThanItKeeps(t *testing.T) {
	pki := NewPKI(t)
	upstream := NewUpstream(t, pki)
	const size = 3*keepBytes + 1
	hash := sha256.New()
	resp, err := pki.Client(t).Post(upstream.URL(APIHost), "", io.TeeReader(io.LimitReader(Alphabet(), size), hash))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got := upstream.Last(t)
	if want := hex.EncodeToString(hash.Sum(nil)); got.BodySHA256 != want || got.BodySize != size || len(got.Body) != keepBytes {
		t.Errorf("got %d bytes (%d kept), hash %s; want %d bytes, hash %s", got.BodySize, len(got.Body), got.BodySHA256, size, want)
	}
}

func TestUpstreamSeesAClientThatDiesInMidBody(t *testing.T) {
	upstream := NewUpstream(t, NewPKI(t))
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", upstream.PlainPort()))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
	conn.Close()
	Await(t, 5*time.Second, func() error {
		if len(upstream.Requests()) == 0 {
			return fmt.Errorf("requests: got none, want one")
		}
		return nil
	})
	if got := upstream.Last(t); got.BodyErr == nil || got.BodySize != 3 {
		t.Errorf("got %d bytes and %v, want 3 and an error", got.BodySize, got.BodyErr)
	}
}

func TestUpstreamAnswers(t *testing.T) {
	pki := NewPKI(t)
	upstream := NewUpstream(t, pki)
	upstream.Handle("/echo", Echo)
	upstream.Handle("/head", EchoHead)
	upstream.Handle("/204", Status(http.StatusNoContent, ""))
	upstream.Handle("/304", Status(http.StatusNotModified, ""))
	upstream.Handle("/302", Redirect(http.StatusFound, "/elsewhere"))
	upstream.Handle("/cookies", Cookies("a=1", "b=2; Secure"))
	upstream.Handle("/trailers", Trailers("body", map[string]string{"X-After": "yes"}))
	upstream.Handle("/chunked", Chunked("one", "two"))
	upstream.Handle("/hints", EarlyHints("</s.css>; rel=preload"))
	upstream.Handle("/big", Big(10_000_000))
	for _, test := range []struct {
		path   string
		status int
		check  func(resp *http.Response, body string) bool
	}{
		{"/", 200, func(_ *http.Response, body string) bool { return body == "ok\n" }},
		{"/echo", 200, func(_ *http.Response, body string) bool { return body == "sent" }},
		{"/head", 200, func(_ *http.Response, body string) bool { return strings.Contains(body, "X-Mine: 1\r\n") }},
		{"/204", 204, func(_ *http.Response, body string) bool { return body == "" }},
		{"/304", 304, func(_ *http.Response, body string) bool { return body == "" }},
		{"/302", 302, func(resp *http.Response, _ string) bool { return resp.Header.Get("Location") == "/elsewhere" }},
		{"/cookies", 200, func(resp *http.Response, _ string) bool {
			return slices.Equal(resp.Header["Set-Cookie"], []string{"a=1", "b=2; Secure"})
		}},
		{"/trailers", 200, func(resp *http.Response, body string) bool {
			return body == "body" && resp.Trailer.Get("X-After") == "yes"
		}},
		{"/chunked", 200, func(resp *http.Response, body string) bool { return body == "onetwo" && resp.ContentLength == -1 }},
		{"/big", 200, func(resp *http.Response, body string) bool {
			return len(body) == 10_000_000 && resp.ContentLength == 10_000_000 && strings.HasPrefix(body, "abcdef")
		}},
	} {
		for _, base := range []string{upstream.URL(APIHost), upstream.PlainURL(APIHost)} {
			t.Run(base[:5]+test.path, func(t *testing.T) {
				req, _ := http.NewRequestWithContext(t.Context(), "POST", base+test.path, strings.NewReader("sent"))
				req.Header.Set("X-Mine", "1")
				resp, err := pki.Client(t).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != test.status || !test.check(resp, string(body)) {
					t.Errorf("got %d %v %.80q (%v)", resp.StatusCode, resp.Header, body, err)
				}
			})
		}
	}
}

func TestUpstreamSendsEarlyHints(t *testing.T) {
	pki := NewPKI(t)
	upstream := NewUpstream(t, pki)
	upstream.Handle("/", EarlyHints("</s.css>"))
	var got []int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { got = append(got, code); return nil },
	})
	req, _ := http.NewRequestWithContext(ctx, "GET", upstream.URL(APIHost), nil)
	resp, err := pki.Client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !slices.Equal(got, []int{103}) || resp.StatusCode != 200 {
		t.Errorf("got %v then %d, want [103] then 200", got, resp.StatusCode)
	}
}

func TestUpstreamStreamsEventsOneByOne(t *testing.T) {
	pki := NewPKI(t)
	upstream := NewUpstream(t, pki)
	values := make(chan string)
	upstream.HandleStream("/events", Events(values))
	resp, err := pki.Client(t).Get(upstream.URL(APIHost) + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for _, value := range []string{"one", "two"} {
		values <- value
		if !lines.Scan() || lines.Text() != "data: "+value {
			t.Fatalf("got %q, want %q (%v)", lines.Text(), "data: "+value, lines.Err())
		}
		lines.Scan() // the empty line behind an event
	}
	close(values)
}

func TestUpstreamAnswersBelowHTTP(t *testing.T) {
	upstream := NewUpstream(t, NewPKI(t))
	upstream.Handle("/raw", Raw("HTTP/1.1 299 Odd\r\nX_y: 1\r\nContent-Length: 0\r\n\r\n"))
	upstream.Handle("/reset", Reset())
	if got := exchange(t, upstream.PlainPort(), "GET /raw HTTP/1.1\r\nHost: x\r\n\r\n"); got != "HTTP/1.1 299 Odd\r\nX_y: 1\r\nContent-Length: 0\r\n\r\n" {
		t.Errorf("raw: got %q", got)
	}
	if got := exchange(t, upstream.PlainPort(), "GET /reset HTTP/1.1\r\nHost: x\r\n\r\n"); got != "" {
		t.Errorf("reset: got %q, want nothing", got)
	}
}
