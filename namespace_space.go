package starpod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/netns"
)

// spaces has the namespaces of this process by their configured names. A reload
// finds them there, so that the programs in them notice nothing of it.
var spaces = caddy.NewUsagePool()

// errChanged says that a reload wants another namespace under a name that is taken.
var errChanged = errors.New("its settings changed, and programs may be in it: restart Caddy, or give it another name")

// space is a namespace, and the ports of its host end that sites listen on.
type space struct {
	*netns.Veth
	config  netns.VethConfig
	log     *zap.Logger
	lost    atomic.Value // string: what is missing of it; unset: nothing has been
	unwatch func()

	mu      sync.Mutex
	sockets map[uint16]*spaceSocket // nil when the namespace is gone
	led     uint16                  // the port that programs are led to; 0: none yet
}

// spaceSocket is a port of the host end. One socket serves all configurations that
// listen on it, from the first to the last.
type spaceSocket struct {
	net.Listener
	port uint16
	open []*handedListener // the newest is the last
}

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
		s := &space{Veth: veth, config: c, log: log, sockets: make(map[uint16]*spaceSocket)}
		s.unwatch = s.watch(watchInterval)
		return s, nil
	})
	if err != nil {
		return nil, err
	}
	s := value.(*space)
	if loaded && !reflect.DeepEqual(s.config, c) {
		_, err := spaces.Delete(c.Name)
		return nil, errors.Join(fmt.Errorf("namespace %s: %w", c.Name, errChanged), err)
	}
	return s, nil
}

// Destruct implements caddy.Destructor.
func (s *space) Destruct() error {
	s.unwatch()
	s.mu.Lock()
	for _, socket := range s.sockets {
		_ = socket.Close()
	}
	s.sockets = nil
	s.mu.Unlock()
	return s.Close()
}

// listen returns a listener of one configuration on a port of the host end.
func (s *space) listen(ctx context.Context, address caddy.NetworkAddress, config net.ListenConfig) (*handedListener, error) {
	port := uint16(address.StartPort)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sockets == nil {
		return nil, net.ErrClosed
	}
	socket := s.sockets[port]
	if socket == nil {
		opened, err := address.Listen(ctx, 0, config)
		if err != nil {
			return nil, err
		}
		socket = &spaceSocket{Listener: &handler.TransparentListener{
			Listener: opened.(net.Listener), From: s.PeerAddr(),
			Original: netns.OriginalDst, Name: s.Names().Name, Trusted: true, Log: s.log,
		}, port: port}
		s.sockets[port] = socket
		s.serve(socket)
	}
	l := s.generation(socket)
	if err := s.lead(); err != nil {
		return nil, errors.Join(err, s.leave(socket, l))
	}
	return l, nil
}

// serve hands the connections of a socket to the listener that is newest.
func (s *space) serve(socket *spaceSocket) {
	newest := func() *handedListener {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(socket.open) == 0 {
			return nil
		}
		return socket.open[len(socket.open)-1]
	}
	go handOver(socket, newest, func() *zap.Logger { return s.log })
}

// generation adds a listener to a socket.
func (s *space) generation(socket *spaceSocket) *handedListener {
	var l *handedListener
	l = newHandedListener(socket.Addr(), func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.leave(socket, l)
	})
	socket.open = append(socket.open, l)
	return l
}

// leave undoes listen.
func (s *space) leave(socket *spaceSocket, l *handedListener) error {
	socket.open = slices.DeleteFunc(socket.open, func(other *handedListener) bool { return other == l })
	if len(socket.open) > 0 || s.sockets == nil {
		return nil
	}
	delete(s.sockets, socket.port)
	return errors.Join(socket.Close(), s.lead())
}

// lead leads programs to the lowest port that is open. With none they are left
// where they were led before, and nobody answers there.
func (s *space) lead() error {
	lowest := uint16(0)
	for port := range s.sockets {
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
	go s.check()
	return nil
}

// check looks for what else on this machine keeps programs from the proxy.
func (s *space) check() {
	err := s.Check(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.sockets != nil {
		s.log.Warn("programs in the namespace do not reach the proxy", zap.Error(err))
	}
}
