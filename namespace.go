package starpod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/netns"
)

// NamespaceConfig describes the network namespace that services join from outside
// and that sites serve by `bind starpod/<name>`.
type NamespaceConfig struct {
	// Name, as `ip netns` shows it. Default: starpod-ns.
	Name string `json:"name,omitempty"`

	// The interface on the host. Default: sp-veth0.
	HostInterface string `json:"host_interface,omitempty"`

	// The interface in the namespace. Default: sp-veth1.
	PeerInterface string `json:"peer_interface,omitempty"`

	// IPv4 range of both; the first address is the host's, the second the
	// namespace's. Default: 10.200.1.0/24, or the next one that is free.
	Subnet string `json:"subnet,omitempty"`

	// TCP ports that lead to the proxy, whatever the address. Default: 80, 443.
	Ports []uint16 `json:"ports,omitempty"`
}

const defaultNamespace = "starpod-ns"

func (c *NamespaceConfig) name() string {
	if c == nil || c.Name == "" {
		return defaultNamespace
	}
	return c.Name
}

// veth returns what it is for the driver.
func (c *NamespaceConfig) veth() (netns.VethConfig, error) {
	v := netns.VethConfig{Name: c.name()}
	if c == nil {
		return v, nil
	}
	v.HostInterface, v.PeerInterface, v.Ports = c.HostInterface, c.PeerInterface, c.Ports
	if c.Subnet != "" {
		subnet, err := netip.ParsePrefix(c.Subnet)
		if err != nil {
			return v, fmt.Errorf("%q is no subnet: write it like 10.200.1.0/24", c.Subnet)
		}
		v.Subnet = subnet
	}
	return v, v.Validate()
}

// isolate makes the namespace where one is wanted and possible, and chooses the
// tier. Whoever needs it first calls it: apps start in no particular order.
func (a *App) isolate() error {
	a.isolating.Do(func() { a.isolateErr = a.chooseIsolation() })
	return a.isolateErr
}

func (a *App) chooseIsolation() error {
	name := a.Namespace.name()
	switch {
	case a.Isolation == driverEnv:
		a.tier = envTier("isolation env")
		return nil
	case a.Isolation == driverSealed:
		a.tier = namespaceTier(driverSealed)
		return nil
	case a.Isolation != driverVeth && !a.bindsNamespace(name):
		a.tier = envTier(unboundReason(name))
		return nil
	}
	config, err := a.Namespace.veth()
	if err != nil {
		return err
	}
	s, err := openSpace(config, a.logger)
	if err != nil && a.Isolation != driverVeth && !errors.Is(err, errChanged) {
		a.logger.Warn("isolation veth is not available; programs that ignore proxy variables reach the network", zap.Error(err))
		a.tier = envTier(netns.Why(err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("making the namespace: %w", err)
	}
	a.space, a.tier = s, namespaceTier(driverVeth)
	return nil
}

// unboundReason says why there is no namespace where no site binds one. That this
// machine could not have one comes first.
func unboundReason(name string) string {
	switch {
	case runtime.GOOS == "darwin":
		return "netns unavailable: macos"
	case runtime.GOOS != "linux":
		return "netns unavailable: " + runtime.GOOS
	case !hasNetAdmin():
		return "missing CAP_NET_ADMIN"
	}
	return "no site binds starpod/" + name
}

// bindsNamespace reports whether a site of the configuration does.
func (a *App) bindsNamespace(name string) bool {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return false
	}
	web, ok := app.(*caddyhttp.App)
	if !ok {
		return false
	}
	for _, server := range web.Servers {
		for _, listen := range server.Listen {
			if strings.HasPrefix(listen, networkName+"/"+name+":") {
				return true
			}
		}
	}
	return false
}

// networkName is that of `bind starpod/<namespace>`.
const networkName = "starpod"

// listenNamespace implements caddy.ListenerFunc: the site's port at the host's end
// of the namespace, to which the namespace's traffic is led. Where there is no
// namespace nobody ever comes.
func listenNamespace(ctx context.Context, _, host, portRange string, portOffset uint, config net.ListenConfig) (any, error) {
	caddyCtx, ok := ctx.(caddy.Context)
	if !ok {
		return nil, errors.New("starpod/ is for the sites of a Caddyfile")
	}
	loaded, err := caddyCtx.App("starpod")
	if err != nil {
		return nil, err
	}
	app := loaded.(*App)
	if name := app.Namespace.name(); host != name {
		return nil, fmt.Errorf("bind starpod/%s: the namespace is called %s; name it so in the global option starpod, or here", host, name)
	}
	if err := app.isolate(); err != nil {
		return nil, err
	}
	if app.space == nil {
		return &idleListener{closed: make(chan struct{})}, nil
	}
	address, err := caddy.ParseNetworkAddress("tcp4/" + net.JoinHostPort(app.space.HostAddr().String(), portRange))
	if err != nil {
		return nil, err
	}
	return app.space.listen(ctx, address.At(portOffset), config)
}

// idleListener accepts nothing.
type idleListener struct {
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *idleListener) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (l *idleListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *idleListener) Addr() net.Addr { return idleAddr{} }

type idleAddr struct{}

func (idleAddr) Network() string { return networkName }
func (idleAddr) String() string  { return "no namespace" }
