package handler

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
	"go.uber.org/zap/zapcore"
)

// lockedBuffer takes what the standard logger writes.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}

// watchSecrecy collects all that the proxy tells but for what it sends to the
// upstream: log fields, the standard logger, the errors it returns. The check
// at the end of the test fails where a value is in it.
func watchSecrecy(b *bench, values ...string) {
	std := new(lockedBuffer)
	log.SetOutput(std)
	b.t.Cleanup(func() { log.SetOutput(os.Stderr) })
	b.t.Cleanup(func() {
		var all bytes.Buffer
		encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "m"})
		for _, entry := range b.logs.All() {
			line, err := encoder.EncodeEntry(entry.Entry, entry.Context)
			if err != nil {
				b.t.Fatal(err)
			}
			all.Write(line.Bytes())
			fmt.Fprintf(&all, "%s %+v %#v\n", entry.Message, entry.ContextMap(), entry.ContextMap())
		}
		all.Write(std.Bytes())
		b.findSecret("the logs", all.Bytes(), values...)
	})
}

func (b *bench) findSecret(where string, text []byte, values ...string) {
	b.t.Helper()
	for _, value := range append(values, canary) {
		if found := testbench.FindSecret(text, value); len(found) > 0 {
			b.t.Errorf("%s: holds the value %q as %v:\n%.2000s", where, value, found, text)
		}
	}
}

// serveWatched is the bench's server with an eye on each error that the handler
// returns, in every form that it could be printed in.
func (b *bench) serveWatched(values ...string) {
	var handler http.HandlerFunc
	handler = func(w http.ResponseWriter, r *http.Request) {
		served, err := b.proxy.Serve(w, r, handler, nil)
		if err == nil {
			if !served {
				w.WriteHeader(http.StatusNotFound)
			}
			return
		}
		text := fmt.Appendf(nil, "%v %+v %#v %q", err, err, err, err)
		for cause := err; cause != nil; cause = errors.Unwrap(cause) {
			text = fmt.Appendf(text, "\n%v %#v", cause, cause)
		}
		b.findSecret("an error", text, values...)
		var refusal *Refusal
		if errors.As(err, &refusal) {
			b.findSecret("a refusal", refusal.body(), values...)
			marshalled, _ := json.Marshal(refusal)
			b.findSecret("a refusal as JSON", marshalled, values...)
			refusal.Write(w)
		}
	}
	b.front.Config.Handler = handler
}

