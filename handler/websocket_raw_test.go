package handler

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
	"go.uber.org/zap/zapcore"
)

// acceptFor is the right answer to the key in a request's head.
func acceptFor(head string) string {
	_, key, _ := strings.Cut(head, "Sec-Websocket-Key: ")
	key, _, _ = strings.Cut(key, "\r\n")
	sum := sha1.Sum([]byte(key + acceptGUID))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// rawWebSocket opens a WebSocket between two ends that have no WebSocket library.
// The client says early right behind its request.
func (b *bench) rawWebSocket(early []byte, serve func(conn net.Conn, r *bufio.Reader)) (net.Conn, *bufio.Reader) {
	b.t.Helper()
	port := b.rawUpstream(true, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		head, _ := readHead(r)
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptFor(head))
		serve(conn, r)
	})
	authority := fmt.Sprintf("api.starpod.test:%d", port)
	conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
	head := fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n", authority)
	if _, err := conn.Write(append([]byte(head), early...)); err != nil {
		b.t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, &http.Request{Method: http.MethodGet})
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		b.t.Fatalf("got %+v (%v), want status 101", response, err)
	}
	return conn, r
}

// TestWebSocketOddFrames: what a library would not send passes all the same, in
// both directions.
func TestWebSocketOddFrames(t *testing.T) {
	for name, sequence := range oddFrames {
		for _, masked := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, masked %v", name, masked), func(t *testing.T) {
				b := newBench(t, nil)
				in := wire(sequence(func(op ws.OpCode, fin bool, payload string) ws.Frame { return frameOf(op, fin, masked, payload) })...)
				arrived := make(chan []byte, 1)
				conn, r := b.rawWebSocket(nil, func(conn net.Conn, r *bufio.Reader) {
					got := make([]byte, len(in))
					_, _ = io.ReadFull(r, got)
					arrived <- got
					_, _ = conn.Write(in)
				})
				_, _ = conn.Write(in)
				want := describe(unwire(t, in))
				if got := describe(unwire(t, <-arrived)); !slices.Equal(got, want) {
					t.Errorf("the server got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				back, err := io.ReadAll(r)
				if got := describe(unwire(t, back)); err != nil || !slices.Equal(got, want) {
					t.Errorf("the client got\n%s\n(%v), want\n%s", strings.Join(got, "\n"), err, strings.Join(want, "\n"))
				}
			})
		}
	}
}

// TestWebSocketTokenSplit sends a message in two writes, cut at every offset.
func TestWebSocketTokenSplit(t *testing.T) {
	b := newBench(t, nil)
	want := wire(frameOf(ws.OpText, true, false, "<"+canary+">"))
	arrived := make(chan string)
	conn, _ := b.rawWebSocket(nil, func(_ net.Conn, r *bufio.Reader) {
		for {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(r, got); err != nil {
				close(arrived)
				return
			}
			arrived <- string(got)
		}
	})
	in := wire(frameOf(ws.OpText, true, false, "<"+b.token()+">"))
	for cut := range len(in) {
		_, _ = conn.Write(in[:cut])
		_, _ = conn.Write(in[cut:])
		if got := <-arrived; got != string(want) {
			t.Errorf("cut at %d: got %q, want %q", cut, got, want)
		}
	}
}

// TestWebSocketEarlyBytes: frames right behind the request and right behind the
// 101 arrive.
func TestWebSocketEarlyBytes(t *testing.T) {
	b := newBench(t, nil)
	arrived := make(chan []ws.Frame, 1)
	early := wire(frameOf(ws.OpText, true, true, "early "+b.token()), frameOf(ws.OpPing, true, true, "?"))
	conn, r := b.rawWebSocket(early, func(conn net.Conn, r *bufio.Reader) {
		_, _ = conn.Write(wire(frameOf(ws.OpText, true, false, "at once")))
		all, _ := io.ReadAll(r)
		arrived <- unwire(t, all)
	})
	if f, err := testbench.ReadFrame(r); err != nil || string(f.Payload) != "at once" {
		t.Errorf("the client got %q (%v), want what came at once", f.Payload, err)
	}
	_, _ = conn.Write(wire(frameOf(ws.OpText, true, true, "late")))
	_ = conn.Close()
	want := []string{"message 1 early " + canary, "9 ?", "message 1 late"}
	if got := eventsOf(<-arrived); !slices.Equal(got, want) {
		t.Errorf("the server got %q, want %q", got, want)
	}
}

