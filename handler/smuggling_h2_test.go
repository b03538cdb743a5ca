package handler

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Message is one request over HTTP/2, written frame by frame. {host} stands for
// the API's authority and {evil} for another at the same address.
type h2Message struct {
	fields   [][2]string
	data     []string    // one DATA frame each
	trailers [][2]string // the end of the stream, if there are any
}

// over2 are the fields that every request has, with others behind.
func over2(method string, more ...string) (fields [][2]string) {
	fields = [][2]string{{":method", method}, {":scheme", "https"}, {":authority", "{host}"}, {":path", "/"}}
	for i := 0; i < len(more); i += 2 {
		fields = append(fields, [2]string{more[i], more[i+1]})
	}
	return fields
}

// with returns the fields with another value for one.
func with(fields [][2]string, name, value string) [][2]string {
	for i := range fields {
		if fields[i][0] == name {
			fields[i][1] = value
		}
	}
	return fields
}

const (
	// refused is for what the server resets while the handler refuses it.
	refused = "400 or a reset"

	// bodyGone is for data that comes when the request without it has gone on.
	bodyGone = "at most a request without a body"
)

// smugglingOver2 has the status, "" for a stream that was reset, and what an
// upstream got that speaks HTTP/1.
var smugglingOver2 = []struct {
	name    string
	sent    h2Message
	status  string
	reached string
}{
	{"a length that is kept", h2Message{over2("POST", "content-length", "5"), []string{"hel", "lo"}, nil}, "200", sized},
	{"no length", h2Message{over2("POST"), []string{"hello"}, nil}, "200", chunked},
	{"length longer than the data (CVE-2021-21295, Netty)", h2Message{over2("POST", "content-length", "50"), []string{"hello"}, nil}, refused, nothing},
	{"length shorter than the data (CVE-2021-21409, Netty)", h2Message{over2("POST", "content-length", "2"), []string{"hello"}, nil}, refused, nothing},
	{"length without data", h2Message{over2("POST", "content-length", "5"), nil, nil}, "400", nothing},
	{"length of 0 with data", h2Message{over2("POST", "content-length", "0"), []string{smuggle}, nil}, "200 or a reset", bodyGone},
	{"two lengths", h2Message{over2("POST", "content-length", "5", "content-length", "0"), []string{"hello"}, nil}, refused, nothing},
	{"lengths in a list", h2Message{over2("POST", "content-length", "5, 5"), []string{"hello"}, nil}, refused, nothing},
	{"length with a plus", h2Message{over2("POST", "content-length", "+5"), []string{"hello"}, nil}, refused, nothing},
	{"negative length", h2Message{over2("POST", "content-length", "-5"), nil, nil}, "400", nothing},
	{"transfer coding (H2.TE; CVE-2021-33193, Apache)", h2Message{over2("POST", "transfer-encoding", "chunked"), []string{"0\r\n\r\n" + smuggle}, nil}, "400", nothing},
	{"transfer coding in the trailers", h2Message{over2("POST"), []string{"hello"}, [][2]string{{"transfer-encoding", "chunked"}}}, "200", chunked},
	{"length in the trailers", h2Message{over2("POST"), []string{"hello"}, [][2]string{{"content-length", "50"}}}, "200", chunked},
	{"pseudo-field in the trailers", h2Message{over2("POST"), []string{"hello"}, [][2]string{{":path", "/smuggled"}}}, "", cutShort},
	{"te that is not trailers", h2Message{over2("GET", "te", "gzip"), nil, nil}, "400", nothing},
	{"connection", h2Message{over2("GET", "connection", "x-a", "x-a", "b"), nil, nil}, "400", nothing},
	{"proxy-connection", h2Message{over2("GET", "proxy-connection", "close"), nil, nil}, "400", nothing},
	{"keep-alive", h2Message{over2("GET", "keep-alive", "5"), nil, nil}, "400", nothing},
	{"upgrade", h2Message{over2("GET", "upgrade", "h2c"), nil, nil}, "400", nothing},

	{"line break in a value", h2Message{over2("GET", "x-a", "b\r\ntransfer-encoding: chunked"), nil, nil}, "", nothing},
	{"LF in a value", h2Message{over2("GET", "x-a", "b\nx-b: c"), nil, nil}, "", nothing},
	{"NUL in a value", h2Message{over2("GET", "x-a", "b\x00c"), nil, nil}, "", nothing},
	{"line break in a name", h2Message{over2("GET", "x-a: b\r\nx-b", "c"), nil, nil}, "", nothing},
	{"colon in a name", h2Message{over2("GET", "transfer-encoding:chunked", ""), nil, nil}, "", nothing},
	{"space in a name", h2Message{over2("GET", "transfer-encoding ", "chunked"), nil, nil}, "", nothing},
	{"empty name", h2Message{over2("GET", "", "b"), nil, nil}, "", nothing},
	{"name in capitals", h2Message{over2("GET", "X-A", "b"), nil, nil}, "", nothing},
	{"line break in the method", h2Message{with(over2("x"), ":method", "GET / HTTP/1.1\r\nX:"), nil, nil}, "", nothing},
	{"space in the method", h2Message{with(over2("x"), ":method", "GET /smuggled HTTP/1.1"), nil, nil}, "400", nothing},
	{"line break in the path", h2Message{with(over2("GET"), ":path", "/ HTTP/1.1\r\nX: y"), nil, nil}, "", nothing},
	{"line break in the authority", h2Message{with(over2("GET"), ":authority", "{host}\r\nX: y"), nil, nil}, "", nothing},
	{"line break in the scheme", h2Message{with(over2("GET"), ":scheme", "https://x\r\nX: y"), nil, nil}, "", nothing},

	{"space in the path", h2Message{with(over2("GET"), ":path", "/ HTTP/1.1"), nil, nil}, "400", nothing},
	{"tab in the path", h2Message{with(over2("GET"), ":path", "/\tx"), nil, nil}, "", nothing},
	{"fragment in the path", h2Message{with(over2("GET"), ":path", "/x#/y"), nil, nil}, "400", nothing},
	{"empty path", h2Message{with(over2("GET"), ":path", ""), nil, nil}, "", nothing},
	{"path without a slash", h2Message{with(over2("GET"), ":path", "x"), nil, nil}, "", nothing},
	{"URL of another for a path", h2Message{with(over2("GET"), ":path", "https://{evil}/"), nil, nil}, "421", nothing},
	{"URL with a user for a path", h2Message{with(over2("GET"), ":path", "https://{host}@{evil}/"), nil, nil}, "400", nothing},
	{"plain URL for a path", h2Message{with(over2("GET"), ":path", "http://{host}/"), nil, nil}, "400", nothing},
	{"asterisk for another method", h2Message{with(over2("GET"), ":path", "*"), nil, nil}, "200", "GET * HTTP/1.1\r\nHost: {host}\r\n\r\n"},

	// net/http does not tell it; it goes the way of the tunnel, by https.
	{"scheme http", h2Message{with(over2("GET"), ":scheme", "http"), nil, nil}, "200", bare},
	{"scheme of a WebSocket", h2Message{with(over2("GET"), ":scheme", "wss"), nil, nil}, "", nothing},
	{"no scheme", h2Message{with(over2("GET"), ":scheme", ""), nil, nil}, "", nothing},
	{"two methods", h2Message{append([][2]string{{":method", "GET"}}, over2("POST")...), nil, nil}, "", nothing},
	{"two paths", h2Message{append([][2]string{{":path", "/x"}}, over2("GET")...), nil, nil}, "", nothing},
	{"two authorities", h2Message{append([][2]string{{":authority", "{evil}"}}, over2("GET")...), nil, nil}, "", nothing},
	{"pseudo-field behind a field", h2Message{append([][2]string{{"x-a", "b"}}, over2("GET")...), nil, nil}, "", nothing},
	{"unknown pseudo-field", h2Message{append([][2]string{{":x", "b"}}, over2("GET")...), nil, nil}, "", nothing},
	{"pseudo-field of an answer", h2Message{append([][2]string{{":status", "200"}}, over2("GET")...), nil, nil}, "", nothing},

	{"authority of another", h2Message{with(over2("GET"), ":authority", "{evil}"), nil, nil}, "421", nothing},
	{"authority with a user", h2Message{with(over2("GET"), ":authority", "x@{host}"), nil, nil}, "", nothing},
	{"no authority", h2Message{with(over2("GET"), ":authority", ""), nil, nil}, "421", nothing},
	{"Host of another beside the authority", h2Message{over2("GET", "host", "{evil}"), nil, nil}, "421", nothing},
	{"the same Host beside the authority", h2Message{over2("GET", "host", "{host}"), nil, nil}, "200", bare},
	{"two Hosts beside the authority, the second another", h2Message{over2("GET", "host", "{host}", "host", "{evil}"), nil, nil}, "421", nothing},
	{"Host of another without an authority", h2Message{with(over2("GET", "host", "{evil}"), ":authority", ""), nil, nil}, "421", nothing},

	{"CONNECT", h2Message{[][2]string{{":method", "CONNECT"}, {":authority", "{evil}"}}, nil, nil}, "400", nothing},
	{"CONNECT to the same", h2Message{[][2]string{{":method", "CONNECT"}, {":authority", "{host}"}}, nil, nil}, "400", nothing},
	{"extended CONNECT", h2Message{append([][2]string{{":protocol", "websocket"}}, over2("CONNECT")...), nil, nil}, "", nothing},
}

