package handler

import (
	"cmp"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/starpod/caddy-starpod/tokens"
	"golang.org/x/net/http/httpguts"
)

// swapTransport is where tokens become values: it swaps on a copy of the
// request and sends the copy. Nothing above it ever sees a value.
type swapTransport struct{ proxy *Proxy }

// RoundTrip implements http.RoundTripper.
func (t *swapTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	f := forwardingFrom(req.Context())
	out, err := f.swap(req)
	if err != nil {
		return nil, err
	}
	if len(f.tokens) > 0 || f.late() {
		guardStandardLog()
	}
	if _, stated := f.in.Header["Content-Length"]; stated && out.ContentLength == 0 {
		out.Body, out.TransferEncoding = http.NoBody, []string{"identity"} // has net/http state the zero
	}
	f.askPlain(out)
	f.askFollowable(out)
	out.Close = out.Close || authenticatesConnection(out.Header)
	res, err := t.proxy.upstream.send(out, f)
	if err != nil {
		return nil, err
	}
	if err := f.maskResponse(res); err != nil {
		_ = res.Body.Close()
		return nil, err
	}
	return res, nil
}

// authenticatesConnection reports whether a request may log its connection in, and
// not only itself, as NTLM does, and Negotiate with it (RFC 4559, section 6). Nobody
// else's request may follow on such a connection.
func authenticatesConnection(h http.Header) bool {
	return slices.ContainsFunc(h["Authorization"], func(value string) bool {
		scheme := strings.TrimLeft(value, " \t")
		if end := strings.IndexAny(scheme, " \t"); end >= 0 {
			scheme = scheme[:end]
		}
		return strings.EqualFold(scheme, "NTLM") || strings.EqualFold(scheme, "Negotiate")
	})
}

// interruptible is a body over HTTP/2 whose Close ends a Read that waits for the
// client: an answer may end while the client keeps its half open, and then the
// transport waits until nobody reads any more. ReverseProxy's own Close does nothing.
type interruptible struct {
	io.ReadCloser
	client io.Closer
}

func (b *interruptible) Close() error {
	return errors.Join(b.ReadCloser.Close(), b.client.Close())
}

// swap returns a copy of req with its tokens swapped; req stays as it is. A
// part that holds no token is shared with req.
func (f *forwarding) swap(req *http.Request) (*http.Request, error) {
	out := req.WithContext(req.Context())
	if err := f.swapURL(out); err != nil {
		return nil, err
	}
	if err := f.swapHeaders(out); err != nil {
		return nil, err
	}
	if err := f.swapBody(out); err != nil {
		return nil, err
	}
	f.swapTrailers(out)
	return out, nil
}

// scanner makes a scanner for one place of this request.
func (f *forwarding) scanner(place Place, form tokens.Form) *tokens.Scanner {
	policy := f.proxy.Swap
	s := &tokens.Scanner{
		Keys: f.keys, Form: form,
		OnMismatch: policy.OnMismatch, OnUndecodable: policy.OnUndecodable,
		Target: tokens.Target{
			Host: f.dest.Host, Port: f.dest.Port, Time: f.started,
			Method: f.in.Method, Path: f.path,
		},
		OnToken: func(t tokens.Token) error { return f.found(place, t) },
	}
	if f.dest.Scheme == "http" && policy.PlaintextHTTP != PlaintextReplace {
		s.Refuse = reasonPlaintext
		s.OnMismatch = tokens.Strip
		if policy.PlaintextHTTP == PlaintextDeny {
			s.OnMismatch = tokens.Deny
		}
	}
	return s
}

const reasonPlaintext tokens.Reason = "plaintext"

// maxNoted is how many tokens of one request are told of in the audit log. What
// was replaced is noted in any case, for its value has to be hidden later.
const maxNoted = 1000

// found takes note of a token, and refuses the request where it must not go on.
func (f *forwarding) found(place Place, t tokens.Token) error {
	f.proxy.Stats.countToken(t)
	f.mu.Lock()
	// A body may repeat a token, or bring others that open with no key, without end.
	note := foundToken{t, place}
	if (len(f.tokens) < maxNoted || t.Action == tokens.Replaced) && !slices.Contains(f.tokens, note) {
		f.tokens = append(f.tokens, note)
	}
	passing := f.passing
	f.mu.Unlock()
	switch {
	case t.Action == tokens.Denied:
		return refuseToken(t)
	case passing && t.Action == tokens.Replaced && len(t.Value.Reveal()) >= minMasked:
		return &Refusal{
			Status: http.StatusBadRequest, Rule: RuleCoding,
			Reason: "token " + t.ID + " came when a compressed answer was under way, which cannot be masked any more",
			Mend:   "send the token before the answer begins, or ask for `Accept-Encoding: identity`",
		}
	case place == PlaceHeader && t.Action == tokens.Replaced && !httpguts.ValidHeaderFieldValue(t.Value.Reveal()):
		return &Refusal{
			Status: http.StatusBadRequest, Rule: RuleHeaderValue,
			Reason: "the value of token " + t.ID + " has characters that no header may carry (a line break or NUL)",
			Mend:   "seal the value without its line break, or send it in the body",
		}
	}
	return nil
}

func refuseToken(t tokens.Token) *Refusal {
	refusal := &Refusal{Status: http.StatusForbidden, Rule: RuleMismatch}
	switch t.Reason {
	case tokens.ReasonUndecodable:
		refusal.Rule = RuleUndecodable
		refusal.Reason = "token " + t.ID + " was sealed with another key"
		refusal.Mend = "seal it anew, or add the key it was sealed with to `master_key_file`"
	case reasonPlaintext:
		refusal.Rule = RulePlaintext
		refusal.Reason = "token " + t.ID + " may not go out over http://"
		refusal.Mend = "use https://, or set `plaintext_http replace`"
	default:
		refusal.Reason = "token " + t.ID + " is not for this request (" + string(t.Reason) + ")"
		refusal.Mend = "seal the secret for this host, method and path"
	}
	return refusal
}

