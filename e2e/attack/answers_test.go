//go:build linux

package attack

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// script has the API answer in ways that give the value away.
func (r *rig) script() {
	evil := "https://" + r.words.Replace("{evil}") + "/"
	r.api.Handle("/redirect", testbench.Redirect(302, evil))
	r.api.Handle("/moved", testbench.Redirect(307, evil))
	r.api.Handle("/head", testbench.EchoHead)
	r.api.Handle("/echo", testbench.Echo)
	text := func(spell func(key string) string) testbench.Responder {
		return func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, "<"+spell(got.Header.Get("X-Key"))+">")
		}
	}
	for path, spell := range spellings {
		r.api.Handle("/as/"+path, text(spell))
	}
	field := func(name string) testbench.Responder {
		return func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
			w.Header().Set(name, "x "+got.Header.Get("X-Key")+" y")
		}
	}
	for path, name := range map[string]string{"header": "X-Echo", "cookie": "Set-Cookie", "location": "Location", "auth": "Www-Authenticate", "type": "Content-Type"} {
		r.api.Handle("/in/"+path, field(name))
	}
	r.api.Handle("/in/name", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		w.Header().Set("X-"+hex.EncodeToString([]byte(got.Header.Get("X-Key"))), "1")
	})
	r.api.Handle("/in/trailer", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		testbench.Trailers("body", map[string]string{"X-Echo": got.Header.Get("X-Key")})(w, nil, got)
	})
	r.api.Handle("/in/hints", func(w http.ResponseWriter, q *http.Request, got *testbench.Request) {
		testbench.EarlyHints("<"+got.Header.Get("X-Key")+">")(w, q, got)
	})
	r.api.Handle("/in/304", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		w.Header().Set("Etag", strconv.Quote(got.Header.Get("X-Key")))
		w.WriteHeader(304)
	})
	r.api.Handle("/in/reason", func(w http.ResponseWriter, q *http.Request, got *testbench.Request) {
		testbench.Raw("HTTP/1.1 200 "+got.Header.Get("X-Key")+"\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")(w, q, got)
	})
	for path, raw := range malformed {
		r.api.Handle("/bad/"+path, func(w http.ResponseWriter, q *http.Request, got *testbench.Request) {
			testbench.Raw(strings.ReplaceAll(raw, "KEY", got.Header.Get("X-Key")))(w, q, got)
		})
	}
	r.api.Handle("/in/bytes", func(w http.ResponseWriter, q *http.Request, got *testbench.Request) {
		testbench.Chunked(strings.Split("<"+got.Header.Get("X-Key")+">", "")...)(w, q, got)
	})
	r.api.Handle("/in/gzip", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, pack("<"+got.Header.Get("X-Key")+">"))
	})
	r.api.Handle("/in/gzip2", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		w.Header().Set("Content-Encoding", "gzip, gzip")
		io.WriteString(w, pack(pack("<"+got.Header.Get("X-Key")+">")))
	})
	r.api.Handle("/in/secret-gzip", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		io.WriteString(w, pack("<"+got.Header.Get("X-Key")+">"))
	})
	r.api.Handle("/in/rot13", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		w.Header().Set("Content-Encoding", "rot13")
		io.WriteString(w, "<"+got.Header.Get("X-Key")+">")
	})
	r.api.Handle("/in/range", func(w http.ResponseWriter, q *http.Request, got *testbench.Request) {
		http.ServeContent(w, q, "", testTime, bytes.NewReader([]byte(got.Header.Get("X-Key"))))
	})
	r.api.Handle("/in/events", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: %s\n\n", got.Header.Get("X-Key"))
	})
	r.api.Handle("/in/credentials", func(w http.ResponseWriter, _ *http.Request, got *testbench.Request) {
		io.WriteString(w, got.Header.Get("Authorization"))
	})
}

// spellings are how a host may write a value. Those that are not covered are
// known, see answers.
var spellings = map[string]func(string) string{
	"plain":   func(s string) string { return s },
	"json":    func(s string) string { return strconv.Quote(s) },
	"query":   url.QueryEscape,
	"path":    url.PathEscape,
	"slashes": func(s string) string { return strings.ReplaceAll(s, "/", `\/`) },
	"html": func(s string) string {
		return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;").Replace(s)
	},
	"reversed":  func(s string) string { b := []byte(s); slices.Reverse(b); return string(b) },
	"base64":    func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"hex":       func(s string) string { return hex.EncodeToString([]byte(s)) },
	"utf16":     func(s string) string { return string(wide(s)["UTF-16"]) },
	"repeated":  func(s string) string { return strings.Repeat(s, 100) },
	"uppercase": strings.ToUpper,
}