// TestSmugglingOverHTTP2 sends such frames to an upstream that speaks HTTP/1, so
// that fields and framing are written anew in another syntax.
func TestSmugglingOverHTTP2(t *testing.T) {
	b := newBench(t, nil)
	pki := testbench.NewPKI(t)
	b.proxy.Egress.Roots.AppendCertsFromPEM(pki.RootPEM)
	b.proxy.Init()
	leaf := pki.Leaf(t)
	for _, row := range smugglingOver2 {
		t.Run(row.name, func(t *testing.T) {
			b.t, b.up = t, testbench.NewUpstreamWith(t, leaf, "http/1.1")
			fill := strings.NewReplacer("{host}", b.apiAuthority(), "{evil}", fmt.Sprintf("evil.starpod.test:%d", b.up.Port()))
			b.logs.TakeAll()
			if got := b.sendFrames(row.sent, fill); got != row.status && (got != "" || !strings.HasSuffix(row.status, "or a reset")) && !strings.HasPrefix(row.status, got+" or") {
				t.Errorf("got the status %q, want %q", got, row.status)
			}
			for _, entry := range b.logs.All() {
				if strings.Contains(entry.Message, "panic") {
					t.Errorf("the server panicked: %.200s", entry.Message)
				}
			}
			if row.reached == cutShort {
				b.noCompleteRequest()
				return
			}
			var got strings.Builder
			for _, request := range b.up.Requests() {
				got.WriteString(plainMessage(string(request.Raw)))
			}
			want := row.reached
			switch want {
			case bodyGone:
				if want = ""; got.Len() > 0 {
					want = plainMessage(fill.Replace(empty))
				}
			case nothing:
			default:
				want = plainMessage(fill.Replace(want))
			}
			if got.String() != want {
				t.Errorf("the upstream got %q\nwant            %q", got.String(), want)
			}
			if row.reached == nothing {
				b.nothingReached()
			}
		})
	}
}

