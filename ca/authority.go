package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

const (
	defaultCacheSize = 1024

	// mintTimeout bounds one request to an issuer, whoever is waiting for it.
	mintTimeout = 30 * time.Second

	// retryAfter is how long a leaf that could not be renewed, but still holds,
	// is served before the issuer is asked again.
	retryAfter = time.Minute
)

// Options tune an [Authority]. The zero value is usable.
type Options struct {
	// CacheSize is how many leaves are kept; the least recently used go first.
	// Default: 1024.
	CacheSize int

	// Now is the clock. Default: time.Now.
	Now func() time.Time

	// OnMint, if not nil, hears of every minting (cached is false; err tells
	// whether it failed) and of every leaf served without one (cached is true;
	// err is set when a renewal failed and the old leaf still holds). It must be
	// safe for concurrent use.
	OnMint func(name string, err error, cached bool)
}

// Authority mints leaf certificates and caches them in memory. All leaves share
// one P-256 key that lives as long as the Authority. It is safe for concurrent
// use.
type Authority struct {
	signer Signer
	roots  []*x509.Certificate
	pool   *x509.CertPool
	key    *ecdsa.PrivateKey
	now    func() time.Time
	onMint func(string, error, bool)
	cache  *lru.Cache[string, entry]
	flight singleflight.Group
}

type entry struct {
	cert    *tls.Certificate
	renewAt time.Time
}

// New returns an Authority that mints through s, whose roots it reads once.
func New(s Signer, o Options) (*Authority, error) {
	if o.CacheSize == 0 {
		o.CacheSize = defaultCacheSize
	}
	if o.Now == nil {
		o.Now = time.Now
	} else if r, ok := s.(*Root); ok {
		s = r.withClock(o.Now)
	}
	if o.OnMint == nil {
		o.OnMint = func(string, error, bool) {}
	}
	roots := s.Roots()
	if len(roots) == 0 {
		return nil, errors.New("making an authority: its signer names no root certificate")
	}
	pool := x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	cache, err := lru.New[string, entry](o.CacheSize)
	if err != nil {
		return nil, fmt.Errorf("making the leaf cache: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating the leaf key: %w", err)
	}
	return &Authority{
		signer: s, roots: roots, pool: pool, key: key,
		now: o.Now, onMint: o.OnMint, cache: cache,
	}, nil
}

// Roots returns the certificates that clients must trust.
func (a *Authority) Roots() []*x509.Certificate { return a.roots }

// Fingerprint returns that of the first root.
func (a *Authority) Fingerprint() string { return Fingerprint(a.roots[0]) }

// Fingerprint returns the SHA-256 of a certificate, as upper-case hexadecimal
// bytes with colons between them, the way browsers and openssl show it.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}

// Leaf returns a certificate for name, a DNS name or an IP address without port
// or brackets, from the cache where it can. Its Leaf field is set. The caller
// must not change it. Callers that ask for one name at once share one minting,
// which goes on when ctx ends. A name that cannot be certified is [ErrName].
func (a *Authority) Leaf(ctx context.Context, name string) (*tls.Certificate, error) {
	s, err := parseName(name)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	name = s.String()
	if e, ok := a.cache.Get(name); ok && a.now().Before(e.renewAt) {
		a.onMint(name, nil, true)
		return e.cert, nil
	}
	minting := false
	done := a.flight.DoChan(name, func() (any, error) {
		minting = true
		return a.renew(context.WithoutCancel(ctx), name)
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("making a certificate for %s: %w", name, ctx.Err())
	case r := <-done:
		if r.Err != nil {
			return nil, r.Err
		}
		if !minting {
			a.onMint(name, nil, true)
		}
		return r.Val.(*tls.Certificate), nil
	}
}

// renew mints a leaf and caches it. Should that fail while the old leaf holds,
// the old one goes on for a while.
func (a *Authority) renew(ctx context.Context, name string) (*tls.Certificate, error) {
	now := a.now()
	old, ok := a.cache.Get(name)
	if ok && now.Before(old.renewAt) { // minted since the caller looked
		a.onMint(name, nil, true)
		return old.cert, nil
	}
	cert, err := a.mint(ctx, name)
	if err != nil && ok && now.Before(old.cert.Leaf.NotAfter) {
		a.cache.Add(name, entry{cert: old.cert, renewAt: earliest(now.Add(retryAfter), old.cert.Leaf.NotAfter)})
		a.onMint(name, err, true)
		return old.cert, nil
	}
	a.onMint(name, err, false)
	if err != nil {
		return nil, err
	}
	// Life counts from now, not from the backdated NotBefore: else a leaf cut
	// short by its root would be due for renewal the moment it is made.
	life := cert.Leaf.NotAfter.Sub(now)
	a.cache.Add(name, entry{cert: cert, renewAt: now.Add(life * 2 / 3)})
	return cert, nil
}

// mint asks the signer for a chain and checks it as a client would. A signer
// that panics fails the one name: the flight runs on a goroutine of its own,
// where nothing else would stop a panic from ending the process.
func (a *Authority) mint(ctx context.Context, name string) (cert *tls.Certificate, err error) {
	ctx, cancel := context.WithTimeout(ctx, mintTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			cert, err = nil, fmt.Errorf("making a certificate for %s: the signer panicked: %v", name, p)
		}
	}()
	chain, err := a.signer.Sign(ctx, name, a.key)
	if err != nil {
		return nil, err
	}
	// Issuers that do not backdate say that it holds from when they signed it.
	leaf, err := a.verify(chain, name, a.now())
	if err != nil {
		return nil, fmt.Errorf("checking the certificate made for %s: %w", name, err)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: a.key, Leaf: leaf}, nil
}

func (a *Authority) verify(chain [][]byte, name string, now time.Time) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("the chain is empty")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	if !a.key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("it is for another key")
	}
	intermediates := x509.NewCertPool()
	for _, der := range chain[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		intermediates.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		DNSName: name, Roots: a.pool, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return leaf, err
}
