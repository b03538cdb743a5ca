package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"github.com/miekg/dns"
	"github.com/vishvananda/netns"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Where ip(8) looks for namespaces and for the files of their programs.
const (
	namespaceDir = "/run/netns"
	filesDir     = "/etc/netns"
)

// Veth is a named namespace with a pair of interfaces to the host, a name service
// at the host's end, and firewall rules that let nothing else through.
type Veth struct {
	config   VethConfig
	host     netip.Addr
	peer     netip.Addr
	record   *record
	names    *Names
	firewall *firewall
	stop     func() // of the name service

	mu     sync.Mutex
	closed bool
}

// OpenVeth makes the namespace, or the next one beside those of other live
// instances. What dead ones have left is removed first. The error is *Unavailable
// where the machine lacks what it takes.
func OpenVeth(c VethConfig) (*Veth, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	if err := checkCapabilities(); err != nil {
		return nil, err
	}
	tables, err := openFirewall()
	if err != nil {
		return nil, err
	}
	unlock, err := lockRecords()
	if err != nil {
		return nil, fmt.Errorf("keeping a record in %s: %w", recordDir, err)
	}
	defer unlock()
	dead, live, err := others()
	if err != nil {
		return nil, fmt.Errorf("reading the records in %s: %w", recordDir, err)
	}
	inherited := record{Tables: missingTables()}
	for _, r := range live {
		inherited.inherit(r)
	}
	for _, r := range dead {
		c.Logger.Info("removing what a killed instance has left", zap.String("namespace", r.Name))
		if err := r.remove(tables); err != nil {
			return nil, fmt.Errorf("removing what a killed instance has left: %w", err)
		}
		inherited.inherit(r)
	}
	v, err := reserve(c, inherited)
	if err != nil {
		return nil, err
	}
	if err := v.make(tables); err != nil {
		return nil, errors.Join(err, v.undo(tables))
	}
	return v, nil
}

func checkCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	for _, need := range []struct {
		bit  uint
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}} {
		if data[need.bit/32].Effective&(1<<(need.bit%32)) == 0 {
			return &Unavailable{Reason: "missing " + need.name, Mend: "start it as root"}
		}
	}
	return nil
}

// reserve finds a name, a pair of interfaces and a subnet that nobody uses.
func reserve(c VethConfig, inherited record) (*Veth, error) {
	subnet := c.Subnet.Masked()
	for i := range maxInstances {
		wanted := c.instance(i)
		if taken(wanted) {
			continue
		}
		for subnet.IsValid() && inUse(subnet) {
			subnet = nextSubnet(subnet)
		}
		if !subnet.IsValid() {
			return nil, errors.New("no subnet is free behind " + c.Subnet.String() + ": name another one")
		}
		wanted.Subnet = subnet
		inherited.Name, inherited.HostInterface = wanted.Name, wanted.HostInterface
		r, err := newRecord(inherited)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("keeping a record in %s: %w", recordDir, err)
		}
		v := &Veth{config: wanted, record: r, names: NewNames()}
		v.host, v.peer = ends(subnet)
		return v, nil
	}
	return nil, fmt.Errorf("%d namespaces named like %s are taken: remove those that nobody needs, see `ip netns`", maxInstances, c.Name)
}

func taken(c VethConfig) bool {
	if _, err := os.Lstat(filepath.Join(namespaceDir, c.Name)); err == nil {
		return true
	}
	if _, err := os.Lstat(recordPath(c.Name)); err == nil {
		return true
	}
	_, err := net.InterfaceByName(c.HostInterface)
	return err == nil
}

// make makes everything that the record lists.
func (v *Veth) make(tables *iptables.IPTables) error {
	if err := v.makeNamespace(); err != nil {
		return err
	}
	if err := v.link(); err != nil {
		return err
	}
	udp, tcp, err := v.serveNames()
	if err != nil {
		return err
	}
	v.firewall = &firewall{
		tables: tables, host: v.config.HostInterface, hostIP: v.host.String(), peerIP: v.peer.String(),
		ports: v.config.Ports, names: udp, namesTCP: tcp,
	}
	if err := v.firewall.build(); err != nil {
		return err
	}
	if err := v.up(); err != nil { // now that nothing can leave
		return err
	}
	if err := v.record.makeFolder(filesDir); err != nil {
		return err
	}
	if err := v.record.makeFolder(filepath.Dir(v.ResolvConf())); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(v.ResolvConf(), []byte("nameserver "+v.host.String()+"\n"), 0o644),
		os.Chmod(v.ResolvConf(), 0o644)) // whatever the umask is
}

// makeNamespace makes it where ip(8) finds it.
func (v *Veth) makeNamespace() error {
	if err := v.record.makeFolder(namespaceDir); err != nil {
		return err
	}
	err := onOwnThread(func() error {
		handle, err := netns.NewNamed(v.config.Name)
		if err != nil {
			return err
		}
		return handle.Close()
	})
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return &Unavailable{Reason: "the kernel has no network namespaces", Err: err}
	case err != nil:
		return fmt.Errorf("making the namespace %s: %w", v.config.Name, err)
	}
	if v.record.Inode, err = inode(v.Path()); err != nil {
		return err
	}
	return v.record.save()
}

