package starpod

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/netns"
)

// docks has where commands attach, by data folder. A reload finds it there, so
// that attached commands notice nothing of it.
var docks = caddy.NewUsagePool()

const (
	// maxAttached bounds the commands at one time, and maxArriving those of them
	// that are about to attach.
	maxAttached = 256
	maxArriving = 16

	// arriveTimeout is how long a command may take to attach, its namespace
	// included.
	arriveTimeout = isolateTimeout
)

// dock is the socket in a data folder at which commands attach, and those that
// have.
type dock struct {
	path     string
	listener *net.UnixListener
	inode    os.FileInfo // of the socket that is ours
	active   func() *App // of the configuration that serves
	log      *zap.Logger

	mu          sync.Mutex
	generations []*generation
	attached    map[*attachment]struct{}
	closed      bool
	serving     sync.WaitGroup
}

// openDock returns the dock of a data folder, which is made if it is not there.
// Each success wants one docks.Delete of the folder.
func openDock(dir string, log *zap.Logger) (*dock, error) {
	value, _, err := docks.LoadOrNew(dir, func() (caddy.Destructor, error) {
		return newDock(filepath.Join(dir, attachFile), activeApp, log)
	})
	if err != nil {
		return nil, fmt.Errorf("making the socket that commands attach to: %w", err)
	}
	return value.(*dock), nil
}

// activeApp returns nil until the first configuration has started, and when the
// last one stops.
func activeApp() *App {
	loaded, err := caddy.ActiveContext().AppIfConfigured("starpod")
	if err != nil {
		return nil
	}
	app, _ := loaded.(*App)
	return app
}

func newDock(path string, active func() *App, log *zap.Logger) (*dock, error) {
	listener, err := netns.ListenUnix(path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if conn, dialErr := netns.DialUnix(path); dialErr == nil || !errors.Is(dialErr, syscall.ECONNREFUSED) {
			if dialErr == nil {
				_ = conn.Close()
			}
			return nil, fmt.Errorf("%s belongs to another process that is running: give each Caddy a data_dir of its own", path)
		}
		// Whoever made it was killed.
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		listener, err = netns.ListenUnix(path)
	}
	if err != nil {
		return nil, err
	}
	d := &dock{path: path, listener: listener, active: active, log: log, attached: make(map[*attachment]struct{})}
	if d.inode, err = os.Lstat(path); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	d.serving.Go(d.accept)
	return d, nil
}

// Destruct implements caddy.Destructor: all commands are cut off.
func (d *dock) Destruct() error {
	d.mu.Lock()
	d.closed = true
	for a := range d.attached {
		_ = a.wire.conn.Close()
	}
	d.mu.Unlock()
	err := d.listener.Close()
	d.serving.Wait()
	there, statErr := os.Lstat(d.path)
	if statErr == nil && os.SameFile(there, d.inode) {
		err = errors.Join(err, os.Remove(d.path))
	} else if !errors.Is(statErr, fs.ErrNotExist) {
		err = errors.Join(err, statErr)
	}
	return err
}

// accept serves each command in a goroutine.
func (d *dock) accept() {
	arriving := make(chan struct{}, maxArriving)
	for {
		arriving <- struct{}{}
		conn, err := d.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			<-arriving
			d.logger().Error("accepting a command that wants to attach", zap.Error(err))
			time.Sleep(acceptPause)
			continue
		}
		a := &attachment{dock: d, wire: attachWire{conn}, arrived: sync.OnceFunc(func() { <-arriving })}
		d.serving.Go(a.run)
	}
}

// logger is that of the newest configuration.
func (d *dock) logger() *zap.Logger {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.generations); n > 0 {
		return d.generations[n-1].app.logger
	}
	return d.log
}

// add takes note of a command, until it is removed.
func (d *dock) add(a *attachment) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return net.ErrClosed
	case len(d.attached) >= maxAttached:
		return fmt.Errorf("%d commands are attached already, which is the most", maxAttached)
	}
	d.attached[a] = struct{}{}
	return nil
}

func (d *dock) remove(a *attachment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.attached, a)
}

// count tells how many commands are being served.
func (d *dock) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for a := range d.attached {
		if a.served {
			n++
		}
	}
	return n
}

// knows reports whether credentials are those of a command that is served.
func (d *dock) knows(user, password string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	known := 0
	for a := range d.attached {
		if a.served {
			known |= subtle.ConstantTimeCompare([]byte(user+":"+password), []byte(a.credentials))
		}
	}
	return known == 1
}
