package handler

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
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
	known *lru.Cache[[32]byte, time.Time] // when they were checked
}

// Of the successes that are remembered. The cache does not forget by itself: the
// one that does would leave a goroutine behind with each reload.
const (
	knownAccounts = 16
	knownFor      = 10 * time.Minute
)

func newBcryptAuth(user, hash string) (*bcryptAuth, error) {
	if _, err := bcrypt.Cost([]byte(hash)); err != nil {
		return nil, fmt.Errorf("reading the password hash of %s: %w; make one with `caddy hash-password`", user, err)
	}
	known, err := lru.New[[32]byte, time.Time](knownAccounts)
	if err != nil {
		return nil, err
	}
	a := &bcryptAuth{user: user, hash: []byte(hash), known: known}
	if _, err := rand.Read(a.key[:]); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *bcryptAuth) check(user, password string) bool {
	mac := hmac.New(sha256.New, a.key[:])
	fmt.Fprintf(mac, "%d:%s%s", len(user), user, password)
	id := [32]byte(mac.Sum(nil))
	if checked, ok := a.known.Get(id); ok && time.Since(checked) < knownFor {
		return true
	}
	// The password is hashed for a wrong user too, so that time tells nothing.
	okPassword := bcrypt.CompareHashAndPassword(a.hash, []byte(password)) == nil
	if !okPassword || !hmac.Equal([]byte(user), []byte(a.user)) {
		return false
	}
	a.known.Add(id, time.Now())
	return true
}