// TestNoOutcomeTellsTheValue drives requests whose every place holds tokens
// into all the ways in which they can end. Upstreams echo what they got.
func TestNoOutcomeTellsTheValue(t *testing.T) {
	reflect := func(format string) func(net.Conn) {
		return func(conn net.Conn) {
			head, _ := readHead(bufio.NewReader(conn))
			_, key, _ := strings.Cut(head, "X-Key: ")
			key, _, _ = strings.Cut(key, "\r\n")
			_, _ = io.WriteString(conn, strings.ReplaceAll(format, "{value}", key))
		}
	}
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, test := range []struct {
		name  string
		serve func(net.Conn)
	}{
		{"success", reflect(ok + "Content-Length: 0\r\n\r\n")},
		{"closed before the answer", func(net.Conn) {}},
		{"closed behind the request", answering("")},
		{"not HTTP", reflect("{value}\r\n\r\n")},
		{"malformed status", reflect("HTTP/1.1 {value}\r\n\r\n")},
		{"malformed version", reflect("HTTP/{value} 200 OK\r\n\r\n")},
		{"malformed field", reflect(ok + "{value}\r\n\r\n")},
		{"malformed name", reflect(ok + "X {value}: 1\r\n\r\n")},
		{"malformed length", reflect(ok + "Content-Length: {value}\r\n\r\n")},
		{"two lengths", reflect(ok + "Content-Length: 1\r\nContent-Length: {value}\r\n\r\n")},
		{"unknown transfer coding", reflect(ok + "Transfer-Encoding: {value}\r\n\r\n")},
		{"malformed chunk", reflect(ok + "Transfer-Encoding: chunked\r\n\r\n{value}\r\n")},
		{"malformed trailer", reflect(ok + "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n{value}\r\n\r\n")},
		{"broken body", reflect(ok + "Content-Length: 1000\r\n\r\n{value}")},
		{"too many informational answers", reflect(strings.Repeat("HTTP/1.1 103 Hints\r\nLink: "+strings.Repeat("x", 100<<10)+"\r\n\r\n", 12))},
		{"switch to what nobody asked for", reflect("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: {value}\r\n\r\n")},
		{"more than was announced", reflect(ok + "Content-Length: 2\r\nConnection: close\r\n\r\nok{value}")},
		{"length of a value", reflect("HTTP/1.1 204 None\r\nContent-Length: {value}\r\n\r\n")},
	} {
		for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: {token}\r\n"} {
			t.Run(fmt.Sprintf("%s upgrade=%v", test.name, upgrade != ""), func(t *testing.T) {
				b := newBench(t, nil)
				watchSecrecy(b)
				b.serveWatched()
				authority := fmt.Sprintf("api.starpod.test:%d", b.rawUpstream(true, test.serve))
				token := b.token("api.starpod.test")
				conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
				fmt.Fprintf(conn, "POST /%[1]s?q=%[1]s HTTP/1.1\r\nHost: %[2]s\r\nX-Key: %[1]s\r\nAuthorization: %[3]s\r\nContent-Length: %[4]d\r\n%[5]s\r\n%[1]s",
					token, authority, basic("u", token), len(token), strings.ReplaceAll(upgrade, "{token}", token))
				_, _ = readRaw(conn, "POST")
				conn.Close()
				testbench.Await(t, longest, func() error {
					if b.proxy.Stats.Requests.Load() == 0 {
						return errors.New("the request has not ended")
					}
					return nil
				})
			})
		}
	}
}

// TestNoRefusalTellsTheValue does the same where the proxy or the way to the
// upstream is at fault.
func TestNoRefusalTellsTheValue(t *testing.T) {
	const broken = "CANARY-line\r\nbreak-8b1f"
	for _, test := range []struct {
		name      string
		configure func(*Proxy)
		host      string
		value     string
		status    int
	}{
		{"name that does not exist", nil, "nowhere.test", canary, 502},
		{"address that is refused", nil, "private.test", canary, 403},
		{"host of another", func(p *Proxy) { p.Swap.OnMismatch = tokens.Deny }, "evil.starpod.test", canary, 403},
		{"bad certificate", func(p *Proxy) { p.Egress.Roots = testbench.NewPKI(t).Pool() }, "api.starpod.test", canary, 502},
		{"value no header may carry", nil, "api.starpod.test", broken, 400},
		{"body over the limit", func(p *Proxy) { p.Swap.BodyBuffer, p.Swap.MaxSpool = 10, 20 }, "api.starpod.test", canary, 413},
		{"folder of the spool is gone", func(p *Proxy) { p.Swap.BodyBuffer, p.Swap.SpoolDir = 10, "/nonexistent" }, "api.starpod.test", canary, 503},
		{"no keys", func(p *Proxy) {
			p.Keys = func() (*tokens.Keyring, error) {
				return nil, &Refusal{Status: 500, Rule: "keys", Reason: "no key"}
			}
		}, "api.starpod.test", canary, 500},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, test.configure)
			watchSecrecy(b, test.value)
			b.serveWatched(test.value)
			token := testbench.Seal(t, b.key, test.value, "api.starpod.test", "nowhere.test", "private.test")
			r := b.request("POST", b.up.URL(test.host)+"/"+token+"?q="+token, token, "Authorization", basic("u", token), "X-Key", token)
			response, body := b.do(b.client(false), r)
			if response.StatusCode != test.status {
				t.Errorf("got status %d %s, want %d", response.StatusCode, body, test.status)
			}
			b.findSecret("the answer", fmt.Appendf(nil, "%v %s", response.Header, body), test.value)
			b.nothingReached()
		})
	}
}

