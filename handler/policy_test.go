package handler

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/tokens"
)

// TestValuesNoHeaderMayCarry are refused, and nothing is sent.
func TestValuesNoHeaderMayCarry(t *testing.T) {
	b := newBench(t, nil)
	for _, value := range []string{"secret-1\r\nX-Evil: 1", "secret-1\n", "secret-1\rx", "secret-1\x00x", "secret-1\x7f"} {
		token := testbench.Seal(t, b.key, value, "api.starpod.test")
		for _, place := range []string{"header", "trailer"} {
			t.Run(fmt.Sprintf("%q %s", value, place), func(t *testing.T) {
				b.t = t
				b.up.Forget()
				raw := "GET / HTTP/1.1\r\nHost: {host}\r\nX-Key: " + token + "\r\n\r\n"
				if place == "trailer" {
					raw = "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Key\r\n\r\n1\r\nx\r\n0\r\nX-Key: " + token + "\r\n\r\n"
				}
				response := b.send(raw)
				body, _ := io.ReadAll(response.Body)
				if response.StatusCode != 400 || !strings.Contains(string(body), RuleHeaderValue) || strings.Contains(string(body), "secret-1") {
					t.Errorf("got %d %s, want 400 by the rule %s", response.StatusCode, body, RuleHeaderValue)
				}
				if place == "header" {
					b.nothingReached()
				}
				b.upstreamIdle()
				b.noCompleteRequest()
				if b.up.Saw("secret-1") {
					t.Error("the value reached the upstream")
				}
			})
		}
		// Elsewhere the same value does no harm.
		r := b.request("POST", b.up.URL("api.starpod.test")+"/"+token+"?q="+strings.ReplaceAll(token, "+", "%2B"), token, "Authorization", basic("u", token))
		response, _ := b.do(b.client(false), r)
		got := b.up.Last(t)
		if response.StatusCode != 200 || string(got.Body) != value || got.Header.Get("Authorization") != basic("u", value) || strings.ContainsAny(got.Target, "\r\n\x00\x7f") {
			t.Errorf("%q elsewhere: got %d, %q, %q", value, response.StatusCode, got.Target, got.Body)
		}
	}
}

// TestDenyPolicies: a request that is refused for its tokens is not sent, and
// a streamed one not to its end.
func TestDenyPolicies(t *testing.T) {
	for _, test := range []struct {
		name      string
		configure func(*Proxy)
		plain     bool
		rule      string
	}{
		{"mismatch", func(p *Proxy) { p.Swap.OnMismatch = tokens.Deny }, false, RuleMismatch},
		{"undecodable", func(p *Proxy) { p.Swap.OnUndecodable = tokens.Deny }, false, RuleUndecodable},
		{"plaintext", func(p *Proxy) { p.Swap.PlaintextHTTP = PlaintextDeny }, true, RulePlaintext},
	} {
		for _, place := range []string{"header", "basic", "query", "path", "buffered", "spooled", "streamed"} {
			t.Run(test.name+" "+place, func(t *testing.T) {
				b := newBench(t, func(p *Proxy) {
					p.Swap.BodyBuffer = smallBuffer
					test.configure(p)
				})
				token := b.token("api.starpod.test")
				base := b.up.URL("evil.starpod.test")
				switch test.name {
				case "undecodable":
					token = testbench.Seal(t, bytes.Repeat([]byte{9}, 32), canary)
				case "plaintext":
					base = b.up.PlainURL("api.starpod.test")
				}
				r := b.request("POST", base+"/", "")
				switch place {
				case "header":
					r.Header.Set("X-Key", token)
				case "basic":
					r.SetBasicAuth("u", token)
				case "query":
					r.URL.RawQuery = "k=" + strings.ReplaceAll(token, "+", "%2B")
				case "path":
					r.URL.Path = "/" + token
				case "buffered":
					r = b.request("POST", base+"/", token)
				case "spooled":
					r = b.request("POST", base+"/", strings.Repeat("x", 10*smallBuffer)+token)
				case "streamed":
					r = b.request("POST", base+"/", strings.Repeat("x", 10*smallBuffer)+token)
					r.ContentLength = -1
				}
				response, body := b.do(b.client(false), r)
				if response.StatusCode != 403 || !strings.Contains(body, `"rule":"`+test.rule+`"`) {
					t.Errorf("got %d %s, want 403 by the rule %s", response.StatusCode, body, test.rule)
				}
				if place != "streamed" {
					b.nothingReached()
				}
				b.upstreamIdle()
				b.noCompleteRequest()
			})
		}
	}
}

func TestOtherPolicies(t *testing.T) {
	foreign := testbench.Seal(t, bytes.Repeat([]byte{9}, 32), canary)
	for _, test := range []struct {
		name      string
		configure func(*Proxy)
		plain     bool
		foreign   bool
		host      string
		want      func(token string) string
	}{
		{"mismatch passes", func(p *Proxy) { p.Swap.OnMismatch = tokens.Pass }, false, false, "evil.starpod.test", func(token string) string { return token }},
		{"mismatch passes, match is swapped", func(p *Proxy) { p.Swap.OnMismatch = tokens.Pass }, false, false, "api.starpod.test", func(string) string { return canary }},
		{"undecodable is stripped", func(p *Proxy) { p.Swap.OnUndecodable = tokens.Strip }, false, true, "api.starpod.test", func(string) string { return "" }},
		{"plaintext is stripped", func(p *Proxy) { p.Swap.PlaintextHTTP = PlaintextStrip }, true, false, "api.starpod.test", func(string) string { return "" }},
		{"plaintext is stripped, TLS is not", func(p *Proxy) { p.Swap.PlaintextHTTP = PlaintextStrip }, false, false, "api.starpod.test", func(string) string { return canary }},
		{"no place is scanned but queries", func(p *Proxy) { p.Swap.Scan = 1 << PlaceQuery }, false, false, "api.starpod.test", func(token string) string { return token }},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, test.configure)
			token, base := b.token("api.starpod.test"), b.up.URL(test.host)
			if test.foreign {
				token = foreign
			}
			if test.plain {
				base = b.up.PlainURL(test.host)
			}
			b.do(b.client(false), b.request("POST", base+"/", "<"+token+">", "X-Key", "<"+token+">"))
			got, want := b.up.Last(t), "<"+test.want(token)+">"
			if string(got.Body) != want || got.Header.Get("X-Key") != want {
				t.Errorf("got body %q and header %q, want %q", got.Body, got.Header.Get("X-Key"), want)
			}
		})
	}
}
