//go:build linux

package attack

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

func fields(class, name, lines, want string) input {
	return input{class: class, name: name, via: tunnel, want: want,
		send: "GET / HTTP/1.1\r\nHost: {api}\r\n" + lines + "Connection: close\r\n\r\n"}
}

// brokenOff is what becomes of a body in chunks whose end is missing: the head, and
// the token in it, may be at the API already, which then sees it break off.
const brokenOff = "400 request_body|400 request_body api=value"

func post(class, name, lines, body, want string) input {
	return input{class: class, name: name, via: tunnel, want: want,
		send: fmt.Sprintf("POST / HTTP/1.1\r\nHost: {api}\r\n%sConnection: close\r\n\r\n%s", lines, body)}
}

// framings are requests whose end is not clear.
func framings() []input {
	const chunked = "Transfer-Encoding: chunked\r\n"
	const key = "X-Key: {token}\r\n"
	const hidden = "GET /hidden HTTP/1.1\r\nHost: {evil}\r\nX-Key: {token}\r\n\r\n"
	return []input{
		post("smuggling", "length and chunks", key+"Content-Length: 4\r\n"+chunked, "0\r\n\r\n"+hidden, "200 api=value"),
		post("smuggling", "two lengths", key+"Content-Length: 4\r\nContent-Length: 5\r\n", "abcde", "400"),
		post("smuggling", "a list of lengths", key+"Content-Length: 4, 5\r\n", "abcde", "400"),
		post("smuggling", "a signed length", key+"Content-Length: +4\r\n", "abcd", "400"),
		post("smuggling", "a negative length", key+"Content-Length: -1\r\n", "abcd", "400"),
		post("smuggling", "a hexadecimal length", key+"Content-Length: 0x4\r\n", "abcd", "400"),
		post("smuggling", "two codings", key+"Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", "501"),
		post("smuggling", "an unknown coding", key+"Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", "501"),
		post("smuggling", "chunked twice", key+chunked+chunked, "0\r\n\r\n", "501"),
		post("smuggling", "space before the colon", key+"Transfer-Encoding : chunked\r\n", "0\r\n\r\n", "400"),
		post("smuggling", "a folded field", key+"X-A: b\r\n c\r\n", "", "200 api=value"),
		post("smuggling", "a bare CR in a field", key+"X-A: b\rX-B: c\r\n", "", "400"),
		post("smuggling", "NUL in a field", key+"X-A: b\x00c\r\n", "", "400"),
		post("smuggling", "a chunk size that is none", key+chunked, "zz\r\nabc\r\n0\r\n\r\n", brokenOff),
		post("smuggling", "a chunk size too large", key+chunked, "fffffffffffffffff\r\nabc\r\n0\r\n\r\n", brokenOff),
		post("smuggling", "a chunk longer than told", key+chunked, "3\r\nabcdef\r\n0\r\n\r\n", brokenOff),
		post("smuggling", "a chunk extension", key+chunked, "3;a="+strings.Repeat("b", 100)+"\r\nabc\r\n0\r\n\r\n", "200 api=value"),
		post("smuggling", "a second request behind", key+"Content-Length: 3\r\n", "abc"+hidden, "200 api=value"),
		post("smuggling", "a body in GET's place", key+"X-HTTP-Method-Override: CONNECT\r\nContent-Length: 0\r\n", "", "200 api=value"),
		fields("smuggling", "a method with a token", "", "200 api=nothing"),
		{class: "smuggling", name: "HTTP/1.0", via: tunnel, want: "200 api=value",
			send: "GET / HTTP/1.0\r\nHost: {api}\r\nX-Key: {token}\r\n\r\n"},
		{class: "smuggling", name: "HTTP/0.9", via: tunnel, want: "400", send: "GET /\r\n\r\n"},
		{class: "smuggling", name: "HTTP/2 preface in HTTP/1", via: tunnel, want: "421 misdirected", send: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		{class: "smuggling", name: "HTTP/3.7", via: tunnel, want: "505", send: "GET / HTTP/3.7\r\nHost: {api}\r\n\r\n"},
		{class: "smuggling", name: "a line feed alone", via: tunnel, want: "200 api=value",
			send: "GET / HTTP/1.1\nHost: {api}\nX-Key: {token}\nConnection: close\n\n"},
		{class: "smuggling", name: "an upgrade to h2c", via: tunnel, want: "200 api=value",
			send: "GET / HTTP/1.1\r\nHost: {api}\r\nX-Key: {token}\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"},
		{class: "smuggling", name: "half a head", via: direct, want: "400", send: "GET http://{plain}/ HTTP/1.1\r\nX-Key: {tok"},
	}
}

// places are where tokens stand; the answer repeats what was asked.
func places(t *testing.T, r *rig) []input {
	t.Helper()
	basic := base64.StdEncoding.EncodeToString([]byte("user:" + r.token))
	escaped := strings.NewReplacer(":", "%3A", "+", "%2B", "/", "%2F", "=", "%3D").Replace(r.token)
	sealed := func(value string) string { return testbench.Seal(t, r.proxy.Key, value, testbench.APIHost) }
	form := func(kind, body string) input {
		return post("place", "body as "+kind, fmt.Sprintf("Content-Type: %s\r\nContent-Length: %d\r\n", kind, len(body)), body, "200 api=value")
	}
	inputs := []input{
		{class: "place", name: "path", via: tunnel, want: "200 api=value",
			send: "GET /bot" + escaped + "/head HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n"},
		{class: "place", name: "raw path", via: tunnel, want: "200 api=value",
			send: "GET /bot{token}/head HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n"},
		{class: "place", name: "query", via: tunnel, want: "200 api=value",
			send: "GET /head?key=" + escaped + " HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n"},
		{class: "place", name: "method", via: tunnel, want: "400",
			send: "{token} / HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n"},
		{class: "place", name: "Host", via: tunnel, want: "400|421 misdirected", // whether the token has a slash
			send: "GET / HTTP/1.1\r\nHost: {token}\r\nConnection: close\r\n\r\n"},
		{class: "place", name: "trailer", via: tunnel, want: "200 api=value",
			send: "POST / HTTP/1.1\r\nHost: {api}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Key\r\nConnection: close\r\n\r\n0\r\nX-Key: {token}\r\n\r\n"},
		{class: "place", name: "trailer that was not announced", via: tunnel, want: "200 api=value",
			send: "POST / HTTP/1.1\r\nHost: {api}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\nX-Key: {token}\r\n\r\n"},
		{class: "place", name: "proxy credentials", want: "200 api=nothing",
			send: "GET http://{plain}/head HTTP/1.1\r\nHost: {plain}\r\nProxy-Authorization: Bearer {token}\r\nConnection: close\r\n\r\n"},
		{class: "place", name: "a CONNECT's field", want: "200",
			send: "CONNECT {api} HTTP/1.1\r\nHost: {api}\r\nX-Key: {token}\r\nProxy-Authorization: Bearer {token}\r\n\r\n"},
		fields("place", "cookie", "Cookie: a=b; key={token}; c=d\r\n", "200 api=value"),
		fields("place", "Basic", "Authorization: Basic "+basic+"\r\n", "200 api=value"),
		fields("place", "basic, no padding", "Authorization: bAsIc "+strings.TrimRight(basic, "=")+"\r\n", "200 api=value"),
		fields("place", "Basic twice coded", "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte(basic))+"\r\n", "200 api=nothing"),
		fields("place", "binary metadata", "X-Key-Bin: "+base64.RawStdEncoding.EncodeToString([]byte(r.token))+"\r\n", "200 api=nothing"),
		fields("place", "a field's name", "X-{token}: 1\r\n", "200 api=nothing"),
		fields("place", "a field named by Connection", "X-Key: {token}\r\nConnection: X-Key\r\n", "200 api=nothing"),
		fields("place", "the user agent", "User-Agent: {token}\r\n", "200 api=value"),
		fields("place", "the referrer", "Referer: https://{api}/?{token}\r\n", "200 api=value"),
		fields("place", "twice in one field", "X-Key: {token}{token}\r\n", "200 api=value"),
		form("application/json", `{"key":"{token}"}`),
		form("application/x-www-form-urlencoded", "a=b&key="+escaped),
		form("text/plain", "key {token}"),
		form("application/xml", "<key>{token}</key>"),
		form("application/octet-stream", "\x00\xff{token}\x00"),
		form("multipart/form-data; boundary=B", "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{token}\"\r\n\r\n{token}\r\n--B--\r\n"),
		fields("line break", "in a header", "X-Key: "+sealed("first\r\nX-Injected: "+canary)+"\r\n", "400 header_value"),
		fields("line break", "a line feed in a header", "X-Key: "+sealed(canary+"\nX-Injected: 1")+"\r\n", "400 header_value"),
		fields("line break", "NUL in a header", "X-Key: "+sealed(canary+"\x00")+"\r\n", "400 header_value"),
		fields("line break", "in Basic", "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("u:"+sealed(canary+"\r\nX: y")))+"\r\n", "200 api=value"),
		{class: "line break", name: "in the path", via: tunnel, want: "200 api=value",
			send: "GET /" + sealed(canary+"\r\nX-Injected: 1\r\n\r\nGET /x HTTP/1.1") + " HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n"},
		{class: "line break", name: "in the query", via: tunnel, want: "200 api=value",
			send: "GET /?k=" + sealed(canary+" HTTP/1.1\r\nHost: evil\r\n\r\n") + " HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n"},
		{class: "line break", name: "in a trailer", via: tunnel, want: "400 header_value|400 header_value api=nothing",
			send: "POST / HTTP/1.1\r\nHost: {api}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Key\r\nConnection: close\r\n\r\n0\r\nX-Key: " + sealed(canary+"\r\nX: y") + "\r\n\r\n"},
	}
	for i, in := range inputs {
		// The token's length is not the placeholder's.
		inputs[i].send = lengthen(in.send, r.token)
	}
	return inputs
}

// lengthen puts the token in its place and the length of the body right.
func lengthen(send, token string) string {
	send = strings.ReplaceAll(send, "{token}", token)
	head, body, _ := strings.Cut(send, "\r\n\r\n")
	before, after, found := strings.Cut(head, "Content-Length: ")
	if !found {
		return send
	}
	_, rest, _ := strings.Cut(after, "\r\n")
	return fmt.Sprintf("%sContent-Length: %d\r\n%s\r\n\r\n%s", before, len(body), rest, body)
}

// damages are tokens that are not quite tokens.
func damages(t *testing.T, r *rig) []input {
	t.Helper()
	inputs := []input{}
	damage := func(name, key, want string) {
		inputs = append(inputs, fields("damaged token", name, "X-Key: "+key+"\r\n", want))
	}
	for i := len("starpod:v1:"); i < len(r.token); i += 3 {
		changed := []byte(r.token)
		if changed[i]++; changed[i] > 'z' || changed[i] == '=' {
			changed[i] = 'A'
		}
		damage(fmt.Sprintf("byte %d", i), string(changed), "200 api=token")
	}
	for _, n := range []int{9, 11, 12, 20, len(r.token) / 2, len(r.token) - 5, len(r.token) - 24} {
		damage(fmt.Sprintf("the first %d bytes", n), r.token[:n], "200 api=token")
	}
	inner := testbench.Seal(t, r.proxy.Key, r.token, testbench.EvilHost)
	outer := testbench.Seal(t, r.proxy.Key, r.token, testbench.APIHost)
	foreign := testbench.Seal(t, bytes.Repeat([]byte{9}, 32), canary, testbench.APIHost)
	damage("the word in front again", "starpod:v1:"+r.token, "200 api=value")
	damage("letters behind", r.token+"AAAA==", "200 api=value")
	damage("letters in front", "AAAA"+r.token, "200 api=value")
	damage("another version", strings.Replace(r.token, "v1", "v2", 1), "200 api=token")
	damage("in capitals", strings.Replace(r.token, "starpod", "STARPOD", 1), "200 api=nothing")
	damage("in the URL alphabet", strings.NewReplacer("+", "-", "/", "_").Replace(r.token[:40]+"/"+r.token[40:]), "200 api=token")
	damage("of another key", foreign, "200 api=token")
	for name, text := range map[string]string{"markup": "<img src=x onerror=alert(1)>", "a line break": "x\n{\"level\":\"error\",\"msg\":\"forged\"}", "an escape": "\x1b[2J", "a placeholder": "{http.request.header.X-Key}"} {
		damage("a name with "+name, testbench.SealPayload(t, r.proxy.Key, map[string]any{"v": canary, "h": []string{testbench.APIHost}, "n": text}), "200 api=value")
	}
	for name, members := range map[string]map[string]any{
		"expired": {"e": 1}, "other methods": {"m": []string{"DELETE"}}, "other paths": {"p": []string{"/x/**"}},
		"hosts that are a text": {"h": "api.starpod.test"}, "a value that is a number": {"v": 12345678},
	} {
		payload := map[string]any{"v": canary, "h": []string{testbench.APIHost}}
		maps.Copy(payload, members)
		want := "200 api=nothing"
		if strings.Contains(name, "that") {
			want = "200 api=token"
		}
		damage(name, testbench.SealPayload(t, r.proxy.Key, payload), want)
	}
	damage("a token in a token, for the API", outer, "200 api=token")
	damage("a token in a token, for another", inner, "200 api=nothing")
	damage("a thousand tokens of nobody", strings.Repeat(foreign[:60]+" ", 1000), "200 api=token")
	damage("a token for nobody at all", testbench.Seal(t, r.proxy.Key, canary, "*.api.starpod.test"), "200 api=nothing")
	damage("a token for a name that begins alike", testbench.Seal(t, r.proxy.Key, canary, "api.starpod.test.evil.test", "xapi.starpod.test"), "200 api=nothing")
	damage("a token for another port", testbench.Seal(t, r.proxy.Key, canary, "api.starpod.test:1"), "200 api=nothing")
	damage("a token for a malformed host", testbench.Seal(t, r.proxy.Key, canary, "*", "**", "api.*", "[", "@", ""), "200 api=nothing")
	return inputs
}

// bombs are bodies that unpack to much, or are not what they say.
func bombs(r *rig) []input {
	coded := func(name, coding, body, want string) input {
		return post("coding", name, fmt.Sprintf("Content-Type: text/plain\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n", coding, len(body)), body, want)
	}
	packed := pack(strings.Repeat("\x00", 32<<20))
	key := pack("key " + r.token)
	return []input{
		coded("gzip", "gzip", key, "200 api=value"),
		coded("a bomb", "gzip", packed, "413 max_decoded"),
		coded("a bomb in a bomb", "gzip, gzip", pack(packed), "413 max_decoded"),
		coded("gzip twice", "gzip, gzip", pack(key), "200 api=value"),
		coded("gzip that is none", "gzip", "key "+r.token, "200 api=token"),
		coded("gzip that breaks off", "gzip", key[:len(key)-9], "200 api=nothing"),
		coded("brotli that is none", "br", key, "200 api=nothing"),
		coded("a coding that nobody knows", "rot13", "key "+r.token, "200 api=token"),
		coded("many codings", strings.Repeat("gzip, ", 50)+"gzip", key, "200 api=nothing"),
		coded("identity", "identity", "key "+r.token, "200 api=value"),
	}
}

func pack(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(text))
	w.Close()
	return b.String()
}
