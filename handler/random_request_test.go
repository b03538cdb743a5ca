package handler

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/tokens"
)

// randomRequest is a request in two versions, see twin.
type randomRequest struct {
	method   string
	target   twin
	fields   []*twin // "Name: value"
	body     *twin   // nil for none
	chunked  bool
	trailers []*twin
	announce bool // name the trailers in the header
	coding   *randomCoding
	hidden   bool // it begins with a value that answers are searched for
}

// requestMaker makes random requests.
type requestMaker struct {
	choices
	tb      testing.TB
	secrets bool // whether this one has any
	late    bool // what comes now is read when the head has been sent, or not at all
	made    *randomRequest
}

func (m *requestMaker) secret(t *twin, form tokens.Form, inField bool, spellings []spelling) {
	if !m.secrets {
		t.text("secret")
		return
	}
	s := newRandomSecret(m.tb, m, inField)
	m.made.hidden = m.made.hidden || !m.late && s.fate == tokens.Replaced && len(s.value) >= minMasked
	t.secret(m, s, form, spellings)
}

func (m *requestMaker) request() *randomRequest {
	m.made = &randomRequest{method: pick(m, "GET", "GET", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND", "frob-nicate!", "M-SEARCH")}
	m.secrets = !oneIn(m, 4)
	m.target()
	for range m.IntN(8) {
		m.field()
	}
	if !oneIn(m, 3) {
		m.body()
	}
	return m.made
}

func (m *requestMaker) target() {
	t := &m.made.target
	if m.made.method == "OPTIONS" && oneIn(m, 4) {
		t.text("*")
		return
	}
	t.text("/")
	for i := range m.IntN(5) {
		if i > 0 {
			t.text("/")
		}
		switch m.IntN(8) {
		case 0:
			t.text("bot")
			m.secret(t, tokens.Percent, false, spelledURL)
		case 1:
			m.secret(t, tokens.Percent, false, spelledURL)
			t.text("=x")
		default:
			t.text(pick(m, "", "v1", ".", "..", "a%2Fb", "%2f%2F", "%7euser", "a;b=c;d", "ü", "%c3%bc", "\xff", "a+b", `"|^`+"`{}", "%25", "a:b@c", "!$&'()*,", "starpod:v1:", "http://other/x", "~", "[1]"))
		}
	}
	if oneIn(m, 2) {
		return
	}
	t.text("?")
	for i := range m.IntN(5) {
		if i > 0 {
			t.text(pick(m, "&", "&", ";", "&&", "?"))
		}
		switch m.IntN(7) {
		case 0:
			t.text("key=")
			m.secret(t, tokens.Percent, false, spelledURL)
		case 1:
			t.text(`j={"k":"`)
			m.secret(t, tokens.Percent, false, spelledJSON)
			t.text(`"}`)
		case 2:
			m.secret(t, tokens.Percent, false, spelledURL)
		default:
			t.text(pick(m, "a=1", "a=2", "b=%zz", "=", "", "a", "q=x+y", "ü=ü", "p=%2B%2b", `j={"a":1}`, "long="+strings.Repeat("x", 300), "redirect=https://a/b?c=d", "%"))
		}
	}
}

func (m *requestMaker) field() {
	t := new(twin)
	switch m.IntN(9) {
	case 0:
		t.text(pick(m, "Authorization", "X-Api-Key", "access_token", "X.Dotted.Name") + ": " + pick(m, "Bearer ", "token ", "", "a\t"))
		m.secret(t, tokens.Raw, true, spelledRaw)
		t.text(pick(m, "", "!", ", x"))
	case 1:
		m.basic(t)
	case 2:
		t.text(pick(m, "Cookie", "cookie") + ": a=1; s=")
		m.secret(t, tokens.Raw, true, []spelling{spellPlain, spellPercent})
		t.text("; a=2; t=")
		m.secret(t, tokens.Raw, true, []spelling{spellPercent})
	case 3:
		t.text(`X-Json: {"k":"`)
		m.secret(t, tokens.Raw, true, spelledJSON)
		t.text(`"}`)
	default:
		t.text(pick(m, "X-A: 1", "x-a: 2", "X-A: 1", "X-Empty:", "X-Empty: ", "User-Agent: mine/1 (x; y)", "User-Agent:", "Accept: */*;q=0.1",
			"Accept-Encoding: br;q=0.5, zstd", "Te: trailers", "X-Forwarded-For: 1.2.3.4, 5", "X-Forwarded-Host: h", "X-Forwarded-Proto: p", "Forwarded: for=x;by=\"y\"",
			"Via: 1.0 me", "X-Real-IP: 1", "X-Latin: \xe4\xc3\xa4", "If-None-Match: W/\"x\"", "Range: bytes=1-2", "!#$%&'*+-^`|~: odd", "3-x: 1",
			"Cookie: "+strings.Repeat("a=1; ", 3000), "Host_: x", "content_length: 5", "X-Quote: \"a, b\\\"", "Referer: https://x/?a=%20#b", "Date: never",
			"Content-Language: de", "X-Starpod: starpod:v1:AAAA", "Authorization: Basic ====", "Authorization: Basic", "Cache-Control: no-cache", "Pragma: no-cache"))
	}
	m.made.fields = append(m.made.fields, t)
}

// basic writes Basic credentials as lenient clients do. The base64 of the
// version with the value keeps the style of padding, as far as one showed.
func (m *requestMaker) basic(t *twin) {
	plain := new(twin)
	plain.text(pick(m, "", "user:", "u", "us:", "ü:"))
	m.secret(plain, tokens.Raw, false, spelledRaw)
	plain.text(pick(m, "", ":", ":x-oauth-basic", ":p\x00w"))
	sent, want := plain.sent.String(), plain.want.String()
	encoding := pick(m, base64.StdEncoding, base64.RawStdEncoding)
	t.text("Authorization: " + pick(m, "Basic ", "basic ", "BASIC  ", "bAsIc\t"))
	t.sent.WriteString(encoding.EncodeToString([]byte(sent)))
	if len(sent)%3 == 0 && sent != want {
		encoding = base64.StdEncoding
	}
	credential := encoding.EncodeToString([]byte(want))
	t.want.WriteString(credential)
	m.made.hidden = m.made.hidden || sent != want && len(strings.TrimRight(credential, "=")) >= minMasked
}

// bodySize is around body_buffer more often than chance has it.
func (m *requestMaker) bodySize() int {
	switch m.IntN(40) {
	case 0:
		return m.IntN(3 << 20)
	case 1, 2, 3:
		return m.IntN(200 << 10)
	case 4, 5, 6, 7, 8, 9:
		return randomBuffer - 3 + m.IntN(7)
	}
	return m.IntN(1500)
}

// randomBuffer is body_buffer in the random tests.
const randomBuffer = 16 << 10

func (m *requestMaker) body() {
	r, t := m.made, new(twin)
	r.body, r.chunked = t, oneIn(m, 2)
	unknown := false
	switch m.IntN(8) {
	case 0, 1:
		r.coding = &randomCodings[m.IntN(len(randomCodings))]
		m.header("Content-Encoding: " + r.coding.field)
	case 2:
		coding := pick(m, "identity", "x-odd", "gzip, x-odd")
		unknown = coding != "identity"
		m.header("Content-Encoding: " + coding)
	}
	m.late = unknown || r.chunked && r.coding == nil
	if kind := m.bodyOf(t, m.bodySize()); kind != "" {
		m.header("Content-Type: " + kind)
	}
	if unknown { // nobody can look into it
		t.want.Reset()
		t.want.WriteString(t.sent.String())
	}
	if !r.chunked {
		return
	}
	r.announce, m.late = !oneIn(m, 4), true
	for i := range pick(m, 0, 0, 0, 1, 2) {
		trailer := new(twin)
		trailer.text(fmt.Sprintf("X-Sum-%d: a", i))
		m.secret(trailer, tokens.Raw, true, spelledRaw)
		r.trailers = append(r.trailers, trailer)
	}
}

// header adds a field without secrets.
func (m *requestMaker) header(line string) {
	field := new(twin)
	field.text(line)
	m.made.fields = append(m.made.fields, field)
}

// bodyOf writes a body of roughly the size, often of exactly it, and returns
// its media type.
func (m *requestMaker) bodyOf(t *twin, size int) (kind string) {
	pad := func() { t.filler(max(0, size-t.sent.Len()-64)) }
	exact := func() { t.filler(max(0, size-t.sent.Len())) }
	switch m.IntN(8) {
	case 0:
		if size > 64 {
			t.text(`{"pad":"`)
			pad()
			t.text(`","doc":`)
			defer t.text("}")
		}
		m.json(t, 3)
		return pick(m, "application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json")
	case 1:
		for range 1 + m.IntN(4) {
			m.json(t, 2)
			t.text("\n")
		}
		return "application/x-ndjson"
	case 2:
		t.text("grant=x+y&key=")
		m.secret(t, tokens.Percent, false, spelledURL)
		t.text("&pad=")
		pad()
		t.text("&" + pick(m, "a", "%C3%BC", "") + "=")
		m.secret(t, tokens.Percent, false, []spelling{spellPercent, spellLower})
		return "application/x-www-form-urlencoded"
	case 3:
		return m.multipart(t, pad)
	case 4:
		t.text(`<?xml version="1.0"?><a b="`)
		m.secret(t, tokens.XML, false, spelledRaw)
		t.text(`"><c>`)
		pad()
		m.secret(t, tokens.XML, false, spelledRaw)
		t.text("</c></a>")
		return pick(m, "application/xml", "text/xml; charset=utf-8", "application/soap+xml")
	case 5:
		t.text("text ")
		exact()
		return "text/plain"
	case 6:
		for range min(size, 2000) / 2 {
			t.text(string([]byte{byte(m.IntN(256)), byte(m.IntN(128))}))
		}
		exact()
		return pick(m, "application/octet-stream", "image/png", "")
	}
	t.text("text ")
	m.secret(t, tokens.Raw, false, spelledRaw)
	pad()
	m.secret(t, tokens.Raw, false, []spelling{spellPlain, spellPercent, spellSlashes})
	return pick(m, "text/plain; charset=utf-8", "application/octet-stream", "")
}

func (m *requestMaker) multipart(t *twin, pad func()) string {
	t.text("--BOUND\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\n")
	m.secret(t, tokens.Raw, false, spelledRaw)
	t.text("\r\n--BOUND\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\nContent-Type: application/octet-stream\r\n\r\n\x00\xff")
	pad()
	m.secret(t, tokens.Raw, false, spelledRaw)
	t.text("\r\n--BOUND--\r\n")
	return pick(m, "multipart/form-data; boundary=BOUND", `multipart/form-data; boundary="BOUND"`)
}

func (m *requestMaker) json(t *twin, depth int) {
	space := pick(m, "", "", " ", "\n\t")
	kinds := 6
	if depth == 0 {
		kinds = 4
	}
	switch m.IntN(kinds) {
	case 0, 1:
		t.text(`"` + pick(m, "", "Bearer ", `\"\\\n`, `\ud83d\udd10`, `\ud800`, "ü ", `a\/b`))
		m.secret(t, tokens.JSON, false, spelledJSON)
		t.text(pick(m, "", "/x", "=", "abc", `\u0000`) + `"`)
	case 2:
		t.text(pick(m, "0", "-1.5e+3", "12345678901234567890", "true", "null"))
	case 3:
		t.text(pick(m, `""`, `"starpod"`, `"\u2028"`, `"a  b"`))
	case 4:
		t.text("[")
		for i := range m.IntN(4) {
			if i > 0 {
				t.text("," + space)
			}
			m.json(t, depth-1)
		}
		t.text("]")
	case 5:
		t.text("{" + space)
		for i := range m.IntN(4) {
			if i > 0 {
				t.text("," + space)
			}
			t.text(fmt.Sprintf(`"k%d`, i))
			if oneIn(m, 8) {
				m.secret(t, tokens.JSON, false, spelledJSON)
			}
			t.text(`":` + space)
			m.json(t, depth-1)
		}
		t.text(space + "}")
	}
}

// versions returns the bytes of the request with tokens and with values, each
// in chunks of its own.
func (r *randomRequest) versions(tb testing.TB, c choices, host string) (sent, want string) {
	get := []func(*twin) string{
		func(t *twin) string { return t.sent.String() },
		func(t *twin) string { return t.want.String() },
	}
	var both [2]string
	for i, text := range get {
		var b strings.Builder
		body := ""
		if r.body != nil {
			body = r.coding.coded(tb, text(r.body))
		}
		fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.method, text(&r.target), host)
		for _, field := range r.fields {
			b.WriteString(text(field) + "\r\n")
		}
		switch {
		case r.body == nil:
			b.WriteString("\r\n")
		case !r.chunked:
			fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
		default:
			b.WriteString("Transfer-Encoding: chunked\r\n")
			var trailers strings.Builder
			for _, trailer := range r.trailers {
				trailers.WriteString(text(trailer) + "\r\n")
				if name, _, _ := strings.Cut(text(trailer), ":"); r.announce {
					fmt.Fprintf(&b, "Trailer: %s\r\n", name)
				}
			}
			b.WriteString("\r\n" + inChunks(c, body) + trailers.String() + "\r\n")
		}
		both[i] = b.String()
	}
	return both[0], both[1]
}

// inChunks cuts the body at random, up to and including the last chunk's line.
func inChunks(c choices, body string) string {
	var b strings.Builder
	most := pick(c, 10, 200, 5000, 1<<20)
	if len(body) > 10_000 {
		most = max(most, 5000)
	}
	for len(body) > 0 {
		n := min(len(body), 1+c.IntN(most))
		fmt.Fprintf(&b, pick(c, "%x", "%X", "0%x")+"%s\r\n", n, pick(c, "", "", "", ";ext", `;a="b c"`))
		b.WriteString(body[:n] + "\r\n")
		body = body[n:]
	}
	return b.String() + "0\r\n"
}
