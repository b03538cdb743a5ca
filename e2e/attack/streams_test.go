//go:build linux

package attack

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// framed is a tunnel in which HTTP/2 is spoken frame by frame.
type framed struct {
	conn   net.Conn
	framer *http2.Framer
	read   bytes.Buffer // all that the proxy sent
}

func (r *rig) framed(t *testing.T) *framed {
	t.Helper()
	conn, refused := r.open(tunnel)
	if conn == nil {
		t.Fatalf("no tunnel: %s", refused)
	}
	conn.Close() // open offers no ALPN
	raw, err := net.Dial("tcp", r.proxy.URL.Host)
	if err != nil {
		t.Fatal(err)
	}
	authority := r.words.Replace("{api}")
	fmt.Fprintf(raw, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	if line, err := bufio.NewReaderSize(io.LimitReader(raw, 39), 39).ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") {
		t.Fatalf("CONNECT: got %q (%v)", line, err)
	}
	config := r.tls.Clone()
	config.ServerName, config.NextProtos = testbench.APIHost, []string{"h2"}
	raw.SetDeadline(time.Now().Add(4 * patience))
	secured := tls.Client(raw, config)
	t.Cleanup(func() { secured.Close() })
	f := &framed{conn: secured}
	io.WriteString(secured, http2.ClientPreface)
	f.framer = http2.NewFramer(secured, io.TeeReader(secured, &f.read))
	f.framer.AllowIllegalWrites = true
	f.framer.WriteSettings()
	return f
}

// fields codes a header list.
func headerBlock(pairs ...string) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(pairs); i += 2 {
		encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return block.Bytes()
}

// ending reads until the first stream has ended and tells how: a status, the code
// of a reset or of a GOAWAY, that the connection was closed, or that a ping is
// answered.
func (f *framed) ending() string {
	decoder := hpack.NewDecoder(4096, nil)
	status := ""
	for {
		frame, err := f.framer.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			list, _ := decoder.DecodeFull(frame.HeaderBlockFragment())
			for _, field := range list {
				fmt.Fprintln(&f.read, field.Name, field.Value)
				if field.Name == ":status" {
					status = field.Value
				}
			}
			if frame.StreamEnded() {
				return status
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				return status
			}
		case *http2.PingFrame:
			return "alive"
		case *http2.RSTStreamFrame:
			return strings.TrimSpace(status + " " + frame.ErrCode.String())
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				return "GOAWAY " + frame.ErrCode.String()
			}
		}
	}
}

