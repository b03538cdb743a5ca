package starpod

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/starpod/caddy-starpod/netns"
	"github.com/starpod/caddy-starpod/tokens"
)

// attach makes a running Caddy the proxy of a command: that of the socket at path,
// by the site that is called so, or the only one. Shutdown ends it.
func attach(ctx context.Context, c Config, path, site string) (*Handle, error) {
	h := &Handle{log: c.Logger, runAs: c.User, hide: c.Hide, keys: c.keys}
	h.closing, h.close = context.WithCancel(context.Background())
	if err := h.attach(ctx, c, path, site); err != nil {
		return nil, errors.Join(err, h.Shutdown(ctx))
	}
	return h, nil
}

func (h *Handle) attach(ctx context.Context, c Config, path, site string) (err error) {
	if h.remote, err = dialDock(path); err != nil {
		return err
	}
	greeting, err := h.remote.ask(attachRequest{Hello: &attachHello{Version: attachVersion, Site: site}}, nil)
	if err != nil {
		return err
	}
	h.hide = append(h.hide, greeting.Hide...)
	removeAbandoned(os.TempDir())
	if err := h.makeFolder(); err != nil {
		return err
	}
	if roots := decodeRoots(greeting.Roots); len(roots) > 0 {
		if err := h.writeBundle(roots); err != nil {
			return err
		}
	}
	return h.isolate(ctx, c)
}

// begin has the proxy serve the command, after everything else has been asked: the
// namespace is ready, or there is none.
func (h *Handle) begin(outlet *netns.Outlet) error {
	request, files := attachRequest{Serve: new(attachServe)}, []*os.File(nil)
	if h.Tier.Driver == driverSealed {
		if outlet.Note != "" {
			h.log.Info("the namespace is sealed, though " + outlet.Note)
		}
		var err error
		if request.Serve.Sockets, files, err = outlet.Files(); err != nil {
			return err
		}
		h.inside = outlet.ProxyAddr()
		defer outlet.Close() // the proxy has copies, and is the only one to have some
	}
	answer, err := h.remote.ask(request, files)
	closeFiles(files)
	if err != nil {
		return err
	}
	h.remote.proxy = answer.Proxy
	go h.watchRemote()
	return h.remote.wire.conn.SetDeadline(time.Time{})
}

// watchRemote tells when the proxy has ended before the command.
func (h *Handle) watchRemote() {
	_, _, _ = h.remote.wire.receive()
	if h.closing.Err() == nil {
		h.log.Error("the Caddy that this command is attached to has ended, so its connections fail from now on; " +
			"start the command again when Caddy runs")
	}
}

// remote is a running proxy, seen from a command.
type remote struct {
	wire  attachWire
	proxy string // URL, for a command that is led by its environment
}

// dialDock connects to the socket of a running Caddy.
func dialDock(path string) (*remote, error) {
	conn, err := netns.DialUnix(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no Caddy listens at %s: start one with starpod_secrets and isolation sealed or auto, "+
			"or name its data_dir with --data-dir", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s belongs to the Caddy of another user: run this command as that user or as root", path)
	case err != nil:
		return nil, fmt.Errorf("attaching to %s: %w", path, err)
	}
	r := &remote{wire: attachWire{conn}}
	peer, err := netns.PeerOf(conn)
	own := os.Geteuid()
	// It is about to be given secrets. Root knows whom it names.
	if err == nil && own != 0 && peer.UID != own && peer.UID != 0 {
		err = fmt.Errorf("user %d listens there, who is neither you nor root: name the data_dir of your Caddy with --data-dir", peer.UID)
	}
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(arriveTimeout))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attaching to %s: %w", path, err), conn.Close())
	}
	return r, nil
}

// ask sends a request and waits for its answer.
func (r *remote) ask(request attachRequest, files []*os.File) (answer attachAnswer, err error) {
	sent := r.wire.send(request, files)
	// Who refuses says so and does not wait for what is under way.
	text, extra, err := r.wire.receive()
	closeFiles(extra)
	if err = errors.Join(sent, err); err != nil && text == nil {
		return answer, fmt.Errorf("speaking to the running Caddy: %w", err)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, errors.New("the running Caddy answers with something else than this command expects: use the same build of caddy for both")
	}
	if answer.Error != "" {
		return answer, errors.New("the running Caddy refuses: " + answer.Error)
	}
	if answer.Version != attachVersion {
		return answer, fmt.Errorf("the running Caddy speaks version %d of the protocol and this command version %d: "+
			"use the same build of caddy for both", answer.Version, attachVersion)
	}
	return answer, nil
}

// seal has the proxy make a token by its key, which stays there.
func (r *remote) seal(s tokens.Secret) (string, error) {
	answer, err := r.ask(attachRequest{Seal: &attachSecret{Name: s.Name, Value: []byte(s.Value.Reveal()), Hosts: s.Hosts}}, nil)
	return answer.Token, err
}

func decodeRoots(text string) []*x509.Certificate {
	var roots []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return roots
		}
		if root, err := x509.ParseCertificate(block.Bytes); err == nil {
			roots = append(roots, root)
		}
	}
}
