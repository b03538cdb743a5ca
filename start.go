package starpod

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/netns"
	"github.com/starpod/caddy-starpod/tokens"
)

// Config describes a proxy of one's own, without a Caddy configuration. The
// zero value is usable: a key, an authority and credentials that exist in
// memory only, on a loopback port chosen by the system.
type Config struct {
	// MasterKey is 32 bytes. Default: a random one.
	MasterKey []byte

	// DataDir keeps the authority from one start to the next. Default: the
	// authority lives in memory, and its public half in a temporary folder.
	DataDir string

	// Addr is the address to listen on. Default: 127.0.0.1:0.
	Addr string

	// Isolation is auto, sealed, veth or env. Default: auto, which is the first of
	// sealed, veth and env that works on this machine.
	Isolation string

	// Namespace describes the namespace that isolation veth makes.
	Namespace netns.VethConfig

	// User is who commands run as; root alone can choose. Default: the user of
	// this process.
	User *netns.User

	// Hide names files and folders that an isolated command finds empty, such as
	// those that hold a key. DataDir is one of them without being named.
	Hide []string

	// NoIntercept makes every CONNECT a blind tunnel.
	NoIntercept bool

	// Open lets every local process use the proxy. Default: only who knows the
	// credentials, which are in the environment that Prepare sets.
	Open bool

	// Rules, Trust and Upstream are the lines of the same names in `egress`.
	Rules    []handler.EgressRule
	Trust    []string
	Upstream string

	// Swap says where tokens are looked for and what becomes of them.
	Swap handler.SwapPolicy

	// Limits bound what clients, who are one here, can make the proxy hold.
	Limits handler.Limits

	// LeafCache is how many certificates for hosts are kept. Default: 1024.
	LeafCache int

	// Resolver looks up the names of destinations. Default: the system's.
	Resolver *net.Resolver

	// Logger gets warnings and the audit lines. Default: none.
	Logger *zap.Logger

	keys        *tokens.Keyring // in place of MasterKey
	first       *candidate      // the command that is to come first; may be nil
	leaveOthers bool            // what killed proxies have left stays
	summary     *runSummary     // of what commands do; may be nil
	attach      bool            // to a running Caddy, in place of a proxy of one's own
}

// Handle is a running proxy.
type Handle struct {
	Addr      netip.AddrPort
	CABundle  string // PEM file: the system's roots and the proxy's
	Tier      Tier
	Namespace string // path of the namespace that commands share; "" where each has its own, or none

	log      *zap.Logger
	summary  *runSummary // may be nil
	keys     *tokens.Keyring
	proxy    *handler.Proxy
	server   *http.Server
	self     []netip.AddrPort // its own listeners
	temp     *tempDir
	dir      string // temp's path: files for clients
	user     string
	password string

	// Of isolated commands.
	runAs    *netns.User
	hide     []string
	resolver string // file in the place of /etc/resolv.conf
	veth     *netns.Veth
	inside   netip.AddrPort  // the proxy as seen from the namespace of veth
	closing  context.Context // ends with the proxy
	close    context.CancelFunc

	remote *remote // the proxy, if it is a running Caddy's
}

// Start starts a proxy. It serves until Shutdown is called; ctx bounds only the
// start.
func Start(ctx context.Context, c Config) (*Handle, error) {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	h := &Handle{log: c.Logger, summary: c.summary, runAs: c.User, hide: c.Hide}
	if c.DataDir != "" {
		h.hide = append(slices.Clone(h.hide), c.DataDir)
	}
	h.closing, h.close = context.WithCancel(context.Background())
	if err := h.start(ctx, c); err != nil {
		return nil, errors.Join(err, h.Shutdown(ctx))
	}
	return h, nil
}