// swapURL swaps in path and query, which are scanned apart.
func (f *forwarding) swapURL(out *http.Request) error {
	path := out.URL.Opaque
	if path == "" {
		path = cmp.Or(out.URL.RawPath, out.URL.EscapedPath())
	}
	stripped := f.result.Stripped
	newPath, err := f.swapString(PlacePath, tokens.Percent, path)
	if err == nil && f.result.Stripped > stripped {
		err = f.strippedPath(path, newPath)
	}
	if err != nil {
		return err
	}
	query, err := f.swapString(PlaceQuery, tokens.Percent, out.URL.RawQuery)
	if err != nil {
		return err
	}
	if newPath == path && query == out.URL.RawQuery && out.URL.Opaque != "" {
		return nil
	}
	u := *out.URL
	u.RawQuery, u.ForceQuery = query, u.ForceQuery || u.RawQuery != "" && query == ""
	if out.URL.Opaque != "" && (strings.HasPrefix(path, "//") || !strings.HasPrefix(newPath, "//")) {
		u.Opaque = newPath
	} else {
		setRawPath(&u, newPath) // stripping may leave two slashes in front
	}
	out.URL = &u
	return nil
}

// strippedPath makes the path without its stripped tokens the one that the globs
// of other tokens are held against, and refuses one that climbs only now. What
// was stripped counts as a letter before: a token may hold slashes of its own.
func (f *forwarding) strippedPath(before, after string) error {
	start := 0
	for start < len(after) && start < len(before) && before[start] == after[start] {
		start++
	}
	end := len(after)
	for cut := len(before) - len(after); end > start && end+cut > start && before[end+cut-1] == after[end-1]; {
		end--
	}
	anywhere := tokens.Secret{Paths: []string{"**"}} // but where a path climbs
	if anywhere.Permits(tokens.Target{Path: after[:start] + "x" + after[end:]}) == tokens.ReasonNone &&
		anywhere.Permits(tokens.Target{Path: after}) != tokens.ReasonNone {
		return refuseAuthority("without the tokens that are not for this host the path has . or .. segments")
	}
	f.path = after
	return nil
}

// swapString swaps in text of one place. It returns text itself where that
// place is not scanned or holds no token.
func (f *forwarding) swapString(place Place, form tokens.Form, text string) (string, error) {
	if !f.proxy.Swap.Scan.Has(place) || !tokens.ContainsString(text) {
		return text, nil
	}
	s := f.scanner(place, form)
	swapped, err := s.ScanString(text)
	f.add(s.Result)
	return swapped, err
}

func (f *forwarding) add(r tokens.Result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.result.Replaced += r.Replaced
	f.result.Stripped += r.Stripped
	f.result.Undecodable += r.Undecodable
}

// swapHeaders swaps in header values, on a copy of the header once one changes.
func (f *forwarding) swapHeaders(out *http.Request) error {
	header, err := f.swapFields(out.Header)
	if err != nil {
		return err
	}
	out.Header = header
	return nil
}

func (f *forwarding) swapFields(h http.Header) (http.Header, error) {
	swapped, copied := h, false
	for name, values := range h {
		for i, value := range values {
			fresh, err := f.swapField(name, value)
			if err != nil {
				return nil, err
			}
			if fresh == value {
				continue
			}
			if !copied {
				swapped, copied = h.Clone(), true
			}
			// What stripping or a value leaves at the ends is no part of a field, and
			// breaks an HTTP/2 request (RFC 9113, section 8.2.1).
			swapped[name][i] = strings.Trim(fresh, " \t")
		}
	}
	return swapped, nil
}

// swapField swaps in one field value. Basic credentials (RFC 7617) are looked
// into as well, since clients encode the token before we see it.
func (f *forwarding) swapField(name, value string) (string, error) {
	if name == "Authorization" && f.proxy.Swap.Scan.Has(PlaceBasic) {
		if fresh, ok, err := f.swapBasic(value); ok || err != nil {
			return fresh, err
		}
	}
	return f.swapString(PlaceHeader, tokens.Raw, value)
}

// swapBasic swaps inside Basic credentials; ok is false where there are none or
// no token is in them.
func (f *forwarding) swapBasic(value string) (fresh string, ok bool, err error) {
	const scheme = "basic"
	if len(value) <= len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", false, nil
	}
	blob := strings.TrimLeft(value[len(scheme):], " \t")
	start := len(value) - len(blob)
	if start == len(scheme) {
		return "", false, nil
	}
	encoding := base64.RawStdEncoding
	body := strings.TrimRight(blob, "=")
	if body != blob {
		encoding = base64.StdEncoding
	}
	plain, err := base64.RawStdEncoding.DecodeString(body)
	if err != nil || !tokens.Contains(plain) {
		return "", false, nil
	}
	s := f.scanner(PlaceBasic, tokens.Raw)
	swapped, err := s.Bytes(plain)
	f.add(s.Result)
	if err != nil {
		return "", false, err
	}
	if s.Result.Replaced+s.Result.Stripped == 0 {
		return value, true, nil
	}
	if len(plain)%3 == 0 {
		// The old length had no need of padding, so it does not tell the style.
		encoding = base64.StdEncoding
	}
	credential := encoding.EncodeToString(swapped)
	f.mu.Lock()
	f.credentials = append(f.credentials, credential)
	f.mu.Unlock()
	return value[:start] + credential, true, nil
}