// malformed are answers that are not HTTP, and quote the key where libraries
// quote what they choke on.
var malformed = map[string]string{
	"status":   "HTTP/1.1 KEY\r\n\r\n",
	"version":  "KEY 200 OK\r\n\r\n",
	"field":    "HTTP/1.1 200 OK\r\nKEY\r\n\r\n",
	"length":   "HTTP/1.1 200 OK\r\nContent-Length: KEY\r\n\r\n",
	"coding":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: KEY\r\n\r\n",
	"chunk":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nKEY\r\nabc\r\n",
	"lengths":  "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: KEY\r\n\r\na",
	"location": "HTTP/1.1 302 Found\r\nLocation: http://KEY\r\nContent-Length: 0\r\n\r\n",
	"switch":   "HTTP/1.1 101 KEY\r\nUpgrade: KEY\r\nConnection: Upgrade\r\n\r\nKEY",
	"early":    "HTTP/1.1 103 KEY\r\nLink: KEY\r\n\r\nKEY",
	"nothing":  "",
}

func answer(name, path, want, forms string) input {
	return input{class: "answer", name: name, via: tunnel, want: want, forms: forms,
		send: "GET " + path + " HTTP/1.1\r\nHost: {api}\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"}
}

// answers are ways of a host to give a value away. Where forms are named, this is
// known not to be covered (see SECURITY.md), and told here so that a change is
// noticed.
func answers() []input {
	const ok = "200 api=value"
	const broken = "502 upstream api=value"
	inputs := []input{
		answer("plain", "/as/plain", ok, ""),
		answer("JSON", "/as/json", ok, ""),
		answer("query", "/as/query", ok, ""),
		answer("path", "/as/path", ok, ""),
		answer("escaped slashes", "/as/slashes", ok, ""),
		answer("HTML", "/as/html", ok, ""),
		answer("a hundred times", "/as/repeated", ok, ""),
		answer("a field", "/in/header", ok, ""),
		answer("a cookie", "/in/cookie", ok, ""),
		answer("a location", "/in/location", ok, ""),
		answer("a challenge", "/in/auth", ok, ""),
		answer("the content type", "/in/type", ok, ""),
		answer("a trailer", "/in/trailer", ok, ""),
		answer("early hints", "/in/hints", ok, ""),
		answer("304", "/in/304", "304 api=value", ""),
		answer("the reason", "/in/reason", ok, ""),
		answer("a byte in each chunk", "/in/bytes", ok, ""),
		answer("gzip", "/in/gzip", ok, ""),
		answer("gzip twice", "/in/gzip2", ok, ""),
		answer("an event", "/in/events", ok, ""),
		answer("a whole range", "/in/range", ok, ""),
		answer("a query to a page that shows it", "/head?key={token}", ok, ""),
		answer("a coding that nobody knows", "/in/rot13", "502 content_coding api=value", ""),
		{class: "answer", name: "credentials", via: tunnel, want: ok,
			send: "GET /in/credentials HTTP/1.1\r\nHost: {api}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"},
		{class: "answer", name: "HEAD", via: tunnel, want: ok,
			send: "HEAD /in/header HTTP/1.1\r\nHost: {api}\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"},
		{class: "answer", name: "over http", want: ok,
			send: "GET http://{plain}/as/plain HTTP/1.1\r\nHost: {plain}\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"},

		answer("not covered: reversed", "/as/reversed", ok, "reversed"),
		answer("not covered: base64", "/as/base64", ok, "base64+0,base64url+0"),
		answer("not covered: hex", "/as/hex", ok, "hex"),
		answer("not covered: UTF-16", "/as/utf16", ok, "UTF-16"),
		answer("not covered: gzip that is not told", "/in/secret-gzip", ok, "raw in gzip"),
	}
	for _, path := range []string{"status", "version", "field", "length", "coding", "chunk", "lengths", "location", "switch", "early", "nothing"} {
		want := broken
		switch path {
		case "chunk":
			want = ok
		case "location":
			want = "302 api=value"
		}
		inputs = append(inputs, answer("malformed: "+path, "/bad/"+path, want, ""))
	}
	return inputs
}

// names are bytes that end up in logs.
func names() []input {
	var inputs []input
	for name, text := range map[string]string{
		"a line break": `%0a{"level":"error","msg":"forged"}`, "an escape": "%1b[2J", "markup": "<script>alert(1)</script>",
		"a placeholder": "{http.request.header.X-Key}", "an environment placeholder": "{env.HOME}", "a file": "{file./etc/hostname}",
		"a format": "%25s%25n", "a quote": `%22,"x":"y`,
	} {
		inputs = append(inputs,
			input{class: "log", name: "path with " + name, via: tunnel, want: "200 api=value",
				send: "GET /" + text + " HTTP/1.1\r\nHost: {api}\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"},
			input{class: "log", name: "refused path with " + name, want: "403 egress",
				send: "GET http://10.0.0.1/" + text + "?{token} HTTP/1.1\r\nHost: x\r\nX-Key: " + text + "{token}\r\nConnection: close\r\n\r\n"})
	}
	slices.SortFunc(inputs, func(a, b input) int { return strings.Compare(a.name, b.name) })
	return inputs
}