// overHTTP2 sends streams that no client library would.
func (r *rig) overHTTP2(t *testing.T) {
	api, evil := r.words.Replace("{api}"), r.words.Replace("{evil}")
	request := func(more ...string) []byte {
		return headerBlock(append([]string{":method", "GET", ":scheme", "https", ":path", "/head", ":authority", api}, more...)...)
	}
	whole := func(block []byte) func(*http2.Framer) {
		return func(f *http2.Framer) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, EndStream: true})
		}
	}
	for _, test := range []struct {
		name, want string
		send       func(*http2.Framer)
	}{
		{"as it should be", "200 api=value", whole(request("x-key", r.token))},
		{"authority of the other", "421", whole(headerBlock(":method", "GET", ":scheme", "https", ":path", "/", ":authority", evil, "x-key", r.token))},
		{"Host of the other", "PROTOCOL_ERROR|200 api=value|400|421", whole(request("host", evil, "x-key", r.token))},
		{"authority with a user", "PROTOCOL_ERROR|400|421", whole(headerBlock(":method", "GET", ":scheme", "https", ":path", "/", ":authority", evil+"@"+api))},
		{"two authorities", "PROTOCOL_ERROR", whole(request(":authority", evil, "x-key", r.token))},
		{"two paths", "PROTOCOL_ERROR", whole(request(":path", "/other", "x-key", r.token))},
		{"no path", "PROTOCOL_ERROR", whole(headerBlock(":method", "GET", ":scheme", "https", ":authority", api))},
		{"a path that is a URL", "PROTOCOL_ERROR|400|421", whole(headerBlock(":method", "GET", ":scheme", "https", ":path", "https://"+evil+"/", ":authority", api, "x-key", r.token))},
		{"scheme http", "400|PROTOCOL_ERROR|200 api=value", whole(headerBlock(":method", "GET", ":scheme", "http", ":path", "/head", ":authority", api, "x-key", r.token))},
		{"CONNECT", "400", whole(headerBlock(":method", "CONNECT", ":authority", evil))},
		{"a method with a line break", "PROTOCOL_ERROR|400", whole(headerBlock(":method", "GET / HTTP/1.1\r\nHost: x", ":scheme", "https", ":path", "/", ":authority", api))},
		{"a line break in a field", "PROTOCOL_ERROR", whole(request("x-a", "b\r\nhost: evil", "x-key", r.token))},
		{"a field in capitals", "PROTOCOL_ERROR", whole(request("X-Key", r.token))},
		{"a pseudo-field at the end", "PROTOCOL_ERROR", whole(request("x-key", r.token, ":path", "/"))},
		{"an unknown pseudo-field", "PROTOCOL_ERROR", whole(request(":evil", "1"))},
		{"Transfer-Encoding", "PROTOCOL_ERROR|400", whole(request("transfer-encoding", "chunked", "x-key", r.token))},
		{"Connection", "PROTOCOL_ERROR|400", whole(request("connection", "x-key", "x-key", r.token))},
		{"Upgrade", "PROTOCOL_ERROR|400", whole(request("upgrade", "h2c", "x-key", r.token))},
		{"a length and no body", "400", whole(request("content-length", "5", "x-key", r.token))},
		{"an even stream", "GOAWAY PROTOCOL_ERROR", func(f *http2.Framer) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2, BlockFragment: request("x-key", r.token), EndHeaders: true, EndStream: true})
		}},
		{"data without a stream", "GOAWAY PROTOCOL_ERROR|STREAM_CLOSED", func(f *http2.Framer) { f.WriteData(1, true, []byte(r.token)) }},
		{"a header block that is none", "GOAWAY COMPRESSION_ERROR", whole([]byte(strings.Repeat("\xff", 20)))},
		{"a push", "GOAWAY PROTOCOL_ERROR", func(f *http2.Framer) {
			f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: request(), EndHeaders: true})
		}},
		{"continuation from nowhere", "GOAWAY PROTOCOL_ERROR", func(f *http2.Framer) { f.WriteContinuation(1, true, request("x-key", r.token)) }},
		{"a window of nothing", "GOAWAY PROTOCOL_ERROR", func(f *http2.Framer) { f.WriteWindowUpdate(0, 0) }},
		{"a header without end", "GOAWAY ENHANCE_YOUR_CALM|GOAWAY PROTOCOL_ERROR|closed", func(f *http2.Framer) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request("x-key", r.token)})
			for range 600 {
				if f.WriteContinuation(1, false, bytes.Repeat(headerBlock("x-a", strings.Repeat("b", 1000)), 8)) != nil {
					return
				}
			}
		}},
		{"a flood of resets", "alive|200 api=value|GOAWAY ENHANCE_YOUR_CALM", func(f *http2.Framer) {
			for i := uint32(1); i < 4000; i += 2 {
				if f.WriteHeaders(http2.HeadersFrameParam{StreamID: i, BlockFragment: request("x-key", r.token), EndHeaders: true, EndStream: true}) != nil ||
					f.WriteRSTStream(i, http2.ErrCodeCancel) != nil {
					return
				}
			}
			f.WritePing(false, [8]byte{})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.api.Forget()
			r.evil.Forget()
			f := r.framed(t)
			go test.send(f.framer)
			got := f.ending()
			if got == "200" {
				got = r.outcome([]byte("HTTP/1.1 " + got))
			}
			if !strings.Contains("|"+test.want+"|", "|"+got+"|") {
				t.Errorf("outcome: got %q, want %q", got, test.want)
			}
			if forms := find(f.read.Bytes(), canary); len(forms) > 0 {
				t.Errorf("the answer holds the value as %v", forms)
			}
			r.evilGotNothing(t)
		})
	}
}