// TestEarlyBytesOfOtherProtocols are not lost either.
func TestEarlyBytesOfOtherProtocols(t *testing.T) {
	b := newBench(t, nil)
	port := b.rawUpstream(false, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		_, _ = readHead(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: odd/1\r\n\r\n")
		_, _ = io.Copy(conn, r)
	})
	conn := b.dialFront()
	fmt.Fprintf(conn, "GET http://api.starpod.test:%d/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: odd/1\r\n\r\nearly;", port)
	r := bufio.NewReader(conn)
	if response, err := http.ReadResponse(r, nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v (%v), want status 101", response, err)
	}
	_, _ = io.WriteString(conn, "late")
	_ = conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(r); err != nil || string(got) != "early;late" {
		t.Errorf("got %q (%v), want both", got, err)
	}
}

// TestWebSocketHandshakes: an answer other than 101 is an ordinary one, and a
// 101 that is not for this client is refused.
func TestWebSocketHandshakes(t *testing.T) {
	const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	const ask = "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\nX-Key: {token}\r\n"
	const key = "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
	for _, test := range []struct {
		name, asked, answer string
		status              int
	}{
		{"200", ask + key, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200},
		{"400", ask + key, "HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\nno", 400},
		{"426", ask + key, "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 426},
		{"right", ask + key, switched + "Sec-WebSocket-Accept: {accept}\r\n\r\n", 101},
		{"other spelling", ask + key, strings.Replace(switched, "websocket", "WebSocket", 1) + "sec-websocket-accept:   {accept}  \r\n\r\n", 101},
		{"coding", ask + key, switched + "Content-Encoding: gzip\r\nSec-WebSocket-Accept: {accept}\r\n\r\n", 101},
		{"no key, no answer", ask, switched + "\r\n", 101},
		{"no answer to the key", ask + key, switched + "\r\n", 502},
		{"answer to another key", ask + key, switched + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", 502},
		{"extension that was taken back", ask + key, switched + "Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", 502},
		{"another protocol", ask + key, strings.Replace(switched, "websocket", "h2c", 1) + "Sec-WebSocket-Accept: {accept}\r\n\r\n", 502},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, nil)
			watchSecrecy(b)
			var head string
			port := b.rawUpstream(true, func(conn net.Conn) {
				head, _ = readHead(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, strings.ReplaceAll(test.answer, "{accept}", acceptFor(head)))
			})
			authority := fmt.Sprintf("api.starpod.test:%d", port)
			conn := b.tunnel(authority, "api.starpod.test", "http/1.1")
			_, _ = io.WriteString(conn, strings.NewReplacer("{host}", authority, "{token}", b.token()).Replace(test.asked)+"\r\n")
			raw, err := readRaw(conn, http.MethodGet)
			if want := fmt.Sprintf("HTTP/1.1 %d ", test.status); err != nil || !strings.HasPrefix(raw, want) {
				t.Errorf("got %q (%v), want %q", raw, err, want)
			}
			_, body, _ := strings.Cut(test.answer, "\r\n\r\n")
			if test.status != 502 && !strings.HasSuffix(raw, body) || test.status == 502 && !strings.Contains(raw, `"rule":"upstream"`) {
				t.Errorf("got %q, want the body %q, or a refusal", raw, body)
			}
			if strings.Contains(head, "permessage-deflate") || !strings.Contains(head, canary) {
				t.Errorf("the server was asked %q, want the value and no offer", head)
			}
		})
	}
}

