package handler

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/semaphore"
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
	turns *turns
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
	a := &bcryptAuth{user: user, hash: []byte(hash), known: known, turns: &hashing}
	if _, err := rand.Read(a.key[:]); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *bcryptAuth) check(r *http.Request, user, password string) bool {
	mac := hmac.New(sha256.New, a.key[:])
	fmt.Fprintf(mac, "%d:%s%s", len(user), user, password)
	id := [32]byte(mac.Sum(nil))
	if a.knows(id) {
		return true
	}
	done, err := a.turns.take(r.Context(), clientAt(r.RemoteAddr))
	if err != nil {
		return false // the client has gone
	}
	defer done()
	if a.knows(id) { // by now
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

func (a *bcryptAuth) knows(id [32]byte) bool {
	checked, ok := a.known.Get(id)
	return ok && time.Since(checked) < knownFor
}

// hashing is for all sites and configurations, which share the processors.
var hashing = turns{all: semaphore.NewWeighted(int64(max(1, runtime.GOMAXPROCS(0)/2)))}

// turns bound how many passwords are hashed at one time: one of each client, so that
// those of one who tries many wait for each other and not others for them.
type turns struct {
	all *semaphore.Weighted

	mu       sync.Mutex
	byClient map[string]*turn // of those who have a turn or wait for one
}

type turn struct {
	one  *semaphore.Weighted
	uses int
}

// take waits for the client's turn, which done ends.
func (t *turns) take(ctx context.Context, client string) (done func(), err error) {
	own := t.of(client)
	if err := own.one.Acquire(ctx, 1); err != nil {
		t.leave(client)
		return nil, err
	}
	next := func() {
		own.one.Release(1)
		t.leave(client)
	}
	if err := t.all.Acquire(ctx, 1); err != nil {
		next()
		return nil, err
	}
	return func() {
		t.all.Release(1)
		next()
	}, nil
}

func (t *turns) of(client string) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.byClient[client]
	if own == nil {
		if t.byClient == nil {
			t.byClient = make(map[string]*turn)
		}
		own = &turn{one: semaphore.NewWeighted(1)}
		t.byClient[client] = own
	}
	own.uses++
	return own
}

func (t *turns) leave(client string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.byClient[client]
	if own.uses--; own.uses == 0 {
		delete(t.byClient, client)
	}
}
