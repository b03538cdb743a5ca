package starpod

import (
	"errors"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
)

// A socket that outlives a configuration is accepted from by one goroutine, which
// hands each connection to what the newest configuration listens on: connections
// that wait in a socket are reset when it is closed, so a socket for each
// configuration would lose some at every reload.

// handedListener is what one configuration listens on.
type handedListener struct {
	addr   net.Addr
	leave  func() error  // takes it from where newest finds it; called once
	conns  chan net.Conn // without a buffer: what was sent has been accepted
	closed chan struct{}
	once   sync.Once
}

func newHandedListener(addr net.Addr, leave func() error) *handedListener {
	return &handedListener{addr: addr, leave: leave, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *handedListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (l *handedListener) Addr() net.Addr { return l.addr }

// Close implements net.Listener. Only the first call does something.
func (l *handedListener) Close() (err error) {
	l.once.Do(func() {
		err = l.leave()
		close(l.closed)
	})
	return err
}

// acceptPause is how long a lack of descriptors is given to pass.
const acceptPause = 50 * time.Millisecond

// handOver hands the connections of a socket to the newest listener, until the
// socket is closed. newest returns nil where nobody listens.
func handOver(socket net.Listener, newest func() *handedListener, log func() *zap.Logger) {
	for {
		conn, err := socket.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log().Error("accepting a connection from a namespace", zap.Error(err))
			time.Sleep(acceptPause)
			continue
		}
		if !deliver(conn, newest) {
			_ = conn.Close()
		}
	}
}

// deliver waits until a listener takes the connection. One that its listener has
// not taken when it closes goes to the next; without a next it is not delivered.
func deliver(conn net.Conn, newest func() *handedListener) bool {
	for {
		l := newest()
		if l == nil {
			return false
		}
		select {
		case l.conns <- handTo(l, conn, newest):
			return true
		case <-l.closed:
		}
	}
}
