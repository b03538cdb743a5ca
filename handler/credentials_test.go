package handler

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/semaphore"
)

// TestCredentials of the proxy: missing, wrong, right, on each way.
func TestCredentials(t *testing.T) {
	const password = "pa:ss word-7f3a9c"
	var asked atomic.Int32
	b := newBench(t, func(p *Proxy) {
		p.Authenticate = func(_ *http.Request, user, got string) bool {
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
			if got := auth.check(from("192.0.2.1"), test.user, test.password); got != test.want {
				t.Errorf("%s:%s: got %v, want %v", test.user, test.password, got, test.want)
			}
		}
	}
}

func from(address string) *http.Request {
	return &http.Request{RemoteAddr: net.JoinHostPort(address, "5")}
}

// TestManyWrongPasswords: one client that tries many has one hashed at a time, and
// does not hold up others, nor who is known; one who has gone waits no more.
func TestManyWrongPasswords(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := newBcryptAuth("u", string(hash))
	if err != nil {
		t.Fatal(err)
	}
	if !auth.check(from("192.0.2.1"), "u", "right") {
		t.Fatal("the right password: got false")
	}
	auth.turns = &turns{all: semaphore.NewWeighted(2)}

	// The turn of the client that tries many is taken all the time.
	done, err := auth.turns.take(t.Context(), clientAt("192.0.2.1:5"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var judged atomic.Int32
	var tries sync.WaitGroup
	const many = 50
	for range many {
		tries.Go(func() {
			if auth.check(from("192.0.2.1").WithContext(ctx), "u", "wrong") {
				t.Error("a wrong password: got true")
			}
			judged.Add(1)
		})
	}
	testbench.Await(t, 10*time.Second, func() error {
		auth.turns.mu.Lock()
		defer auth.turns.mu.Unlock()
		if got := auth.turns.byClient[clientAt("192.0.2.1:5")].uses; got != many+1 {
			return fmt.Errorf("got %d waiting, want %d", got-1, many)
		}
		return nil
	})
	if !auth.check(from("192.0.2.1"), "u", "right") {
		t.Error("a known password: got false")
	}
	if auth.check(from("192.0.2.2"), "u", "wrong") {
		t.Error("a wrong password of another client: got true")
	}
	if got := judged.Load(); got != 0 {
		t.Errorf("got %d judged beside the one under way, want none", got)
	}
	cancel()
	tries.Wait()
	done()

	// All turns are taken: nobody's password is hashed.
	var all []func()
	for _, client := range []string{"a", "b"} {
		done, err := auth.turns.take(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, done)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := auth.turns.take(short, "c"); err == nil {
		t.Error("a third at one time: got a turn, want none")
	}
	for _, done := range all {
		done()
	}
	if left := len(auth.turns.byClient); left != 0 {
		t.Errorf("got %d clients remembered, want none", left)
	}
}