func (h *Handle) start(ctx context.Context, c Config) (err error) {
	if _, err := drivers(c.Isolation); err != nil {
		return err
	}
	if h.keys, err = c.keyring(); err != nil {
		return err
	}
	if h.proxy, err = c.newProxy(h.keys); err != nil {
		return err
	}
	if !c.Open {
		h.user, h.password = "starpod", rand.Text()
		h.proxy.Authenticate = func(_ *http.Request, user, password string) bool { return h.knows(user, password) }
	}
	if !c.leaveOthers {
		removeAbandoned(os.TempDir())
	}
	if err := h.makeFolder(); err != nil {
		return err
	}
	if err := h.makeAuthority(c); err != nil {
		return err
	}
	if err := h.listen(ctx, c.Addr); err != nil {
		return err
	}
	// Last: what is made elsewhere meanwhile may need its time.
	return h.isolate(ctx, c)
}

func (c Config) keyring() (*tokens.Keyring, error) {
	if c.keys != nil {
		return c.keys, nil
	}
	if c.MasterKey == nil {
		key, _ := tokens.GenerateKey()
		return tokens.NewKeyring(key), nil
	}
	key, err := tokens.NewKey(c.MasterKey)
	if err != nil {
		return nil, err
	}
	return tokens.NewKeyring(key), nil
}

func (c Config) newProxy(keys *tokens.Keyring) (*handler.Proxy, error) {
	if err := c.Limits.Validate(); err != nil {
		return nil, err
	}
	roots, err := handler.TrustRoots(c.Trust)
	if err != nil {
		return nil, err
	}
	proxy := &handler.Proxy{
		Keys:   func() (*tokens.Keyring, error) { return keys, nil },
		Swap:   c.Swap,
		Guard:  &handler.Guard{Rules: c.Rules, Resolver: c.Resolver},
		Egress: handler.EgressOptions{Roots: roots},
		Limits: c.Limits, OneClient: !c.Open, // its commands can take any address of their namespace
		Log:   c.Logger,
		Audit: c.Logger.Named("audit"),
	}
	if c.summary != nil {
		proxy.Watch = c.summary.watch
	}
	if c.Upstream != "" {
		if proxy.Egress.Upstream, err = handler.ParseUpstream(c.Upstream); err != nil {
			return nil, err
		}
	}
	return proxy, nil
}

// makeFolder makes the folder of the files that clients read.
func (h *Handle) makeFolder() (err error) {
	if h.temp, err = makeTempDir(); err != nil {
		return fmt.Errorf("making a folder for clients: %w", err)
	}
	h.dir = h.temp.path
	h.resolver = filepath.Join(h.dir, "resolv.conf")
	// Every address is the name service there; this is the one that it reserves.
	return h.temp.write("resolv.conf", []byte("nameserver 198.18.0.1\n"))
}

// makeAuthority prepares interception and the files that clients trust it by.
func (h *Handle) makeAuthority(c Config) (err error) {
	if c.NoIntercept {
		return nil
	}
	var root *ca.Root
	if c.DataDir == "" {
		root, err = ca.Generate(time.Now())
	} else {
		root, err = ca.LoadOrGenerate(c.DataDir)
	}
	if err != nil {
		return fmt.Errorf("preparing the certificate authority: %w", err)
	}
	authority, err := ca.New(root, ca.Options{CacheSize: c.LeafCache})
	if err != nil {
		return err
	}
	h.proxy.Authority = func(context.Context) (*ca.Authority, error) { return authority, nil }
	return h.writeBundle(authority.Roots())
}

// writeBundle writes what clients trust, and not into DataDir, which isolated
// commands find empty.
func (h *Handle) writeBundle(roots []*x509.Certificate) error {
	bundle, err := ca.WriteBundle(filepath.Join(h.dir, ca.BundleFile), roots)
	if err != nil {
		return err
	}
	h.CABundle = bundle.Path
	if bundle.SystemRoots == "" {
		h.log.Warn("no file with the system's roots found; clients will trust the proxy's root alone")
	}
	return writeClientFiles(h.temp, h.CABundle, roots)
}

