package handler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/tokens"
)

// swapper swaps in requests as RoundTrip does, with no network around it.
type swapper struct {
	proxy  *Proxy
	keys   *tokens.Keyring
	holder *client
}

// swapperBuffer is its body_buffer.
const swapperBuffer = 1 << 10

func newSwapper(tb testing.TB) *swapper {
	tb.Helper()
	key, err := tokens.NewKey(randomKey)
	if err != nil {
		tb.Fatal(err)
	}
	s := &swapper{proxy: &Proxy{Swap: SwapPolicy{BodyBuffer: swapperBuffer}}, keys: tokens.NewKeyring(key)}
	s.proxy.Init()
	s.holder, _, _ = s.proxy.clients.take(theOnly, kindRequest)
	tb.Cleanup(func() { _ = s.proxy.Close(context.Background()) })
	return s
}

// errUnread tells that what was sent is no request.
var errUnread = errors.New("no request")

// swap reads a request to the API and returns the one that would be sent in its
// place, and its body.
func (s *swapper) swap(raw string) (out *http.Request, body string, err error) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil || ambiguousTarget(r.RequestURI) {
		return nil, "", errUnread
	}
	f := &forwarding{
		proxy: s.proxy, dest: Destination{Scheme: "https", Host: "api.starpod.test", Port: 443},
		in: r, original: r, holder: s.holder, host: r.Host, path: r.URL.EscapedPath(), keys: s.keys, started: time.Now(),
	}
	defer s.proxy.finish(f)
	sent := r.Clone(r.Context())
	sent.URL = f.targetURL(rawTarget(r))
	if out, err = f.swap(sent); err != nil {
		return nil, "", err
	}
	if out.Body == nil {
		return out, "", nil
	}
	got, err := io.ReadAll(out.Body)
	if err == nil && out.ContentLength >= 0 && int64(len(got)) != out.ContentLength {
		err = fmt.Errorf("a length of %d over a body of %d bytes", out.ContentLength, len(got))
	}
	return out, string(got), err
}

// swapBody sends a body with a length or in chunks, and returns what goes out.
func (s *swapper) swapBody(t *testing.T, c choices, contentType, body string) string {
	t.Helper()
	head := "POST / HTTP/1.1\r\nHost: api.starpod.test\r\n"
	if contentType != "" {
		head += "Content-Type: " + contentType + "\r\n"
	}
	raw := fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(body), body)
	if oneIn(c, 2) {
		raw = head + "Transfer-Encoding: chunked\r\n\r\n" + inChunks(c, body) + "\r\n"
	}
	_, got, err := s.swap(raw)
	if err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	return got
}

// fatedSecret seals a value for one of the ends that a token can come to.
func fatedSecret(tb testing.TB, fate byte, value string) randomSecret {
	tb.Helper()
	value = strings.ToValidUTF8(value, "?") // JSON has no other
	switch fate % 4 {
	case 1:
		return randomSecret{sealFixed(tb, randomKey, value, "evil.starpod.test"), "", tokens.Stripped}
	case 2:
		foreign := sealFixed(tb, []byte(strings.Repeat("\x09", 32)), value)
		return randomSecret{foreign, foreign, tokens.Left}
	}
	return randomSecret{sealFixed(tb, randomKey, value, "api.starpod.test"), value, tokens.Replaced}
}

// arrives is what stands in the place of the token when it was spelled like this.
func (s randomSecret) arrives(spelled string, form tokens.Form) string {
	var t twin
	s.token = spelled
	t.secret(&fuzzChoices{}, s, form, spelledRaw)
	return t.want.String()
}

func refusalRule(err error) string {
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		return refusal.Rule
	}
	return fmt.Sprint(err)
}
