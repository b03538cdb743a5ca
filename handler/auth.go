package handler

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"golang.org/x/crypto/bcrypt"
)

// proxyBasicAuth returns the Basic credentials of Proxy-Authorization.
func proxyBasicAuth(r *http.Request) (user, password string, ok bool) {
	value := r.Header.Get("Proxy-Authorization")
	if value == "" {
		return "", "", false
	}
	probe := http.Request{Header: http.Header{"Authorization": {value}}}
	return probe.BasicAuth()
}

// bcryptAuth checks one account against a bcrypt hash. Successes are remembered
// for a while under a keyed hash, since clients send their credentials with
// every plain request and bcrypt is slow by design.
type bcryptAuth struct {
	user  string
	hash  []byte
	key   [32]byte
	known *expirable.LRU[[32]byte, struct{}]
}

func newBcryptAuth(user, hash string) (*bcryptAuth, error) {
	if _, err := bcrypt.Cost([]byte(hash)); err != nil {
		return nil, fmt.Errorf("reading the password hash of %s: %w; make one with `caddy hash-password`", user, err)
	}
	a := &bcryptAuth{user: user, hash: []byte(hash), known: expirable.NewLRU[[32]byte, struct{}](16, nil, 10*time.Minute)}
	if _, err := rand.Read(a.key[:]); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *bcryptAuth) check(user, password string) bool {
	mac := hmac.New(sha256.New, a.key[:])
	fmt.Fprintf(mac, "%d:%s%s", len(user), user, password)
	id := [32]byte(mac.Sum(nil))
	if _, ok := a.known.Get(id); ok {
		return true
	}
	// The password is hashed for a wrong user too, so that time tells nothing.
	okPassword := bcrypt.CompareHashAndPassword(a.hash, []byte(password)) == nil
	if !okPassword || !hmac.Equal([]byte(user), []byte(a.user)) {
		return false
	}
	a.known.Add(id, struct{}{})
	return true
}
