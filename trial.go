package starpod

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/tokens"
)

// trial is a proxy, an API for it on loopback, and a token for a value that is
// made up: what it takes to see on this machine that one becomes the other.
type trial struct {
	dir          string
	api          *demoAPI
	proxy        *Handle
	lookout      *lookout
	value, token string
}

// startTrial starts one, in the isolation that c names.
func startTrial(ctx context.Context, c Config) (*trial, error) {
	t := &trial{value: "made-up-secret-" + rand.Text()[:8]}
	if err := t.start(ctx, c); err != nil {
		t.close(ctx)
		return nil, err
	}
	return t, nil
}

func (t *trial) start(ctx context.Context, c Config) (err error) {
	if t.dir, err = os.MkdirTemp("", "starpod-demo-"); err != nil {
		return err
	}
	if t.api, err = startDemoAPI(filepath.Join(t.dir, "api-root.pem")); err != nil {
		return err
	}
	for _, host := range []string{demoHost, demoOther} {
		rules, err := handler.ParseEgressRule(true, t.api.address(host))
		if err != nil {
			return err
		}
		c.Rules = append(c.Rules, rules...)
	}
	c.Trust, c.Resolver = []string{t.api.rootFile}, demoResolver()
	if t.proxy, err = Start(ctx, c); err != nil {
		return err
	}
	t.token, err = t.proxy.Seal(tokens.Secret{
		Name: demoVariable, Value: tokens.Value(t.value), Hosts: []string{demoHost},
	})
	if err != nil {
		return err
	}
	// Where the programs of a namespace find this machine if they find it at all.
	address := netip.MustParseAddr("127.0.0.1")
	if t.proxy.veth != nil {
		address = t.proxy.veth.HostAddr()
	}
	t.lookout, err = listenLookout(ctx, address)
	return err
}

func (t *trial) close(ctx context.Context) {
	if t.lookout != nil {
		_ = t.lookout.listener.Close()
	}
	if t.proxy != nil {
		_ = t.proxy.Shutdown(context.WithoutCancel(ctx))
	}
	if t.api != nil {
		t.api.close()
	}
	_ = os.RemoveAll(t.dir)
}

// run runs a program as a client of the proxy. env is added to its environment.
func (t *trial) run(program *exec.Cmd, env ...string) (*demoResult, error) {
	result := &demoResult{value: t.value, token: t.token, program: filepath.Base(program.Args[len(program.Args)-1])}
	program.Env = mergeEnv(os.Environ(), append(env,
		demoVariable+"="+t.token,
		"RIGHT_URL="+t.api.url(demoHost), "WRONG_URL="+t.api.url(demoOther)))
	if err := t.proxy.Prepare(program); err != nil {
		return nil, err
	}
	printed, err := program.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		return nil, fmt.Errorf("the program failed: %w: %s", err, strings.TrimSpace(string(failed.Stderr)))
	}
	if err != nil {
		return nil, fmt.Errorf("starting the program: %w", err)
	}
	result.printed = string(printed)
	result.right, result.wrong = t.api.received(demoHost), t.api.received(demoOther)
	result.direct = t.lookout.reached.Load()
	return result, nil
}

// demoResult is what happened.
type demoResult struct {
	value, token string // made up
	program      string // which was started
	printed      string // by the program: its environment and the answers
	right, wrong string // the requests that the hosts received, "" for none
	direct       bool   // whether the program reached this machine without the proxy
}

// held reports whether the program was given the token and never saw the value.
func (r *demoResult) held() bool {
	return strings.Contains(r.printed, demoVariable+"="+r.token) && !strings.Contains(r.printed, r.value)
}

// swapped reports whether the host that the token names received the value.
func (r *demoResult) swapped() bool { return authorization(r.right) == "Bearer "+r.value }

// stripped reports whether the other host received neither value nor token.
func (r *demoResult) stripped() bool {
	return r.wrong != "" && !strings.Contains(r.wrong, r.value) && !strings.Contains(r.wrong, tokenPrefix)
}

// masked reports whether the value was hidden in the answer that repeats it.
func (r *demoResult) masked() bool {
	return strings.Contains(r.printed, demoAnswer+" Bearer ***") && !strings.Contains(r.printed, r.value)
}

// lookout is a listener that no client of a proxy in a namespace may reach.
type lookout struct {
	listener net.Listener
	reached  atomic.Bool
}

func listenLookout(ctx context.Context, address netip.Addr) (*lookout, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", netip.AddrPortFrom(address, 0).String())
	if err != nil {
		return nil, err
	}
	c := &lookout{listener: listener}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.reached.Store(true)
			_ = conn.Close()
		}
	}()
	return c, nil
}
