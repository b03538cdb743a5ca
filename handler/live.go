package handler

import (
	"context"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// liveTunnels are the tunnels under way, blind ones and intercepted ones. No
// http.Server knows of them: their connections are hijacked.
type liveTunnels struct {
	mu   sync.Mutex
	open map[io.Closer]struct{}
}

// add takes note of a tunnel until it is removed.
func (l *liveTunnels) add(t io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = make(map[io.Closer]struct{})
	}
	l.open[t] = struct{}{}
}

func (l *liveTunnels) remove(t io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, t)
}

func (l *liveTunnels) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// drainPoll is how often drain looks whether all have ended, like the one of
// http.Server.Shutdown.
const drainPoll = 50 * time.Millisecond

// drain waits for the tunnels to end, and closes what is left when ctx ends.
func (l *liveTunnels) drain(ctx context.Context) {
	await(ctx, func() bool { return l.count() == 0 })
	l.mu.Lock()
	left := slices.Collect(maps.Keys(l.open))
	l.mu.Unlock()
	for _, t := range left {
		_ = t.Close()
	}
}
