package handler

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

// enveloped puts the length and the flags in front of a message, which is
// compressed in the coding unless that is empty.
func enveloped(t *testing.T, flags byte, text, name string) string {
	t.Helper()
	var payload bytes.Buffer
	payload.WriteString(text)
	if name != "" {
		payload.Reset()
		w, err := codings[name].encode(&payload)
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		flags |= envelopeCompressed
	}
	head := binary.BigEndian.AppendUint32([]byte{flags}, uint32(payload.Len()))
	return string(head) + payload.String()
}

func TestPlainEnvelopes(t *testing.T) {
	long := strings.Repeat("long ", 1<<16)
	for _, test := range []struct {
		name, media, field, coding string
		sent, want                 string
	}{
		{"gRPC, gzip", "application/grpc", "Grpc-Encoding", "gzip", enveloped(t, 0, "a", "gzip") + enveloped(t, 0, long, "gzip"), enveloped(t, 0, "a", "") + enveloped(t, 0, long, "")},
		{"gRPC, deflate", "application/grpc+proto", "Grpc-Encoding", "deflate", enveloped(t, 0, "a", "deflate"), enveloped(t, 0, "a", "")},
		{"gRPC, zstd in capitals", "Application/GRPC; x=y", "Grpc-Encoding", "ZSTD", enveloped(t, 0, long, "zstd"), enveloped(t, 0, long, "")},
		{"plain messages in between", "application/grpc", "Grpc-Encoding", "gzip", enveloped(t, 0, long, "") + enveloped(t, 0, "a", "gzip") + enveloped(t, 0, "", ""), enveloped(t, 0, long, "") + enveloped(t, 0, "a", "") + enveloped(t, 0, "", "")},
		{"compressed, of no length", "application/grpc", "Grpc-Encoding", "gzip", "\x01\x00\x00\x00\x00", "\x00\x00\x00\x00\x00"},
		{"nothing", "application/grpc", "Grpc-Encoding", "gzip", "", ""},
		{"gRPC-Web trailers", "application/grpc-web+proto", "Grpc-Encoding", "gzip", enveloped(t, 0x80, "grpc-status: 0", "gzip"), enveloped(t, 0x80, "grpc-status: 0", "")},
		{"end of a Connect stream", "application/connect+json", "Connect-Content-Encoding", "br", enveloped(t, 2, "{}", "br"), enveloped(t, 2, "{}", "")},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, cut := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader, iotest.HalfReader} {
				res := &http.Response{Header: http.Header{"Content-Type": {test.media}, test.field: {test.coding}, "Content-Length": {"1"}}, ContentLength: 1}
				body, err := plainEnvelopes(res, io.NopCloser(cut(strings.NewReader(test.sent))))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(body)
				if err != nil || string(got) != test.want {
					t.Errorf("got %.80q (%v), want %.80q", got, err, test.want)
				}
				if res.ContentLength != -1 || len(res.Header) != 1 {
					t.Errorf("got length %d and fields %v, want neither length nor coding", res.ContentLength, res.Header)
				}
			}
		})
	}
}

// TestOtherEnvelopes are left as they are, or refused where nobody could look
// into them.
func TestOtherEnvelopes(t *testing.T) {
	for _, h := range []http.Header{
		{"Content-Type": {"application/grpc"}},
		{"Content-Type": {"application/grpc"}, "Grpc-Encoding": {"identity"}},
		{"Content-Type": {"text/plain"}, "Grpc-Encoding": {"gzip"}},
		{},
	} {
		body := io.NopCloser(strings.NewReader("x"))
		if got, err := plainEnvelopes(&http.Response{Header: h}, body); got != body || err != nil {
			t.Errorf("%v: got %v (%v), want the body as it is", h, got, err)
		}
	}
	h := http.Header{"Content-Type": {"application/grpc"}, "Grpc-Encoding": {"snappy"}}
	var refusal *Refusal
	if _, err := plainEnvelopes(&http.Response{Header: h}, nil); !errors.As(err, &refusal) || refusal.Rule != RuleCoding {
		t.Errorf("snappy: got %v, want a refusal by the rule %s", err, RuleCoding)
	}
}

func TestBrokenEnvelopes(t *testing.T) {
	whole := enveloped(t, 0, "text", "gzip")
	for name, sent := range map[string]string{
		"in the head":               whole[:3],
		"in a compressed message":   whole[:len(whole)-3],
		"in a plain message":        "\x00\x00\x00\x00\x09abc",
		"no gzip at all":            "\x01\x00\x00\x00\x03abc",
		"longer than can be looked": enveloped(t, 0, strings.Repeat("x", maxEnvelope+1), "gzip"),
	} {
		res := &http.Response{Header: http.Header{"Content-Type": {"application/grpc"}, "Grpc-Encoding": {"gzip"}}}
		body, err := plainEnvelopes(res, io.NopCloser(strings.NewReader(sent)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); err == nil {
			t.Errorf("%s: got %.20q without an error, want one", name, got)
		}
	}
}
