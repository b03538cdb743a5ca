package starpod

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/netns"
	"github.com/starpod/caddy-starpod/tokens"
)

// openDock lets commands attach to this configuration once it is active.
func (a *App) openDock() error {
	switch {
	case a.Isolation != "" && a.Isolation != "auto" && a.Isolation != driverSealed:
		return nil
	case a.Isolation != driverSealed && runtime.GOOS != "linux":
		return nil
	}
	d, err := openDock(a.dir, a.logger)
	if err != nil && a.Isolation != driverSealed {
		a.logger.Warn("no command can attach", zap.Error(err))
		return nil
	}
	if err != nil {
		return err
	}
	a.dock.Store(d)
	a.generation, err = d.join(a)
	return err
}

// leaveDock may be called again.
func (a *App) leaveDock() {
	if a.generation != nil {
		a.dock.Load().leave(a.generation)
		a.generation = nil
	}
}

// knowAttached lets a proxy that asks for credentials know those of attached
// commands, too.
func (a *App) knowAttached(p *handler.Proxy) {
	configured := p.Authenticate
	if configured == nil {
		return
	}
	p.Authenticate = func(r *http.Request, user, password string) bool {
		d := a.dock.Load()
		return d != nil && d.knows(user, password) || configured(r, user, password)
	}
}

// attachment is one command, seen from the proxy.
type attachment struct {
	dock    *dock
	wire    attachWire
	arrived func() // it is not about to attach any more

	site string // as the command named it, or the address of the only one

	served      bool   // the dock's to lock
	credentials string // user:password; the dock's to lock
}

// run serves a command from its connection to the end of that.
func (a *attachment) run() {
	defer a.wire.conn.Close()
	defer a.arrived()
	if err := a.dock.add(a); err != nil {
		a.refuse(err)
		return
	}
	defer a.dock.remove(a)
	if err := a.wire.conn.SetDeadline(time.Now().Add(arriveTimeout)); err != nil {
		return
	}
	peer, err := a.admit()
	if err != nil {
		a.refuse(err)
		return
	}
	stop, how, err := a.negotiate()
	if err != nil {
		a.refuse(err)
		return
	}
	defer stop()
	a.arrived()
	fields := []zap.Field{zap.Int("pid", peer.PID), zap.Int("uid", peer.UID), zap.String("site", a.site), zap.String("isolation", how)}
	a.dock.logger().Info("a command has attached", fields...)
	a.awaitEnd()
	a.dock.logger().Info("an attached command has ended", fields...)
}

// refuse says why, and logs what is not the silence of somebody who has gone.
func (a *attachment) refuse(err error) {
	if errors.Is(err, io.EOF) {
		return
	}
	a.dock.logger().Warn("a command could not attach", zap.Error(err))
	_ = a.wire.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_ = a.wire.send(attachAnswer{Version: attachVersion, Error: err.Error()}, nil)
}

// admit lets this user and root in. A program in another network namespace may be
// one that is isolated by another proxy, to which this one would be a way out.
func (a *attachment) admit() (netns.Peer, error) {
	peer, err := netns.PeerOf(a.wire.conn)
	if err != nil {
		return peer, err
	}
	own := os.Geteuid()
	switch {
	case peer.UID != own && peer.UID != 0:
		return peer, fmt.Errorf("user %d may not attach to the Caddy of user %d: attach as that user or as root", peer.UID, own)
	case !peer.Local:
		return peer, errors.New("a program in another network namespace than Caddy's may not attach: it could go around what isolates it")
	}
	return peer, nil
}

// negotiate answers requests up to the last one.
func (a *attachment) negotiate() (stop func(), how string, err error) {
	for greeted := false; ; greeted = true {
		text, files, err := a.wire.receive()
		if err != nil {
			return nil, "", err
		}
		r, err := parseAttachRequest(text)
		clear(text) // it may hold a value
		if err == nil && (r.Serve == nil && len(files) > 0 || greeted == (r.Hello != nil)) {
			err = errMalformed
		}
		var answer attachAnswer
		if err == nil {
			answer, stop, how, err = a.answer(r, files)
		}
		closeFiles(files)
		if err != nil {
			return nil, "", err
		}
		answer.Version = attachVersion
		if err := a.wire.send(answer, nil); err != nil {
			if stop != nil {
				stop()
			}
			return nil, "", err
		}
		if r.Serve != nil {
			return stop, how, a.wire.conn.SetDeadline(time.Time{})
		}
	}
}

