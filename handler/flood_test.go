package handler

import (
	"bytes"
	"crypto/tls"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestFloodsOfFrames attacks a tunnel in the ways that have brought down servers of
// HTTP/2: its connection is ended, and other clients are served.
func TestFloodsOfFrames(t *testing.T) {
	for _, test := range []struct {
		name  string
		ends  bool // else nothing is kept of what comes
		flood func(f *http2.Framer, i int, authority string) error
	}{
		{"rapid reset (CVE-2023-44487)", true, func(f *http2.Framer, i int, authority string) error {
			id := uint32(2*i + 1)
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: floodHeader(authority), EndStream: true, EndHeaders: true}); err != nil {
				return err
			}
			return f.WriteRSTStream(id, http2.ErrCodeCancel)
		}},
		{"CONTINUATION (CVE-2023-45288)", true, func(f *http2.Framer, i int, authority string) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: floodHeader(authority)})
			}
			return f.WriteContinuation(1, false, floodField())
		}},
		{"PING (CVE-2019-9512)", true, func(f *http2.Framer, _ int, _ string) error { return f.WritePing(false, [8]byte{}) }},
		{"SETTINGS (CVE-2019-9515)", false, func(f *http2.Framer, _ int, _ string) error { return f.WriteSettings() }},
		{"resets by errors (CVE-2025-8671)", true, func(f *http2.Framer, i int, authority string) error {
			id := uint32(2*i + 1)
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: floodHeader(authority), EndStream: true, EndHeaders: true}); err != nil {
				return err
			}
			return f.WriteWindowUpdate(id, 1<<31-1) // overflows the window
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, func(p *Proxy) { p.Limits.Streams = floodStreams })
			release := b.stalls("/flood")
			defer close(release)
			conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "h2")
			most := count(25_000, 60_000) // net/http lets 10000 wait
			if test.ends {
				most = 600_000 // it ends before
			}
			if err := flood(conn, most, func(f *http2.Framer, i int) error { return test.flood(f, i, b.apiAuthority()) }); (err != nil) != test.ends {
				t.Errorf("got the end %v, want one: %v", err, test.ends)
			}
			if held := b.requestsHeld(); held > floodStreams {
				t.Errorf("got %d requests under way, want %d at most", held, floodStreams)
			}
			if response, _ := b.do(b.client(true), b.request("GET", b.up.URL("api.starpod.test")+"/", "")); response.StatusCode != 200 {
				t.Errorf("another client: got %d, want 200", response.StatusCode)
			}
		})
	}
}

const floodStreams = 10

// flood writes without reading until the connection is ended, which is the error,
// or for far more frames than net/http lets wait.
func flood(conn *tls.Conn, most int, write func(*http2.Framer, int) error) error {
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return err
	}
	var batch bytes.Buffer
	framer := http2.NewFramer(&batch, nil)
	if err := framer.WriteSettings(); err != nil {
		return err
	}
	for i := range most {
		if err := write(framer, i); err != nil {
			return err
		}
		if batch.Len() < 16<<10 {
			continue
		}
		if _, err := conn.Write(batch.Bytes()); err != nil {
			return err
		}
		batch.Reset()
	}
	return nil
}

func (b *bench) requestsHeld() int {
	b.proxy.clients.mu.Lock()
	defer b.proxy.clients.mu.Unlock()
	return b.proxy.clients.held[kindRequest]
}

// floodHeader is the header of a request that the destination does not answer. The
// table of the compression is not used.
func floodHeader(authority string) []byte {
	return fields(":method", "GET", ":scheme", "https", ":authority", authority, ":path", "/flood")
}

func floodField() []byte { return fields("x-flood", strings.Repeat("x", 4<<10)) }

func fields(pairs ...string) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(pairs); i += 2 {
		_ = encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1], Sensitive: true})
	}
	return block.Bytes()
}

// TestStreamsAreLimited: a connection of HTTP/2 has so many requests at one time,
// and one more is refused without having been looked at.
func TestStreamsAreLimited(t *testing.T) {
	b := newBench(t, func(p *Proxy) { p.Limits.Streams = 3 })
	release := b.stalls("/flood")
	defer close(release)
	conn := b.tunnel(b.apiAuthority(), "api.starpod.test", "h2")
	_ = conn.SetDeadline(time.Now().Add(longest))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	stated := awaitFrame[*http2.SettingsFrame](t, framer)
	if got, _ := stated.Value(http2.SettingMaxConcurrentStreams); got != 3 {
		t.Errorf("the server states %d streams, want 3", got)
	}
	if err := framer.WriteSettingsAck(); err != nil {
		t.Fatal(err)
	}
	for id := uint32(1); id <= 7; id += 2 {
		head := http2.HeadersFrameParam{StreamID: id, BlockFragment: floodHeader(b.apiAuthority()), EndStream: true, EndHeaders: true}
		if err := framer.WriteHeaders(head); err != nil {
			t.Fatal(err)
		}
	}
	if reset := awaitFrame[*http2.RSTStreamFrame](t, framer); reset.StreamID != 7 {
		t.Errorf("stream %d is refused with %v, want stream 7", reset.StreamID, reset.ErrCode)
	}
}

// awaitFrame reads until a frame of a type comes.
func awaitFrame[F http2.Frame](t *testing.T, framer *http2.Framer) F {
	t.Helper()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("waiting for a frame: %v", err)
		}
		if wanted, ok := frame.(F); ok {
			return wanted
		}
	}
}