// answersOverHTTP2 has the API give the value away over HTTP/2.
func (r *rig) answersOverHTTP2(t *testing.T) {
	for _, in := range answers() {
		_, path, _ := strings.Cut(in.send, " ")
		path, _, _ = strings.Cut(path, " ")
		if in.via != tunnel || in.want != "200 api=value" || strings.HasPrefix(path, "/bad/") || path == "/in/reason" || path == "/in/credentials" {
			continue // what only HTTP/1 has
		}
		t.Run(in.name, func(t *testing.T) {
			r.api.Forget()
			f := r.framed(t)
			f.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: headerBlock(
				":method", "GET", ":scheme", "https", ":path", r.words.Replace(path), ":authority", r.words.Replace("{api}"), "x-key", r.token)})
			ending := f.ending()
			if got := r.outcome([]byte("HTTP/1.1 " + ending)); got != in.want {
				t.Errorf("outcome: got %q, want %q", got, in.want)
			}
			if got := strings.Join(find(f.read.Bytes(), canary), ","); got != in.forms {
				t.Errorf("the answer holds the value as %q, want %q", got, in.forms)
			}
		})
	}
}

// overWebSocket sends the token in each kind of frame to a server that sends back
// what it got.
func (r *rig) overWebSocket(t *testing.T) {
	r.api.HandleStream("/socket", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		conn, rw, _, err := ws.UpgradeHTTP(q, w)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			frame, err := testbench.ReadFrame(rw)
			if err != nil {
				return
			}
			back := ws.UnmaskFrame(frame)
			back.Header.Masked = false
			ws.WriteFrame(conn, back)
			if frame.Header.OpCode == ws.OpClose {
				return
			}
		}
	}))
	text := "key " + r.token
	for _, test := range []struct {
		name, want string
		frames     []ws.Frame
	}{
		{"a text", "value", []ws.Frame{ws.NewTextFrame([]byte(text))}},
		{"JSON", "value", []ws.Frame{ws.NewTextFrame([]byte(`{"key":"` + r.token + `"}`))}},
		{"bytes", "value", []ws.Frame{ws.NewBinaryFrame([]byte(text))}},
		{"a text in two fragments", "value", []ws.Frame{
			ws.NewFrame(ws.OpText, false, []byte(text[:60])), ws.NewFrame(ws.OpContinuation, true, []byte(text[60:])),
		}},
		{"a ping in between", "value", []ws.Frame{
			ws.NewFrame(ws.OpText, false, []byte(text[:60])), ws.NewPingFrame([]byte("x")), ws.NewFrame(ws.OpContinuation, true, []byte(text[60:])),
		}},
		{"not covered: a ping", "token", []ws.Frame{ws.NewPingFrame([]byte(r.token[:100]))}},
		{"not covered: a reason to close", "token", []ws.Frame{ws.NewCloseFrame(ws.NewCloseFrameBody(1000, r.token[:100]))}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.api.Forget()
			conn, refused := r.open(tunnel)
			if conn == nil {
				t.Fatalf("no tunnel: %s", refused)
			}
			defer conn.Close()
			dialer := ws.Dialer{}
			request, _ := http.NewRequest(http.MethodGet, r.words.Replace("wss://{api}/socket"), nil)
			if _, _, err := dialer.Upgrade(conn, request.URL); err != nil {
				t.Fatal(err)
			}
			for _, frame := range test.frames {
				ws.WriteFrame(conn, ws.MaskFrame(frame))
			}
			ws.WriteFrame(conn, ws.MaskFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(1000, ""))))
			answer, _ := io.ReadAll(conn)
			if forms := find(answer, canary); len(forms) > 0 {
				t.Errorf("the answer holds the value as %v", forms)
			}
			// What arrived is masked by the client's key, so it is told by the echo.
			got := "nothing"
			if bytes.Contains(answer, []byte("starpod")) {
				got = "token"
			} else if bytes.Contains(answer, bytes.Repeat([]byte{'*'}, len(canary))) {
				got = "value"
			}
			if got != test.want {
				t.Errorf("the host got: %s, want %s; back came %.300q", got, test.want, answer)
			}
		})
	}
	t.Run("a request behind the 101", func(t *testing.T) {
		r.api.Forget()
		r.evil.Forget()
		conn, _ := r.open(tunnel)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Second))
		io.WriteString(conn, r.words.Replace("GET /socket HTTP/1.1\r\nHost: {api}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET / HTTP/1.1\r\nHost: {evil}\r\nX-Key: {token}\r\n\r\n"))
		answer, _ := io.ReadAll(conn)
		if forms := find(answer, canary); len(forms) > 0 || !bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) {
			t.Errorf("got %.2000q with the value as %v, want 101 and no value", answer, forms)
		}
		r.evilGotNothing(t)
	})
}