// TestWebSocketRefused: a message that must not go out ends the connection, and
// the client is told why in a Close frame.
func TestWebSocketRefused(t *testing.T) {
	const before = "before"
	long := strings.Repeat("x", 3*smallBuffer)
	for _, test := range []struct {
		name   string
		policy func(*SwapPolicy)
		sent   func(b *bench) []ws.Frame
		raw    string // sent behind the frames
		code   ws.StatusCode
		rule   string
	}{
		{"mismatch", func(p *SwapPolicy) { p.OnMismatch = tokens.Deny }, func(b *bench) []ws.Frame {
			return []ws.Frame{frameOf(ws.OpText, true, true, "x"+b.token("evil.starpod.test")), frameOf(ws.OpText, true, true, "behind")}
		}, "", ws.StatusPolicyViolation, RuleMismatch},
		{"undecodable", func(p *SwapPolicy) { p.OnUndecodable = tokens.Deny }, func(b *bench) []ws.Frame {
			return []ws.Frame{frameOf(ws.OpBinary, true, true, testbench.Seal(b.t, bytes.Repeat([]byte{9}, 32), canary))}
		}, "", ws.StatusPolicyViolation, RuleUndecodable},
		{"in a fragment", func(p *SwapPolicy) { p.OnMismatch = tokens.Deny }, func(b *bench) []ws.Frame {
			return []ws.Frame{frameOf(ws.OpText, false, true, ""), frameOf(ws.OpContinuation, false, true, b.token("evil.starpod.test")), frameOf(ws.OpContinuation, true, true, "behind")}
		}, "", ws.StatusPolicyViolation, RuleMismatch},
		{"in a long frame", func(p *SwapPolicy) { p.OnMismatch, p.BodyBuffer = tokens.Deny, smallBuffer }, func(b *bench) []ws.Frame {
			return []ws.Frame{frameOf(ws.OpText, true, true, b.token("evil.starpod.test")+long)}
		}, "", ws.StatusPolicyViolation, RuleMismatch},
		{"no frame", func(*SwapPolicy) {}, func(*bench) []ws.Frame { return nil }, "\x89\xff\xff\xff\xff\xff\xff\xff\xff\xffmask", ws.StatusProtocolError, RuleWebSocket},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, func(p *Proxy) { test.policy(&p.Swap) })
			watchSecrecy(b)
			arrived := make(chan string, 1)
			conn, r := b.rawWebSocket(nil, func(conn net.Conn, r *bufio.Reader) {
				_, _ = conn.Write(wire(frameOf(ws.OpText, false, false, "half a message")))
				all, _ := io.ReadAll(r)
				arrived <- string(all)
			})
			half, err := testbench.ReadFrame(r)
			if err != nil || half.Header.Fin {
				t.Fatalf("got %+v (%v), want half a message", half.Header, err)
			}
			_, _ = conn.Write(append(wire(append([]ws.Frame{frameOf(ws.OpText, true, true, before)}, test.sent(b)...)...), test.raw...))
			heard := readFrames(r)
			_, _ = conn.Write(wire(frameOf(ws.OpText, true, true, "after")))
			_ = conn.Close()
			code, reason := ws.ParseCloseFrameData(heard[0].Payload)
			if heard[0].Header.OpCode != ws.OpClose || code != test.code || reason == "" {
				t.Errorf("the client got %q, want a Close frame with code %d", describe(heard), test.code)
			}
			if got := eventsOf(unwire(t, []byte(<-arrived))); len(got) != 1 || got[0] != "message 1 "+before {
				t.Errorf("the server got %q, want only what came before", got)
			}
			b.proxyIdle()
			if got := b.proxy.Stats.Counts().Refused; got != 1 {
				t.Errorf("refused: got %d, want 1", got)
			}
			if lines := b.logs.FilterMessage("request refused").FilterFieldKey("rule").All(); len(lines) != 1 || lines[0].ContextMap()["rule"] != test.rule {
				t.Errorf("got %v in the audit log, want one refusal by %s", lines, test.rule)
			}
		})
	}
}

// readFrames reads to the end, or to a Close frame.
func readFrames(r io.Reader) (all []ws.Frame) {
	for {
		f, err := testbench.ReadFrame(r)
		if err != nil {
			return append(all, ws.Frame{Payload: []byte(err.Error())})
		}
		if all = append(all, f); f.Header.OpCode == ws.OpClose {
			return all
		}
	}
}

// proxyIdle waits until the proxy has finished a request.
func (b *bench) proxyIdle() {
	b.t.Helper()
	testbench.Await(b.t, longest, func() error {
		if b.proxy.Stats.Requests.Load() == 0 {
			return fmt.Errorf("the proxy is still serving")
		}
		return nil
	})
}

