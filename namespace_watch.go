package starpod

import (
	"context"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/starpod/caddy-starpod/handler"
)

// watchInterval is how often a namespace is looked after.
const watchInterval = 5 * time.Second

const mendNamespace = "restart Caddy, which makes it anew; programs in it have to join again"

// watch looks after the namespace until stop is called.
func (s *space) watch(interval time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.look()
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// look tells of a namespace that somebody has taken something away from, once, and
// of one that is whole again.
func (s *space) look() {
	reason, before := "", s.lostReason()
	if err := s.Intact(); err != nil {
		reason = err.Error()
	}
	s.lost.Store(reason)
	// The log of the configuration that made the namespace may be closed by now.
	log := caddy.Log().Named("starpod")
	record := handler.Record{Time: time.Now(), Namespace: s.Name()}
	switch {
	case reason != "" && before == "":
		record.Kind, record.Level, record.Message = handler.KindNamespaceLost, zapcore.ErrorLevel, "namespace lost"
		record.Reason, record.Mend = reason, mendNamespace
	case reason == "" && before != "":
		record.Kind, record.Message = handler.KindNamespaceFound, "namespace whole again"
	default:
		return
	}
	log.Check(record.Level, record.Message).Write(
		zap.String("namespace", record.Namespace), zap.String("reason", record.Reason), zap.String("mend", record.Mend))
	records.publish(record)
}

// lostReason is what was missing when somebody last looked, "" for nothing.
func (s *space) lostReason() string {
	reason, _ := s.lost.Load().(string)
	return reason
}

// currentTier is the tier as it is now: somebody may have removed the namespace.
func (a *App) currentTier() Tier {
	if a.space != nil {
		if reason := a.space.lostReason(); reason != "" {
			return Tier{Driver: driverVeth, Line: "proxy: network namespace lost (" + reason + ")"}
		}
	}
	return a.tier
}