func (h *Handle) listen(ctx context.Context, addr string) error {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("the proxy cannot listen on %s: %w", addr, err)
	}
	h.Addr = listener.Addr().(*net.TCPAddr).AddrPort()
	h.self = []netip.AddrPort{h.Addr}
	h.proxy.Guard.Self = func() []netip.AddrPort { return h.self }
	h.proxy.Init()
	errorLog, err := zap.NewStdLogAt(h.log, zap.DebugLevel)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	h.server = &http.Server{
		Handler: h, ConnState: h.proxy.ConnState, ErrorLog: errorLog,
		ReadHeaderTimeout: time.Duration(h.proxy.Limits.HandshakeTimeout),
		IdleTimeout:       time.Duration(h.proxy.Limits.IdleTimeout),
		MaxHeaderBytes:    h.proxy.Limits.MaxHeaderBytes(),
	}
	h.serve(listener)
	return nil
}

// ServeHTTP serves the proxy's clients.
func (h *Handle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	served, err := h.proxy.Serve(w, r, h, nil)
	if !served {
		http.Error(w, "this is a proxy: name it in HTTP_PROXY and HTTPS_PROXY", http.StatusNotFound)
		return
	}
	var refusal *handler.Refusal
	switch {
	case errors.As(err, &refusal):
		refusal.Write(w)
	case err != nil:
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
	default:
		h.summary.reached(r, h.proxy.Authority == nil)
	}
}

func (h *Handle) knows(user, password string) bool {
	okUser := subtle.ConstantTimeCompare([]byte(user), []byte(h.user))
	return okUser&subtle.ConstantTimeCompare([]byte(password), []byte(h.password)) == 1
}

// Port returns the port of the proxy.
func (h *Handle) Port() int { return int(h.Addr.Port()) }

// Seal makes a token that this proxy opens.
func (h *Handle) Seal(s tokens.Secret) (string, error) {
	if h.keys == nil {
		return h.remote.seal(s)
	}
	return h.keys.Seal(s)
}

// Counts tells what the proxy has done so far.
func (h *Handle) Counts() handler.Counts { return h.proxy.Stats.Counts() }

// Environ returns the variables, as NAME=value, that lead a client to the proxy
// and make it trust the proxy's certificates. Those that hold the proxy's
// address hold its credentials too.
func (h *Handle) Environ() []string { return h.environ(h.proxyURL()) }

// environ is for clients that find the proxy at this URL.
func (h *Handle) environ(proxy string) []string {
	return clientEnv{proxy: proxy, bundle: h.CABundle, dir: h.dir}.list()
}

func (h *Handle) proxyURL() string {
	if h.remote != nil {
		return h.remote.proxy
	}
	if h.user == "" {
		return "http://" + h.Addr.String()
	}
	return "http://" + h.user + ":" + h.password + "@" + h.Addr.String()
}

// Shutdown stops listening, lets what is under way finish for as long as ctx
// lasts, and removes the proxy's temporary files and its namespace. Isolated
// commands that still run are cut off.
func (h *Handle) Shutdown(ctx context.Context) error {
	defer h.close()
	var err error
	if h.server != nil {
		// Connections to the proxy that carry a tunnel are hijacked and end with it.
		// A command that has just ended has closed its listeners.
		if err = h.server.Shutdown(ctx); errors.Is(err, net.ErrClosed) {
			err = nil
		}
		if err != nil {
			err = errors.Join(err, h.server.Close())
		}
		err = errors.Join(err, h.proxy.Close(ctx))
	}
	if h.veth != nil {
		vethErr := h.veth.Close()
		if vethErr != nil {
			h.log.Warn("the namespace is not removed whole; the next start tries again", zap.Error(vethErr))
		}
		err = errors.Join(err, vethErr)
	}
	if h.remote != nil {
		h.close() // before the end is noticed
		err = errors.Join(err, h.remote.wire.conn.Close())
	}
	if h.temp != nil {
		err = errors.Join(err, h.temp.remove())
	}
	return err
}