// TestWebSocketRefusedClientStays: one that is sent away and does not go is cut off.
func TestWebSocketRefusedClientStays(t *testing.T) {
	b := newBench(t, nil)
	conn, r := b.rawWebSocket(nil, func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	_, _ = conn.Write([]byte("\x89\xff\xff\xff\xff\xff\xff\xff\xff\xffmask"))
	started := time.Now()
	if heard := readFrames(r); heard[0].Header.OpCode != ws.OpClose {
		t.Errorf("got %q, want a Close frame", describe(heard))
	}
	_, _ = r.ReadByte()
	if took := time.Since(started); took < parting/2 || took > 5*parting {
		t.Errorf("cut off after %v, want about %v", took, parting)
	}
}

// TestWebSocketServerMisbehaves: the client gets what was whole, then the reason.
func TestWebSocketServerMisbehaves(t *testing.T) {
	b := newBench(t, nil)
	conn, r := b.rawWebSocket(nil, func(conn net.Conn, r *bufio.Reader) {
		_, _ = conn.Write(append(wire(frameOf(ws.OpText, true, false, "good")), "\x89\x7f\xff\xff\xff\xff\xff\xff\xff\xff"...))
		_, _ = io.Copy(io.Discard, r)
	})
	heard := readFrames(r)
	_ = conn.Close()
	if len(heard) != 2 || string(heard[0].Payload) != "good" || heard[1].Header.OpCode != ws.OpClose || !strings.HasPrefix(string(heard[1].Payload), "\x03\xea") {
		t.Errorf("got %q, want the good frame and a Close frame with code 1002", describe(heard))
	}
	b.proxyIdle()
	if got := b.proxy.Stats.Counts().Refused; got != 1 {
		t.Errorf("refused: got %d, want 1", got)
	}
}

// TestWebSocketMasking hides values that come back, wherever they stand.
func TestWebSocketMasking(t *testing.T) {
	stars := strings.Repeat("*", len(canary))
	for name, test := range map[string]struct {
		sent []ws.Frame
		want []string
	}{
		"text":      {[]ws.Frame{frameOf(ws.OpText, true, false, "it is "+canary)}, []string{"message 1 it is " + stars}},
		"binary":    {[]ws.Frame{frameOf(ws.OpBinary, true, false, "\xff"+canary+canary)}, []string{"message 2 \xff" + stars + stars}},
		"fragments": {[]ws.Frame{frameOf(ws.OpText, false, false, "<"+canary[:5]), frameOf(ws.OpPing, true, false, canary), frameOf(ws.OpContinuation, false, false, canary[5:20]), frameOf(ws.OpContinuation, true, false, canary[20:]+">")}, []string{"9 " + stars, "message 1 <" + stars + ">"}},
		"a reason":  {[]ws.Frame{frameOf(ws.OpClose, true, false, "\x03\xe8not "+canary)}, []string{"8 \x03\xe8not " + stars}},
		"beginning only": {[]ws.Frame{frameOf(ws.OpText, true, false, canary[:9]), frameOf(ws.OpText, true, false, canary[9:])},
			[]string{"message 1 " + canary[:9], "message 1 " + canary[9:]}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			conn, r := b.rawWebSocket(nil, func(conn net.Conn, r *bufio.Reader) {
				_, _ = testbench.ReadFrame(r) // the value has come
				_, _ = conn.Write(wire(test.sent...))
			})
			_, _ = conn.Write(wire(frameOf(ws.OpText, true, true, b.token())))
			all, err := io.ReadAll(r)
			if got := eventsOf(unwire(t, all)); err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got %q (%v), want %q", got, err, test.want)
			}
		})
	}
}

// TestWebSocketUntouched: where nothing is looked for, not a byte changes.
func TestWebSocketUntouched(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Swap.Scan = AllPlaces &^ (1 << PlaceWebSocket) })
	in := append(wire(frameOf(ws.OpText, true, true, b.token()), frameOf(3, false, true, "x")), "\x89\xff\xff\xff no frame"...)
	conn, r := b.rawWebSocket(nil, func(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(conn, r) })
	_, _ = conn.Write(in)
	got := make([]byte, len(in))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, in) {
		t.Errorf("got %q (%v), want %q", got, err, in)
	}
}

// TestWebSocketAudit: one line tells of the connection when it has ended.
func TestWebSocketAudit(t *testing.T) {
	b := newBench(t, nil)
	watchSecrecy(b)
	conn, r := b.rawWebSocket(nil, func(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(conn, r) })
	_, _ = conn.Write(wire(frameOf(ws.OpText, true, true, b.token()), frameOf(ws.OpText, true, true, b.token("evil.starpod.test"))))
	for range 2 {
		if _, err := testbench.ReadFrame(r); err != nil {
			t.Fatal(err)
		}
	}
	_ = conn.Close()
	b.proxyIdle()
	lines := b.logs.FilterLevelExact(zapcore.WarnLevel).FilterMessage("tokens not replaced").All()
	if len(lines) != 1 || lines[0].ContextMap()["status"] != int64(101) {
		t.Fatalf("got %v, want one line with status 101", lines)
	}
	if got, want := fmt.Sprint(lines[0].ContextMap()["tokens"]), []string{"action:replace", "action:strip", "place:websocket", "reason:host"}; !containsAll(got, want) {
		t.Errorf("got tokens %s, want %v", got, want)
	}
	if counts := b.proxy.Stats.Counts(); counts.Replaced != 1 || counts.Stripped != 1 {
		t.Errorf("got %+v, want one replaced and one stripped", counts)
	}
}

func containsAll(text string, words []string) bool {
	return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
}
