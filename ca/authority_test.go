package ca

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneNameAtOnceIsMintedOnce(t *testing.T) {
	r := newRoot(t)
	var signed, minted, cached atomic.Int32
	s := signerFunc{roots: r.Roots(), sign: func(ctx context.Context, name string, key crypto.Signer) ([][]byte, error) {
		signed.Add(1)
		return r.Sign(ctx, name, key)
	}}
	a := newAuthority(t, s, Options{OnMint: func(_ string, err error, hit bool) {
		if err != nil {
			t.Error(err)
		}
		if hit {
			cached.Add(1)
		} else {
			minted.Add(1)
		}
	}})
	var wg sync.WaitGroup
	start := make(chan struct{})
	certs := make([]*tls.Certificate, 200)
	for i := range certs {
		wg.Go(func() {
			<-start
			var err error
			name := []string{"api.github.com", "API.github.com", "api.github.com."}[i%3]
			if certs[i], err = a.Leaf(t.Context(), name); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
	for _, c := range certs {
		if c != certs[0] {
			t.Fatal("callers got different certificates")
		}
	}
	if signed.Load() != 1 || minted.Load() != 1 || cached.Load() != 199 {
		t.Errorf("signed %d, minted %d, cached %d; want 1, 1, 199", signed.Load(), minted.Load(), cached.Load())
	}
}

func TestMintingLooksAgainBeforeItSigns(t *testing.T) {
	a := newAuthority(t, newRoot(t), Options{})
	first, err := a.Leaf(t.Context(), "api.github.com")
	if err != nil {
		t.Fatal(err)
	}
	// As for a caller that missed the cache just before the first was put there.
	if got, err := a.renew(t.Context(), "api.github.com"); err != nil || got != first {
		t.Errorf("got another leaf or error %v, want the first leaf", err)
	}
}

func TestCancelledCallerLeavesTheOthersAlone(t *testing.T) {
	c := &clock{now: time.Now()} // the bubble's own clock stands at the year 2000
	r := newRoot(t).withClock(c.Now)
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := signerFunc{roots: r.Roots(), sign: func(ctx context.Context, name string, key crypto.Signer) ([][]byte, error) {
			<-release
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return r.Sign(ctx, name, key)
		}}
		a := newAuthority(t, s, Options{Now: c.Now})
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { _, err := a.Leaf(ctx, "a.example"); first <- err }()
		synctest.Wait()
		go func() { _, err := a.Leaf(t.Context(), "a.example"); second <- err }()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled caller got %v, want context.Canceled", err)
		}
		close(release)
		if err := <-second; err != nil {
			t.Errorf("the other caller got %v, want a certificate", err)
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	r := newRoot(t)
	var chain [][]byte // one wildcard for all names: signing is not what is tested
	s := signerFunc{roots: r.Roots(), sign: func(_ context.Context, _ string, key crypto.Signer) ([][]byte, error) {
		if chain == nil {
			leaf := certify(t, key, r, func(c *x509.Certificate) { c.IsCA, c.DNSNames = false, []string{"*.example"} })
			chain = [][]byte{leaf.Raw}
		}
		return chain, nil
	}}
	a := newAuthority(t, s, Options{CacheSize: 100})
	first, err := a.Leaf(t.Context(), "host-0.example")
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 10_000; i++ {
		if _, err := a.Leaf(t.Context(), fmt.Sprintf("host-%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.cache.Len(); got != 100 {
		t.Errorf("cache holds %d leaves, want 100", got)
	}
	if again, err := a.Leaf(t.Context(), "host-0.example"); err != nil || again == first {
		t.Errorf("the oldest leaf is still there (error %v), want a new one", err)
	}
}

func TestLeafIsRenewedInTheLastThirdOfItsLife(t *testing.T) {
	c := &clock{now: time.Now()}
	a := newAuthority(t, newRoot(t), Options{Now: c.Now})
	first, err := a.Leaf(t.Context(), "api.github.com")
	if err != nil {
		t.Fatal(err)
	}
	c.Advance(15*time.Hour + 59*time.Minute)
	if got, err := a.Leaf(t.Context(), "api.github.com"); err != nil || got != first {
		t.Errorf("after 15:59 hours: another leaf (error %v), want the first", err)
	}
	c.Advance(2 * time.Minute)
	second, err := a.Leaf(t.Context(), "api.github.com")
	if err != nil || second == first {
		t.Fatalf("after 16:01 hours: the first leaf (error %v), want another", err)
	}
	if want := c.Now().Add(leafLife).Truncate(time.Second); !second.Leaf.NotAfter.Equal(want.UTC()) {
		t.Errorf("the second leaf ends %v, want %v", second.Leaf.NotAfter, want)
	}
}

func TestFailedRenewalServesTheOldLeafWhileItHolds(t *testing.T) {
	c := &clock{now: time.Now()}
	r := newRoot(t).withClock(c.Now)
	var calls int
	var broken error
	s := signerFunc{roots: r.Roots(), sign: func(ctx context.Context, name string, key crypto.Signer) ([][]byte, error) {
		calls++
		if broken != nil {
			return nil, broken
		}
		return r.Sign(ctx, name, key)
	}}
	var heard []string
	a := newAuthority(t, s, Options{Now: c.Now, OnMint: func(_ string, err error, cached bool) {
		heard = append(heard, fmt.Sprint(err, " ", cached))
	}})
	get := func() (*tls.Certificate, error) { return a.Leaf(t.Context(), "api.github.com") }
	first, err := get()
	if err != nil {
		t.Fatal(err)
	}
	broken = errors.New("issuer is away")
	c.Advance(20 * time.Hour)
	for range 3 { // the issuer is asked once, then left alone for a while
		if got, err := get(); err != nil || got != first {
			t.Fatalf("got another leaf or error %v, want the first leaf", err)
		}
	}
	if calls != 2 {
		t.Errorf("issuer was asked %d times, want 2", calls)
	}
	want := "[<nil> false issuer is away true <nil> true <nil> true]"
	if got := fmt.Sprint(heard); got != want {
		t.Errorf("OnMint heard %s, want %s", got, want)
	}
	c.Advance(4 * time.Hour)
	if _, err := get(); !errors.Is(err, broken) {
		t.Errorf("after the leaf's end: %v, want %v", err, broken)
	}
	broken = nil
	if got, err := get(); err != nil || got == first {
		t.Errorf("with the issuer back: the old leaf or error %v, want a new leaf", err)
	}
}

func TestBrokenSignerIsAnErrorHere(t *testing.T) {
	r, other := newRoot(t), newRoot(t)
	type sign = func(context.Context, string, crypto.Signer) ([][]byte, error)
	for what, tc := range map[string]struct {
		sign sign
		want string
	}{
		"panics": {func(context.Context, string, crypto.Signer) ([][]byte, error) { panic("boom") }, "panicked: boom"},
		"answers nothing": {func(context.Context, string, crypto.Signer) ([][]byte, error) { return nil, nil },
			"the chain is empty"},
		"answers garbage": {func(context.Context, string, crypto.Signer) ([][]byte, error) { return [][]byte{{1, 2}}, nil },
			"malformed"},
		"answers a garbage intermediate": {func(ctx context.Context, name string, key crypto.Signer) ([][]byte, error) {
			chain, err := r.Sign(ctx, name, key)
			return append(chain, []byte{1}), err
		}, "malformed"},
		"signs under another root": {other.Sign, "unknown authority"},
		"signs another name": {func(ctx context.Context, _ string, key crypto.Signer) ([][]byte, error) {
			return r.Sign(ctx, "other.example", key)
		}, "valid for other.example"},
		"signs another key": {func(ctx context.Context, name string, _ crypto.Signer) ([][]byte, error) {
			return r.Sign(ctx, name, newKey(t))
		}, "another key"},
		"signs an expired leaf": {r.withClock(func() time.Time { return time.Now().Add(-25 * time.Hour) }).Sign, "expired"},
		"fails":                 {func(context.Context, string, crypto.Signer) ([][]byte, error) { return nil, errors.New("away") }, "away"},
	} {
		t.Run(what, func(t *testing.T) {
			var heard error
			a := newAuthority(t, signerFunc{tc.sign, r.Roots()}, Options{OnMint: func(_ string, err error, _ bool) { heard = err }})
			_, err := a.Leaf(t.Context(), "api.github.com")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
			if heard == nil {
				t.Error("OnMint heard no error")
			}
			if a.cache.Len() != 0 {
				t.Error("a failure was cached")
			}
		})
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	if _, err := New(signerFunc{}, Options{}); err == nil {
		t.Error("New took a signer without roots")
	}
	if _, err := New(newRoot(t), Options{CacheSize: -1}); err == nil {
		t.Error("New took a negative cache size")
	}
}

func TestFingerprint(t *testing.T) {
	r := newRoot(t)
	got := newAuthority(t, r, Options{}).Fingerprint()
	sum := sha256.Sum256(r.cert.Raw)
	want := strings.ToUpper(hex.EncodeToString(sum[:]))
	if strings.ReplaceAll(got, ":", "") != want || strings.Count(got, ":") != 31 {
		t.Errorf("fingerprint = %s, want %s with colons", got, want)
	}
}

func TestLeavesShareOneKeyPerAuthority(t *testing.T) {
	r := newRoot(t)
	a, b := newAuthority(t, r, Options{}), newAuthority(t, r, Options{})
	public := func(a *Authority, name string) any {
		cert, err := a.Leaf(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.PublicKey
	}
	if !a.key.PublicKey.Equal(public(a, "a.example")) || !a.key.PublicKey.Equal(public(a, "b.example")) {
		t.Error("leaves of one authority have different keys")
	}
	if a.key.PublicKey.Equal(public(b, "a.example")) {
		t.Error("two authorities share a key")
	}
	if got := a.Roots(); len(got) != 1 || !got[0].Equal(r.cert) {
		t.Errorf("Roots = %v, want the root", got)
	}
}