// TestResetTellsNoValue: upstreams that reset the connection at either moment.
func TestResetTellsNoValue(t *testing.T) {
	b := newBench(t, nil)
	watchSecrecy(b)
	b.serveWatched()
	b.up.Handle("/", testbench.Reset())
	token := b.token("api.starpod.test")
	for _, target := range []string{b.up.URL("api.starpod.test"), b.up.PlainURL("api.starpod.test"), "http://api.starpod.test:1"} {
		response, body := b.do(b.client(false), b.request("POST", target+"/", token, "X-Key", token))
		if response.StatusCode != 502 {
			t.Errorf("%s: got status %d, want 502", target, response.StatusCode)
		}
		b.findSecret("the answer", []byte(body))
	}
}

// TestPanicsTellNoValue: a handler that panics below the proxy, and a client
// that is gone when the answer is copied.
func TestPanicsTellNoValue(t *testing.T) {
	b := newBench(t, nil)
	watchSecrecy(b)
	b.serveWatched()
	b.up.Handle("/big", testbench.Big(20_000_000))
	token := b.token("api.starpod.test")
	for _, protocol := range []string{"http/1.1", "h2"} {
		conn := b.tunnel(b.apiAuthority(), "api.starpod.test", protocol)
		client := inTunnel(t, conn, protocol == "h2")
		response, err := client.Do(b.request("POST", b.up.URL("api.starpod.test")+"/big", token, "X-Key", token))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.CopyN(io.Discard, response.Body, 1000)
		_ = conn.NetConn().Close()
		response.Body.Close()
	}
	testbench.Await(t, longest, func() error {
		if n := b.proxy.Stats.Requests.Load(); n < 2 {
			return fmt.Errorf("%d requests have ended, want 2", n)
		}
		return nil
	})
}

// TestAuditTellsNoValue: the line has id, place and action of each token, no value.
func TestAuditTellsNoValue(t *testing.T) {
	b := newBench(t, nil)
	watchSecrecy(b)
	good, other := b.token("api.starpod.test"), b.token("other.test")
	b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/"+good, other, "X-Key", good))
	var line map[string]any
	testbench.Await(t, longest, func() error {
		for _, entry := range b.logs.All() {
			if entry.LoggerName == "audit" {
				line = entry.ContextMap()
				return nil
			}
		}
		return errors.New("there is no audit line")
	})
	text := fmt.Sprint(line)
	for _, want := range []string{"place:path", "place:header", "place:body", "action:replace", "action:strip", "reason:host", "path:/⟨token ", "status:200", "method:POST"} {
		if !strings.Contains(text, want) {
			t.Errorf("audit line: got %s, want %q in it", text, want)
		}
	}
	if strings.Contains(text, good) {
		t.Errorf("audit line shows a token that works: %s", text)
	}
}

// TestExportedStructsPrintNoValue in any verb.
func TestExportedStructsPrintNoValue(t *testing.T) {
	b := newBench(t, nil)
	token := b.token("api.starpod.test")
	b.do(b.client(false), b.request("GET", b.up.URL("api.starpod.test")+"/", "", "X-Key", token))
	f := &forwarding{proxy: b.proxy, keys: nil}
	if err := f.found(PlaceBody, tokens.Token{ID: "x", Action: tokens.Replaced, Value: canary}); err != nil {
		t.Fatal(err)
	}
	keys, err := b.proxy.Keys()
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []any{b.proxy.Swap, b.proxy.Egress, b.proxy.Stats.Counts(), keys, *keys,
		Refusal{Reason: "x", Err: f.scrub(&Refusal{Err: errors.New("echo " + canary)})}} {
		text := fmt.Appendf(nil, "%v %+v %#v %s %q %x", value, value, value, value, value, value)
		marshalled, _ := json.Marshal(value)
		b.findSecret(fmt.Sprintf("%T", value), append(text, marshalled...), string(b.key))
	}
}
