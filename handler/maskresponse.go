package handler

import (
	"io"
	"net/http"
	"strings"
)

// maskCache keeps the mask of a request for as long as no token is added.
type maskCache struct {
	mask  *mask
	count int // tokens and credentials it was made of
}

// currentMask returns what must not come back in the answer; nil if nothing.
func (f *forwarding) currentMask() *mask {
	if f.proxy.Swap.Unmasked {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.tokens) + len(f.credentials); n != f.masked.count {
		f.masked = maskCache{newMask(f.tokens, f.credentials), n}
		if f.masked.mask != nil {
			f.masked.mask.hidden = &f.hidden
		}
	}
	return f.masked.mask
}

// late reports whether the request may bring tokens when its answer is under
// way already: in a body that is streamed, or in trailers.
func (f *forwarding) late() bool {
	return !f.proxy.Swap.Unmasked && (f.in.ContentLength < 0 || len(f.in.Trailer) > 0)
}

// askPlain asks for an answer that can be looked into, where there is something
// to look for: without a coding, and without a change of protocol that would
// carry the answer to this very request (h2c).
func (f *forwarding) askPlain(out *http.Request) {
	if upgrade := out.Header.Get("Upgrade"); upgrade != "" && !strings.EqualFold(upgrade, "websocket") && (f.late() || f.currentMask() != nil) {
		out.Header = out.Header.Clone()
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
	for _, name := range [...]string{"Accept-Encoding", "Grpc-Accept-Encoding", "Connect-Accept-Encoding"} {
		if _, asks := out.Header[name]; asks && f.currentMask() != nil {
			out.Header = out.Header.Clone()
			out.Header.Set(name, "identity")
		}
	}
}

// maskResponse hides in an answer what was put into the request. An answer that
// is compressed all the same is decoded first.
func (f *forwarding) maskResponse(res *http.Response) error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return f.switched(res)
	}
	applied := appliedCodings(res.Header)
	if f.late() && (len(applied) > 0 || messageCoding(res.Header) != "") {
		f.mu.Lock()
		f.passing = true // before the mask is read: from here on, late tokens are refused
		f.mu.Unlock()
	}
	m := f.currentMask()
	if m == nil && !f.late() {
		return nil
	}
	if m != nil {
		m.header(res.Header)
	}
	if res.Body == nil || res.Body == http.NoBody {
		return nil
	}
	body := res.Body
	if m != nil && f.in.Method != http.MethodHead && len(applied) > 0 {
		err := f.awaitDecoding(f.in.Context())
		if err != nil {
			return err
		}
		if body, err = decode(body, applied); err != nil {
			return err
		}
		res.Header.Del("Content-Encoding")
		res.Header.Del("Content-Length")
		res.ContentLength = -1
	}
	if m != nil {
		var err error
		if body, err = plainEnvelopes(res, body); err != nil {
			return err
		}
		f.mu.Lock()
		f.passing = false // what comes late is masked in the decoded answer
		f.mu.Unlock()
	}
	res.Body = &maskedTrailers{ReadCloser: newMaskReader(body, f.currentMask), f: f, res: res}
	return nil
}

// maskedTrailers masks the trailers when the body has ended.
type maskedTrailers struct {
	io.ReadCloser
	f   *forwarding
	res *http.Response
}

func (b *maskedTrailers) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		if m := b.f.currentMask(); m != nil {
			m.header(b.res.Trailer)
		}
	}
	return n, err
}
