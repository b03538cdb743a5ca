package starpod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/handler"
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

// spaces has the namespaces of this process by their configured names. A reload
// finds them there, so that the programs in them notice nothing of it.
var spaces = caddy.NewUsagePool()

// space is a namespace, and the ports of its host end that sites listen on.
type space struct {
	*netns.Veth
	config netns.VethConfig

	mu    sync.Mutex
	ports map[uint16]int // listeners of each
	led   uint16         // the port that programs are led to
}

// Destruct implements caddy.Destructor.
func (s *space) Destruct() error { return s.Close() }

// openSpace returns the namespace, which is made if it is not there. Each success
// wants one spaces.Delete.
func openSpace(c netns.VethConfig, log *zap.Logger) (*space, error) {
	value, loaded, err := spaces.LoadOrNew(c.Name, func() (caddy.Destructor, error) {
		made := c
		made.Logger = log
		veth, err := netns.OpenVeth(made)
		if err != nil {
			return nil, err
		}
		return &space{Veth: veth, config: c, ports: make(map[uint16]int)}, nil
	})
	if err != nil {
		return nil, err
	}
	s := value.(*space)
	if loaded && !reflect.DeepEqual(s.config, c) {
		_, err := spaces.Delete(c.Name)
		return nil, errors.Join(fmt.Errorf("the settings of namespace %s changed, and programs may be in it: restart Caddy, or give it another name", c.Name), err)
	}
	return s, nil
}

// join counts a listener more at a port.
func (s *space) join(port uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports[port]++
	return s.lead()
}

func (s *space) leave(port uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports[port]--; s.ports[port] == 0 {
		delete(s.ports, port)
	}
	return s.lead()
}

// lead leads programs to the lowest port that is open. With none they are left
// where they were led before, and nobody answers there.
func (s *space) lead() error {
	lowest := uint16(0)
	for port := range s.ports {
		if lowest == 0 || port < lowest {
			lowest = port
		}
	}
	if lowest == 0 || lowest == s.led {
		return nil
	}
	if err := s.Redirect(lowest); err != nil {
		return err
	}
	s.led = lowest
	return nil
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
	case a.Isolation != driverVeth && !a.bindsNamespace(name):
		a.tier = envTier("no site binds starpod/" + name)
		return nil
	}
	config, err := a.Namespace.veth()
	if err != nil {
		return err
	}
	s, err := openSpace(config, a.logger)
	if unavailable := (*netns.Unavailable)(nil); err != nil && a.Isolation != driverVeth && errors.As(err, &unavailable) {
		a.logger.Warn("isolation veth is not available; programs that ignore proxy variables reach the network", zap.Error(err))
		a.tier = envTier(unavailable.Reason)
		return nil
	}
	if err != nil {
		return fmt.Errorf("making the namespace: %w", err)
	}
	a.space, a.tier = s, namespaceTier(driverVeth)
	return nil
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
	opened, err := address.Listen(ctx, portOffset, config)
	if err != nil {
		return nil, err
	}
	inner := opened.(net.Listener)
	l := &namespaceListener{space: app.space, port: uint16(address.StartPort + portOffset), TransparentListener: handler.TransparentListener{
		Listener: inner, From: app.space.PeerAddr(),
		Original: netns.OriginalDst, Name: app.space.Names().Name, Trusted: true, Log: app.logger,
	}}
	if err := app.space.join(l.port); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	go func() {
		if err := app.space.Check(caddyCtx); err != nil && caddyCtx.Err() == nil {
			app.logger.Warn("programs in the namespace do not reach the proxy", zap.Error(err))
		}
	}()
	return l, nil
}

// namespaceListener is what a site of one configuration listens on.
type namespaceListener struct {
	handler.TransparentListener
	space *space
	port  uint16
	once  sync.Once
}

// Close implements net.Listener.
func (l *namespaceListener) Close() error {
	var left error
	l.once.Do(func() { left = l.space.leave(l.port) })
	return errors.Join(l.Listener.Close(), left)
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