func (a *attachment) answer(r attachRequest, files []*os.File) (answer attachAnswer, stop func(), how string, err error) {
	switch {
	case r.Hello != nil:
		answer, err = a.hello(r.Hello)
	case r.Seal != nil:
		answer.Token, err = a.seal(r.Seal)
	case len(r.Serve.Sockets) > 0 || len(files) > 0:
		how = driverSealed
		stop, err = a.serveNamespace(r.Serve.Sockets, files)
	default:
		how, stop = driverEnv, func() {}
		answer.Proxy, err = a.serveByEnvironment()
	}
	return answer, stop, how, err
}

// hello finds the site, which stays the same when later configurations have more.
func (a *attachment) hello(h *attachHello) (answer attachAnswer, err error) {
	// Apps start in no particular order: the socket may be there before the site.
	deadline := time.Now().Add(startPatience)
	for a.dock.active() == nil && time.Now().Before(deadline) {
		time.Sleep(startPoll)
	}
	site, err := a.dock.site(h.Site)
	if err != nil {
		return answer, err
	}
	a.site = h.Site
	if listen := site.listen(); a.site == "" && len(listen) > 0 {
		a.site = listen[0].String()
	}
	app := a.dock.active()
	if app == nil {
		return answer, errNoSite
	}
	answer.Hide = app.hidden()
	if site.proxy.Authority == nil {
		return answer, nil
	}
	authority, err := app.Authority(app.ctx)
	if err != nil {
		return answer, err
	}
	answer.Roots = encodeRoots(authority.Roots())
	return answer, nil
}

const (
	startPatience = 10 * time.Second
	startPoll     = 20 * time.Millisecond
)

func encodeRoots(roots []*x509.Certificate) string {
	var text bytes.Buffer
	for _, root := range roots {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	}
	return text.String()
}

func (a *attachment) seal(s *attachSecret) (string, error) {
	defer clear(s.Value)
	site, err := a.dock.site(a.site)
	if err != nil {
		return "", err
	}
	keys, err := site.proxy.Keys()
	if err != nil {
		return "", err
	}
	return keys.Seal(tokens.Secret{Name: s.Name, Value: tokens.Value(s.Value), Hosts: s.Hosts})
}

// serveByEnvironment makes credentials where the site asks for some.
func (a *attachment) serveByEnvironment() (proxy string, err error) {
	site, err := a.dock.site(a.site)
	if err != nil {
		return "", err
	}
	listen := site.listen()
	if len(listen) == 0 {
		return "", errors.New("the site listens on no TCP address, and without isolation a command needs one: add one to its `bind`")
	}
	address := reachable(listen[0].String())
	if site.proxy.Authenticate == nil {
		a.begin("")
		return "http://" + address, nil
	}
	credentials := "run-" + rand.Text()[:8] + ":" + rand.Text()
	a.begin(credentials)
	return "http://" + credentials + "@" + address, nil
}

func (a *attachment) begin(credentials string) {
	a.dock.mu.Lock()
	defer a.dock.mu.Unlock()
	a.served, a.credentials = true, credentials
}

// serveNamespace serves the sockets of a sealed namespace.
func (a *attachment) serveNamespace(sockets []netns.Socket, files []*os.File) (stop func(), err error) {
	outlet, err := netns.TakeOutlet(sockets, files)
	if err != nil {
		return nil, err
	}
	conns := newAttachedConns()
	newest := func() *handedListener {
		site, err := a.dock.site(a.site)
		if err != nil {
			a.dock.logger().Warn("an attached command is not served", zap.String("site", a.site), zap.Error(err))
			return nil
		}
		return site.listener
	}
	outlet.Wrap(conns.wrap)
	var accepting sync.WaitGroup
	stopServing := serveOutlet(outlet, func(l net.Listener) {
		accepting.Go(func() { handOver(l, newest, a.dock.logger) })
	})
	a.begin("")
	return func() {
		stopServing()
		conns.close()
		accepting.Wait()
	}, nil
}

// awaitEnd returns when the connection has ended. Whatever is said on it now ends
// it as well.
func (a *attachment) awaitEnd() {
	_, files, _ := netns.ReceiveFiles(a.wire.conn, make([]byte, 1))
	closeFiles(files)
}
