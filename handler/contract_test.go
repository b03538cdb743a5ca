package handler

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
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
