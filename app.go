package starpod

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/internal/heap"
)

// App is what all proxies of a configuration share: the certificate authority
// and the isolation of clients.
type App struct {
	// Folder of the authority's files proxy-ca.pem, proxy-ca-key.pem and
	// proxy-ca-bundle.pem. Default: starpod in Caddy's data directory.
	DataDir string `json:"data_dir,omitempty"`

	// How clients are kept from going around the proxy: veth makes a network
	// namespace for them, sealed takes in the namespaces of commands that attach
	// (`caddy starpod run --attach`), env relies on proxy environment variables. auto
	// is veth where a site binds the namespace and the machine allows it, else env,
	// and commands can attach where the machine allows it. Default: auto.
	Isolation string `json:"isolation,omitempty"`

	// The namespace of isolation veth.
	Namespace *NamespaceConfig `json:"namespace,omitempty"`

	// How many certificates for hosts are kept in memory. Default: 1024.
	LeafCache int `json:"leaf_cache,omitempty"`

	// Where certificates for interception come from. Default: an authority in
	// data_dir, made on first start.
	CA *CAConfig `json:"ca,omitempty"`

	dir     string // DataDir, absolute
	issuer  certmagic.Issuer
	roots   []*x509.Certificate
	proxies []attached
	starts  []func() error
	stats   *handler.Stats
	admin   []netip.AddrPort
	logger  *zap.Logger
	ctx     caddy.Context

	isolating  sync.Once
	isolateErr error
	tier       Tier
	level      atomic.Int32         // of tier, for requests that come while the app starts
	space      *space               // nil in tier 0
	dock       atomic.Pointer[dock] // nil where no command can attach
	generation *generation          // of dock

	mu        sync.Mutex
	authority *ca.Authority
	bundle    ca.Bundle
}

// CAConfig names an issuer module of Caddy as the authority.
type CAConfig struct {
	// A module in tls.issuance that signs the certificates, for example
	// internal, whose authority lives in Caddy's storage and so is shared by
	// all instances on that storage.
	IssuerRaw json.RawMessage `json:"issuer,omitempty" caddy:"namespace=tls.issuance inline_key=module"`

	// PEM files with the roots that clients need to trust. Not needed for the
	// internal issuer, which knows its root.
	Roots []string `json:"roots,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "starpod", New: func() caddy.Module { return new(App) }}
}

// Provision reads what is there. What is missing is made when the app starts,
// or when a proxy needs it first, since apps start in no particular order.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	a.stats = new(handler.Stats)
	if registry := ctx.GetMetricsRegistry(); registry != nil {
		if err := a.stats.Register(registry); err != nil {
			return fmt.Errorf("registering the metrics: %w", err)
		}
	}
	if a.DataDir == "" {
		a.DataDir = filepath.Join(caddy.AppDataDir(), "starpod")
	}
	// Clients are told these paths, and work in other folders.
	dir, err := filepath.Abs(a.DataDir)
	if err != nil {
		return err
	}
	a.dir = dir
	a.ctx = ctx
	if err := emitEvents(ctx, a.logger); err != nil {
		return fmt.Errorf("subscribing to the start: %w", err)
	}
	if err := checkServerIsolation(a.Isolation); err != nil {
		return err
	}
	if _, err := a.Namespace.veth(); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	for _, listen := range adminListen(ctx) {
		a.admin = append(a.admin, tcpAddresses(listen)...)
	}
	if a.LeafCache < 0 {
		return errors.New("leaf_cache must not be negative")
	}
	if a.CA != nil {
		return a.provisionIssuer(ctx)
	}
	if _, err := ca.Load(a.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("loading the certificate authority: %w", err)
	}
	return nil
}

// Start makes what is missing and says in the log which isolation there is.
func (a *App) Start() error {
	if _, err := a.Authority(context.Background()); err != nil {
		return err
	}
	if err := a.isolate(); err != nil {
		return err
	}
	for _, start := range a.starts {
		if err := start(); err != nil {
			return err
		}
	}
	if err := a.openDock(); err != nil {
		return err
	}
	a.level.Store(int32(a.tier.Level))
	a.logger.Info(a.tier.Line)
	heap.Tune()
	return nil
}

// Stop lets the next configuration serve attached commands. The proxies clean up
// themselves.
func (a *App) Stop() error {
	a.leaveDock()
	return nil
}

// Cleanup gives the namespace and the dock up, which end with the last
// configuration that uses them. It is called for configurations that failed to
// start as well.
func (a *App) Cleanup() error {
	var err error
	if a.dock.Load() != nil {
		a.leaveDock()
		_, err = docks.Delete(a.dir)
	}
	if a.space != nil {
		_, spaceErr := spaces.Delete(a.Namespace.name())
		err = errors.Join(err, spaceErr)
	}
	return err
}

// Listeners implements [handler.Runtime].
func (a *App) Listeners() []netip.AddrPort {
	own := slices.Clone(a.admin)
	if a.space != nil {
		own = append(own, netip.AddrPortFrom(a.space.HostAddr(), 53))
	}
	return own
}

// TierLevel implements [handler.Runtime].
func (a *App) TierLevel() int {
	level := int(a.level.Load())
	if level > 0 && a.space != nil && a.space.lostReason() != "" {
		return 0
	}
	return level
}

// Attach implements [handler.Runtime].
func (a *App) Attach(p *handler.Proxy, at handler.Site, start func() error) {
	p.Stats, p.Watch = a.stats, records.publish
	a.knowAttached(p)
	a.proxies = append(a.proxies, attached{p, p.Guard.Self, at})
	p.Guard.Self = a.self
	a.starts = append(a.starts, start)
}

// attached is a proxy of this app, and where it can be reached.
type attached struct {
	*handler.Proxy
	self func() []netip.AddrPort
	at   handler.Site
}

// self returns the addresses of all proxies: none shall lead to another, whose
// rules and keys may be others, or round in a circle.
func (a *App) self() (all []netip.AddrPort) {
	for _, p := range a.proxies {
		all = append(all, p.self()...)
	}
	return all
}

// Authority implements [handler.Runtime]. The first call loads or makes the
// authority and writes the bundle for clients.
func (a *App) Authority(context.Context) (*ca.Authority, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.authority != nil {
		return a.authority, nil
	}
	signer, err := a.signer()
	if err != nil {
		return nil, fmt.Errorf("loading the certificate authority: %w", err)
	}
	authority, err := ca.New(signer, ca.Options{CacheSize: a.LeafCache, OnMint: a.stats.CountLeaf})
	if err != nil {
		return nil, err
	}
	bundle, err := ca.WriteBundle(filepath.Join(a.dir, ca.BundleFile), authority.Roots())
	if err != nil {
		return nil, fmt.Errorf("writing the bundle for clients: %w", err)
	}
	if bundle.SystemRoots == "" {
		a.logger.Warn("no file with the system's roots found; the bundle holds this proxy's root alone, "+
			"so clients that use it trust nothing else", zap.String("bundle", bundle.Path))
	}
	a.authority, a.bundle = authority, bundle
	return authority, nil
}

func (a *App) signer() (ca.Signer, error) {
	if a.issuer != nil {
		return ca.NewIssuer(a.issue, a.roots), nil
	}
	return ca.LoadOrGenerate(a.dir)
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
	_ handler.Runtime    = (*App)(nil)
)
