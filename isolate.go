package starpod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/netns"
)

// isolateTimeout is how long making a namespace may take.
const isolateTimeout = 30 * time.Second

// drivers are the ways to isolate commands of this process, the strongest first.
func drivers(isolation string) ([]string, error) {
	switch isolation {
	case "", "auto":
		return []string{driverSealed, driverVeth}, nil
	case driverSealed, driverVeth:
		return []string{isolation}, nil
	case driverEnv:
		return nil, nil
	}
	return nil, fmt.Errorf("%q is no isolation: choose auto, sealed, veth or env", isolation)
}

// drivers leaves out what a running Caddy does not do for a command.
func (c Config) drivers() ([]string, error) {
	wanted, err := drivers(c.Isolation)
	if c.attach {
		wanted = slices.DeleteFunc(wanted, func(driver string) bool { return driver == driverVeth })
	}
	return wanted, err
}

// isolate takes the first driver that works. One that is asked for by name must.
func (h *Handle) isolate(ctx context.Context, c Config) error {
	wanted, err := c.drivers()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, isolateTimeout)
	defer cancel()
	reason := "isolation env"
	for _, driver := range wanted {
		if driver == driverSealed {
			err = h.trySealed(ctx, c.first)
		} else {
			err = h.openVeth(ctx, c.Namespace)
		}
		if err == nil {
			h.Tier = namespaceTier(driver)
			return nil
		}
		if c.Isolation == driver {
			return fmt.Errorf("isolation %s: %w", driver, err)
		}
		reason = netns.Why(err)
		h.log.Info("isolation "+driver+" is not available", zap.Error(err))
	}
	h.Tier = envTier(reason)
	return nil
}

// trySealed finds out if a sealed namespace can be made by making one: that of
// the command which is to come first, or one that is thrown away.
func (h *Handle) trySealed(ctx context.Context, first *candidate) error {
	if first == nil {
		return netns.Probe(ctx)
	}
	return first.open(ctx)
}

// openVeth makes a named namespace whose way out is this proxy.
func (h *Handle) openVeth(ctx context.Context, c netns.VethConfig) error {
	c.Logger = h.log
	veth, err := netns.OpenVeth(c)
	if err != nil {
		return err
	}
	if err := h.serveVeth(ctx, veth); err != nil {
		return errors.Join(err, veth.Close())
	}
	h.veth, h.Namespace = veth, veth.Path()
	return nil
}

func (h *Handle) serveVeth(ctx context.Context, veth *netns.Veth) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", netip.AddrPortFrom(veth.HostAddr(), 0).String())
	if err != nil {
		return fmt.Errorf("listening for the namespace: %w", err)
	}
	own := listener.Addr().(*net.TCPAddr).AddrPort()
	h.self = append(h.self, own, netip.AddrPortFrom(veth.HostAddr(), 53))
	h.inside = own
	h.serve(&handler.TransparentListener{
		Listener: listener, From: veth.PeerAddr(),
		Original: netns.OriginalDst, Name: veth.Names().Name, Trusted: true, Log: h.log,
	})
	if err := veth.Redirect(own.Port()); err != nil {
		return err
	}
	return veth.Check(ctx)
}

// candidate is a command whose helper starts before it is known if there can be a
// sealed namespace, so that both are made while the proxy starts.
type candidate struct {
	cell   *netns.Cell
	err    error // why there is none
	outlet *netns.Outlet
}

func (c *candidate) open(ctx context.Context) error {
	if c.err == nil {
		c.outlet, c.err = c.cell.Open(ctx)
	}
	return c.err
}

// opened is the way out of the namespace, nil if there is none.
func (c *candidate) opened() *netns.Outlet {
	if c == nil {
		return nil
	}
	return c.outlet
}

// abandon ends the helper, if there is one that has not become the command.
func (c *candidate) abandon() {
	if c == nil {
		return
	}
	c.cell.Abandon()
	if c.outlet != nil {
		_ = c.outlet.Close()
	}
}

// admit lets a command begin whose namespace is open, and serves it until it has
// ended.
func (h *Handle) admit(ctx context.Context, cell *netns.Cell, outlet *netns.Outlet, env []string) error {
	inside, resolvConf, stop := h.inside, h.resolvConf(), func() {}
	if h.Tier.Driver == driverSealed && h.remote == nil {
		if outlet.Note != "" {
			h.log.Info("the namespace is sealed, though " + outlet.Note)
		}
		inside, stop = h.serveOutlet(outlet)
	}
	entry := netns.Entry{
		Env:        mergeEnv(env, h.environ("http://"+inside.String())),
		Covers:     h.hide,
		ResolvConf: resolvConf,
	}
	if err := cell.Enter(ctx, entry); err != nil {
		stop()
		return err
	}
	go func() {
		defer stop()
		select {
		case <-cell.Ended():
		case <-h.closing.Done():
		}
	}()
	return nil
}

// resolvConf is the file that leads programs of a namespace to its name service.
func (h *Handle) resolvConf() string {
	if h.veth != nil {
		return h.veth.ResolvConf()
	}
	return h.resolver
}

// serveOutlet serves the sockets of a sealed namespace until stop is called, and
// returns where its programs find the proxy.
func (h *Handle) serveOutlet(o *netns.Outlet) (proxy netip.AddrPort, stop func()) {
	return o.ProxyAddr(), serveOutlet(o, h.serve)
}

// serveOutlet serves the names of a sealed namespace, and has serve called with
// each of its other listeners, which returns at once. stop closes all sockets.
func serveOutlet(o *netns.Outlet, serve func(net.Listener)) (stop func()) {
	names := netns.NewNames()
	service := &netns.NameService{Names: names}
	stopNames := service.Serve(o.Packets, o.Names)
	for _, l := range o.Wildcard {
		serve(&handler.TransparentListener{Listener: l, Original: dialled, Name: names.Name, Trusted: true})
	}
	for _, l := range o.CatchAll {
		serve(&handler.TransparentListener{Listener: l, Original: netns.OriginalDst, Name: names.Name, Trusted: true})
	}
	serve(&handler.TransparentListener{Listener: o.Proxy, Original: notDialled, Trusted: true})
	return func() {
		stopNames()
		_ = o.Close()
	}
}

func (h *Handle) serve(l net.Listener) {
	go func() { _ = h.server.Serve(l) }()
}

// dialled is for sockets on the wildcard address where all addresses are local.
func dialled(conn net.Conn) (addr netip.AddrPort, transparent bool, err error) {
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return addr, false, errors.New("not a TCP connection")
	}
	addr = local.AddrPort()
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), true, nil
}

// notDialled is for clients that know the proxy.
func notDialled(conn net.Conn) (netip.AddrPort, bool, error) {
	addr, _, err := dialled(conn)
	return addr, false, err
}
