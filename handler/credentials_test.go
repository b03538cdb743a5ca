package handler

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"golang.org/x/crypto/bcrypt"
)

// TestCredentials of the proxy: missing, wrong, right, on each way.
func TestCredentials(t *testing.T) {
	const password = "pa:ss word-7f3a9c"
	var asked atomic.Int32
	b := newBench(t, func(p *Proxy) {
		p.Authenticate = func(user, got string) bool {
			asked.Add(1)
			return user == "child" && got == password
		}
	})
	open := b.h2Front()
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	for _, test := range []struct {
		name, value string
		let         bool
	}{
		{"none", "", false},
		{"wrong password", "Basic " + encode("child:wrong"), false},
		{"wrong user", "Basic " + encode("other:"+password), false},
		{"empty", "Basic " + encode(":"), false},
		{"no Basic", "Bearer " + password, false},
		{"no base64", "Basic %%%", false},
		{"no colon", "Basic " + encode("child"), false},
		{"right", "Basic " + encode("child:"+password), true},
		{"right, scheme in lower case", "basic " + encode("child:"+password), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			field := ""
			if test.value != "" {
				field = "Proxy-Authorization: " + test.value + "\r\n"
			}
			for way, line := range map[string]string{
				"CONNECT":  fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n", b.apiAuthority()),
				"absolute": "GET " + b.up.PlainURL("api.starpod.test") + "/ HTTP/1.1\r\nHost: x\r\n",
			} {
				b.up.Forget()
				conn := b.dialFront()
				fmt.Fprint(conn, line+field+"\r\n")
				method, _, _ := strings.Cut(line, " ")
				response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
				if err != nil {
					t.Fatal(err)
				}
				checkCredentialsAnswer(t, way, response, test.let)
				if !test.let {
					b.nothingReached()
				} else if way == "absolute" && b.up.Last(t).Header.Get("Proxy-Authorization") != "" {
					t.Error("the credentials went on to the upstream")
				}
			}
			header := http.Header{}
			if test.value != "" {
				header.Set("Proxy-Authorization", test.value)
			}
			_, response := open(b.apiAuthority(), header)
			checkCredentialsAnswer(t, "CONNECT over HTTP/2", response, test.let)
		})
	}
	if asked.Load() == 0 {
		t.Error("nobody was asked for credentials")
	}
	for _, entry := range b.logs.All() {
		if found := testbench.FindSecret([]byte(fmt.Sprint(entry.Message, entry.ContextMap())), password); len(found) > 0 {
			t.Errorf("the password is in the log as %v: %s %v", found, entry.Message, entry.ContextMap())
		}
	}
}

func checkCredentialsAnswer(t *testing.T, way string, response *http.Response, let bool) {
	t.Helper()
	switch {
	case let && response.StatusCode != 200:
		t.Errorf("%s: got status %d, want 200", way, response.StatusCode)
	case !let && (response.StatusCode != 407 || !strings.HasPrefix(response.Header.Get("Proxy-Authenticate"), "Basic ")):
		t.Errorf("%s: got status %d %v, want 407 with Proxy-Authenticate", way, response.StatusCode, response.Header)
	}
}

func TestBcryptAuth(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newBcryptAuth("u", "plain"); err == nil {
		t.Error("a password in place of a hash: got no error")
	}
	auth, err := newBcryptAuth("u", string(hash))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time from memory
		for _, test := range []struct {
			user, password string
			want           bool
		}{{"u", "right", true}, {"u", "wrong", false}, {"v", "right", false}, {"", "", false}} {
			if got := auth.check(test.user, test.password); got != test.want {
				t.Errorf("%s:%s: got %v, want %v", test.user, test.password, got, test.want)
			}
		}
	}
}