func inode(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return stat.Ino, nil
}

// serveNames listens at the host's end, on ports that the firewall rules lead to,
// so that it does not matter who has port 53 there.
func (v *Veth) serveNames() (udp, tcp uint16, err error) {
	address := netip.AddrPortFrom(v.host, 0).String()
	packets, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp4", address)
	if err != nil {
		return 0, 0, fmt.Errorf("listening for the name service: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp4", address)
	if err != nil {
		return 0, 0, errors.Join(fmt.Errorf("listening for the name service: %w", err), packets.Close())
	}
	service := &NameService{Names: v.names, Failed: func(err error) {
		v.config.Logger.Error("the name service of the namespace has ended", zap.Error(err))
	}}
	v.stop = service.Serve([]net.PacketConn{packets}, []net.Listener{listener})
	return packets.LocalAddr().(*net.UDPAddr).AddrPort().Port(), listener.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

// Name is the namespace's, as made.
func (v *Veth) Name() string { return v.config.Name }

// Path is where the namespace can be entered.
func (v *Veth) Path() string { return filepath.Join(namespaceDir, v.config.Name) }

// ResolvConf is the file that takes the place of /etc/resolv.conf in it.
func (v *Veth) ResolvConf() string { return filepath.Join(filesDir, v.config.Name, "resolv.conf") }

// HostAddr is the host's end, where a proxy for the namespace listens.
func (v *Veth) HostAddr() netip.Addr { return v.host }

// PeerAddr is the address of the namespace.
func (v *Veth) PeerAddr() netip.Addr { return v.peer }

// Names are those that the namespace has been told.
func (v *Veth) Names() *Names { return v.names }

// Redirect leads the ports of all addresses to a port of the host's end, in place
// of the one before.
func (v *Veth) Redirect(port uint16) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return net.ErrClosed
	}
	if err := v.firewall.redirect(port); err != nil {
		return fmt.Errorf("leading the namespace to the proxy: %w", err)
	}
	return nil
}

// Do calls f on a thread that has entered the namespace.
func (v *Veth) Do(f func() error) error { return inNamespace(v.Path(), f) }

// checkTimeout is how long a packet of the namespace may take to the host.
const checkTimeout = 3 * time.Second

// Check tries from inside to reach the name service, and the proxy if there is
// one. It fails where another firewall of the host drops what is allowed here.
func (v *Veth) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	v.mu.Lock()
	proxy := v.firewall.proxy
	v.mu.Unlock()
	err := v.Do(func() error {
		client := &dns.Client{Timeout: checkTimeout}
		query := new(dns.Msg).SetQuestion("localhost.", dns.TypeA)
		if _, _, err := client.ExchangeContext(ctx, query, net.JoinHostPort(v.host.String(), "53")); err != nil {
			return fmt.Errorf("the name service: %w", err)
		}
		if proxy == 0 {
			return nil
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp4", net.JoinHostPort(v.host.String(), strconv.Itoa(int(proxy))))
		if err != nil {
			return fmt.Errorf("the proxy: %w", err)
		}
		return conn.Close()
	})
	if err != nil {
		return fmt.Errorf("the namespace %s does not reach %w; if another firewall drops it, allow what comes from %s there, for example: "+
			"nft insert rule inet filter input iifname %[3]s accept", v.config.Name, err, v.config.HostInterface)
	}
	return nil
}

// Close removes all that was made. Programs that are still inside have no network
// from then on.
func (v *Veth) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil
	}
	v.closed = true
	unlock, err := lockRecords()
	if err != nil {
		return fmt.Errorf("keeping a record in %s: %w", recordDir, err)
	}
	defer unlock()
	return v.undo(v.firewall.tables)
}

func (v *Veth) undo(tables *iptables.IPTables) error {
	if v.stop != nil {
		v.stop()
	}
	return v.record.remove(tables)
}

// remove removes what the record lists, and then the record.
func (r *record) remove(tables *iptables.IPTables) error {
	f := &firewall{tables: tables, host: r.HostInterface}
	err := errors.Join(r.unlink(), f.remove(), removeTables(r.Tables), r.removeNamespace(),
		os.RemoveAll(filepath.Join(filesDir, r.Name)))
	for i := len(r.Folders) - 1; i >= 0; i-- {
		_ = os.Remove(r.Folders[i]) // unless somebody else uses it now
	}
	if err != nil {
		return fmt.Errorf("%w; what is left is listed in %s", err, recordPath(r.Name))
	}
	return r.forget()
}

// removeNamespace removes the name, if it still names what was made.
func (r *record) removeNamespace() error {
	path := filepath.Join(namespaceDir, r.Name)
	there, err := inode(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.Inode != 0 && there != r.Inode {
		return nil
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("removing the namespace %s: %w", r.Name, err)
	}
	return os.Remove(path)
}
