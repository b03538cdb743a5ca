package handler

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"go.uber.org/zap/zapcore"
)

// TestTokenPlaces puts a token everywhere a client can put one, over every way
// through the proxy, towards the host it is for and towards another.
func TestTokenPlaces(t *testing.T) {
	b := newBench(t, nil)
	token := b.token("api.starpod.test")
	escaped := url.QueryEscape(token)
	places := []struct {
		name string
		make func(base string) *http.Request
		got  func(*testbench.Request) string
		with string // what the upstream reads when the token is swapped
		gone string // what it reads when the token is stripped
	}{
		{"header", func(base string) *http.Request {
			return b.request("GET", base+"/x", "", "Authorization", "Bearer "+token+" tail")
		}, func(r *testbench.Request) string { return r.Header.Get("Authorization") }, "Bearer " + canary + " tail", "Bearer  tail"},
		{"cookie", func(base string) *http.Request {
			return b.request("GET", base+"/x", "", "Cookie", "a=1; s="+token+"; b=2")
		}, func(r *testbench.Request) string { return r.Header.Get("Cookie") }, "a=1; s=" + canary + "; b=2", "a=1; s=; b=2"},
		{"basic password", func(base string) *http.Request {
			return b.request("GET", base+"/x", "", "Authorization", basic("git", token))
		}, func(r *testbench.Request) string { return r.Header.Get("Authorization") }, basic("git", canary), basic("git", "")},
		{"path", func(base string) *http.Request {
			return b.request("GET", base+"/bot"+token+"/sendMessage", "")
		}, func(r *testbench.Request) string { return r.Target }, "/bot" + canary + "/sendMessage", "/bot/sendMessage"},
		{"query", func(base string) *http.Request {
			return b.request("GET", base+"/x?b=2&key="+escaped+"&a=1", "")
		}, func(r *testbench.Request) string { return r.Target }, "/x?b=2&key=" + canary + "&a=1", "/x?b=2&key=&a=1"},
		{"JSON body", func(base string) *http.Request {
			return b.request("PUT", base+"/x", `{"k":"`+token+`","n":1}`, "Content-Type", "application/json")
		}, func(r *testbench.Request) string { return string(r.Body) }, `{"k":"` + canary + `","n":1}`, `{"k":"","n":1}`},
		{"form body", func(base string) *http.Request {
			return b.request("POST", base+"/x", "k="+escaped+"&n=1", "Content-Type", "application/x-www-form-urlencoded")
		}, func(r *testbench.Request) string { return string(r.Body) }, "k=" + canary + "&n=1", "k=&n=1"},
	}
	for _, way := range []struct {
		name string
		h2   bool
		base func(host string) string
	}{
		{"http", false, b.up.PlainURL},
		{"https h1", false, b.up.URL},
		{"https h2", true, b.up.URL},
	} {
		client := b.client(way.h2)
		for _, place := range places {
			for host, want := range map[string]string{"api.starpod.test": place.with, "evil.starpod.test": place.gone} {
				t.Run(way.name+"/"+place.name+"/"+host, func(t *testing.T) {
					response, _ := b.do(client, place.make(way.base(host)))
					if response.StatusCode != 200 {
						t.Fatalf("got status %d, want 200", response.StatusCode)
					}
					if got := place.got(b.up.Last(t)); got != want {
						t.Errorf("upstream got  %q\nwant          %q", got, want)
					}
				})
			}
		}
	}
}

// TestWrongKey leaves a token alone that no key opens.
func TestWrongKey(t *testing.T) {
	b := newBench(t, nil)
	foreign := testbench.Seal(t, []byte(strings.Repeat("x", 32)), canary)
	b.do(b.client(false), b.request("POST", b.up.URL("api.starpod.test")+"/", foreign, "X-Key", foreign))
	got := b.up.Last(t)
	if string(got.Body) != foreign || got.Header.Get("X-Key") != foreign {
		t.Errorf("upstream got header %q and body %q, want both %q", got.Header.Get("X-Key"), got.Body, foreign)
	}
	if n := b.proxy.Stats.Undecodable.Load(); n != 2 {
		t.Errorf("counted %d undecodable tokens, want 2", n)
	}
}

// TestAuditOutcome reads back what is logged of a request with tokens: enough to
// know what happened, at the level it deserves, and nothing secret.
func TestAuditOutcome(t *testing.T) {
	foreign := testbench.Seal(t, []byte(strings.Repeat("x", 32)), canary)
	for name, test := range map[string]struct {
		token   func(*bench) string
		level   zapcore.Level
		message string
		action  string
		reason  string
	}{
		"a token is replaced":       {func(b *bench) string { return b.token("api.starpod.test") }, zapcore.InfoLevel, "tokens replaced", "replace", ""},
		"a token is for other host": {func(b *bench) string { return b.token("other.test") }, zapcore.WarnLevel, "tokens not replaced", "strip", "host"},
		"a token does not open":     {func(*bench) string { return foreign }, zapcore.WarnLevel, "tokens not replaced", "leave", "undecodable"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			token := test.token(b)
			b.do(b.client(false), b.request("GET", b.up.URL("api.starpod.test")+"/a/"+token, ""))
			lines := b.logs.FilterLoggerName("audit").AllUntimed()
			if len(lines) != 1 {
				t.Fatalf("got %d audit lines, want 1: %v", len(lines), lines)
			}
			if lines[0].Level != test.level || lines[0].Message != test.message {
				t.Errorf("got %v %q, want %v %q", lines[0].Level, lines[0].Message, test.level, test.message)
			}
			fields := lines[0].ContextMap()
			id := fmt.Sprintf("%x", sha256.Sum256([]byte(token)))[:8]
			want := map[string]any{"id": id, "name": "", "place": "path", "action": test.action, "reason": test.reason}
			if got := fields["tokens"].([]any)[0]; !reflect.DeepEqual(got, want) {
				t.Errorf("tokens: got %v, want %v", got, want)
			}
			if fields["destination"] != b.up.URL("api.starpod.test") || fields["method"] != "GET" || fields["status"] != int64(200) {
				t.Errorf("got destination %v, method %v, status %v", fields["destination"], fields["method"], fields["status"])
			}
			if shown := fields["path"]; shown != "/a/⟨token "+id+"⟩" {
				t.Errorf("path: got %v, want the token shown by its id %s", shown, id)
			}
		})
	}
}

// TestUnreachable answers 502 with JSON for what cannot be reached.
func TestUnreachable(t *testing.T) {
	b := newBench(t, nil)
	closed := testbench.FreePort(t)
	for name, test := range map[string]struct {
		target string
		want   string
	}{
		"nobody listens": {fmt.Sprintf("http://api.starpod.test:%d/", closed), "cannot be reached"},
		"no such name":   {"http://nowhere.test/", "cannot be resolved"},
	} {
		t.Run(name, func(t *testing.T) {
			response, body := b.do(b.client(false), b.request("GET", test.target, ""))
			var answer struct{ Error, Rule string }
			if err := json.Unmarshal([]byte(body), &answer); err != nil {
				t.Fatalf("got body %q, want JSON: %v", body, err)
			}
			if response.StatusCode != http.StatusBadGateway || answer.Rule != RuleUpstream || !strings.Contains(answer.Error, test.want) {
				t.Errorf("got %d %+v, want 502 and %q", response.StatusCode, answer, test.want)
			}
		})
	}
}