// twoTools has a tool with another token for the other host, and each tries to
// see the other's value: on one connection, at the other's host, with the
// other's token in the same request.
func (r *rig) twoTools(t *testing.T) {
	other := testbench.Seal(t, r.proxy.Key, otherCanary, testbench.EvilHost)
	r.evil.Handle("/head", testbench.EchoHead)
	ask := func(via string, authority, key string) []byte {
		return r.exchange(via, r.words.Replace("GET /head HTTP/1.1\r\nHost: "+authority+"\r\nX-Key: "+key+"\r\nConnection: close\r\n\r\n"))
	}
	r.api.Forget()
	r.evil.Forget()
	answers := bytes.Join([][]byte{
		ask(tunnel, "{api}", "{token}"), ask(astray, "{evil}", other),
		ask(tunnel, "{api}", other), ask(astray, "{evil}", "{token}"),
		ask(tunnel, "{api}", "{token}"+other), ask(astray, "{evil}", "{token}"+other),
		// What the one has put into a request must not unmask, or mask, the other's.
		ask(tunnel, "{api}", "{token} "+strings.Repeat("*", len(otherCanary))),
		// One connection, both destinations.
		r.exchange(tunnel, r.words.Replace("GET /head HTTP/1.1\r\nHost: {api}\r\nX-Key: {token}\r\n\r\nGET /head HTTP/1.1\r\nHost: {evil}\r\nX-Key: "+other+"\r\nConnection: close\r\n\r\n")),
		r.exchange(direct, r.words.Replace("GET http://{plain}/head HTTP/1.1\r\nHost: x\r\nX-Key: {token}\r\n\r\nGET http://{plainevil}/head HTTP/1.1\r\nHost: x\r\nX-Key: {token}"+other+"\r\nConnection: close\r\n\r\n")),
	}, []byte("\n"))
	for name, value := range map[string]string{"first": canary, "second": otherCanary} {
		if forms := find(answers, value); len(forms) > 0 {
			t.Errorf("the answers hold the %s value as %v", name, forms)
		}
	}
	if !bytes.Contains(answers, []byte("421")) {
		t.Errorf("no 421 for the second host of a tunnel:\n%.1000s", answers)
	}
	for _, seen := range []struct {
		name     string
		up       *testbench.Upstream
		own, not string
	}{{"api", r.api, canary, otherCanary}, {"evil", r.evil, otherCanary, canary}} {
		dump := seen.up.Dump()
		if len(find(dump, seen.own)) == 0 || len(find(dump, seen.not)) > 0 {
			t.Errorf("%s: its own value %v, the other's %v; want only its own", seen.name, find(dump, seen.own), find(dump, seen.not))
		}
	}
}

// poisoned has the API answer one request with two answers, and wants the second
// never to be given to anybody.
func (r *rig) poisoned(t *testing.T) {
	const poison = "poison"
	r.api.Handle("/poison", func(w http.ResponseWriter, _ *http.Request, _ *testbench.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		const head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: "
		io.WriteString(conn, head+"2\r\n\r\nok"+head+"6\r\n\r\n"+poison)
		conn.SetReadDeadline(time.Now().Add(patience))
		io.Copy(io.Discard, conn) // until the proxy lets go of it
	})
	for _, path := range []string{"/poison", "/as/plain", "/poison", "/as/plain"} {
		answer := r.exchange(tunnel, r.words.Replace("GET "+path+" HTTP/1.1\r\nHost: {api}\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"))
		if bytes.Contains(answer, []byte(poison)) || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) || len(find(answer, canary)) > 0 {
			t.Errorf("%s: got %.300q, want 200 and neither %q nor the value", path, answer, poison)
		}
	}
}
