package handler

import (
	"context"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

const (
	// drainTimeout is how long a tunnel may go on under a configuration that has
	// been replaced, keys and rules included.
	drainTimeout = 10 * time.Minute

	// exitGrace is how long busy tunnels have when Caddy exits and no grace_period
	// says. Caddy's own default is for ever, but a blind tunnel may never end.
	exitGrace = 10 * time.Second
)

// leaving is the end of a proxy whose configuration is not in force any more.
type leaving struct {
	begin func() // does not wait
	cut   context.CancelFunc
	ended chan struct{}
}

// underWay has each *leaving between its beginning and its end: at exit also those
// of configurations that were replaced before.
var underWay sync.Map

func (l *leaving) init(p *Proxy) {
	l.ended = make(chan struct{})
	var ctx context.Context
	ctx, l.cut = context.WithCancel(context.Background())
	l.begin = sync.OnceFunc(func() {
		underWay.Store(l, nil)
		go func() {
			defer underWay.Delete(l)
			defer close(l.ended)
			defer l.cut()
			ctx, cancel := context.WithTimeout(ctx, drainTimeout)
			defer cancel()
			_ = p.Close(ctx)
		}()
	})
}

// await holds up the exit of Caddy while tunnels are busy, as long as ctx, which is
// the grace period, and then cuts them. A reload it does not hold up.
func (l *leaving) await(ctx context.Context) error {
	l.begin()
	if !caddy.Exiting() {
		return nil
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, exitGrace)
		defer cancel()
	}
	underWay.Range(func(key, _ any) bool {
		l := key.(*leaving)
		select {
		case <-l.ended:
		case <-ctx.Done():
			l.cut()
			<-l.ended
		}
		return true
	})
	return nil
}