// sendFrames sends one request into a new tunnel to the API and returns :status,
// "" if the stream or the connection was reset before there was one.
func (b *bench) sendFrames(sent h2Message, fill *strings.Replacer) string {
	b.t.Helper()
	return b.sendFramesOver(b.tunnel(b.apiAuthority(), "api.starpod.test", "h2"), sent, fill)
}

func (b *bench) sendFramesOver(conn net.Conn, sent h2Message, fill *strings.Replacer) string {
	b.t.Helper()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		b.t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encode := func(fields [][2]string) []byte {
		block.Reset()
		for _, field := range fields {
			if field[1] == "" && strings.HasPrefix(field[0], ":") && field[0] != ":path" {
				continue // left out
			}
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: fill.Replace(field[1])})
		}
		return block.Bytes()
	}
	headers := func(fields [][2]string, last bool) {
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(fields), EndStream: last, EndHeaders: true})
	}
	_ = framer.WriteSettings()
	headers(sent.fields, len(sent.data) == 0 && len(sent.trailers) == 0)
	for i, data := range sent.data {
		_ = framer.WriteData(1, i == len(sent.data)-1 && len(sent.trailers) == 0, []byte(data))
	}
	if len(sent.trailers) > 0 {
		headers(sent.trailers, true)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return ""
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return ""
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		}
	}
}
