package handler

import (
	"container/list"
	"sync"
	"time"
)

// idlePool keeps the idle connections of a directTransport. What was used last is
// used next, so that the others can grow old and be closed.
type idlePool struct {
	mu     sync.Mutex
	byDest map[Destination][]*list.Element // the last one is the youngest
	all    list.List                       // of *directConn, the oldest in front
	sweep  *time.Timer                     // nil while there is nothing to sweep
	closed bool
}

// sweepEvery is how often connections are looked at that nobody uses: those that
// their destination has closed hold a descriptor until then.
const sweepEvery = 10 * time.Second

// take returns a connection to dest that is open at the other end as far as can be
// told, nil if there is none.
func (p *idlePool) take(dest Destination) *directConn {
	for {
		c := p.pop(dest)
		if c == nil || c.usable(time.Now()) {
			return c
		}
		_ = c.raw.Close()
	}
}

func (p *idlePool) pop(dest Destination) *directConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	conns := p.byDest[dest]
	if len(conns) == 0 {
		return nil
	}
	last := conns[len(conns)-1]
	p.remove(last)
	return last.Value.(*directConn)
}

// remove takes one out. Those of one destination stand in the order of all.
func (p *idlePool) remove(e *list.Element) {
	dest := p.all.Remove(e).(*directConn).dest
	conns := p.byDest[dest]
	if n := len(conns) - 1; conns[n] == e {
		conns[n] = nil
		conns = conns[:n]
	} else { // the oldest
		conns = conns[1:]
	}
	if len(conns) == 0 {
		delete(p.byDest, dest)
		return
	}
	p.byDest[dest] = conns
}

// put keeps a connection for the next exchange.
func (p *idlePool) put(c *directConn) {
	c.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.byDest[c.dest]) >= idlePerHost {
		_ = c.raw.Close()
		return
	}
	if p.all.Len() >= idleInAll {
		oldest := p.all.Front()
		_ = oldest.Value.(*directConn).raw.Close()
		p.remove(oldest)
	}
	if p.byDest == nil {
		p.byDest = make(map[Destination][]*list.Element)
	}
	p.byDest[c.dest] = append(p.byDest[c.dest], p.all.PushBack(c))
	if p.sweep == nil {
		p.sweep = time.AfterFunc(sweepEvery, p.clean)
	}
}

// clean closes what is too old or closed at the other end.
func (p *idlePool) clean() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	kept := make([]*directConn, 0, p.all.Len())
	for e := p.all.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*directConn); c.usable(now) {
			kept = append(kept, c)
		} else {
			_ = c.raw.Close()
		}
	}
	p.all.Init()
	clear(p.byDest)
	for _, c := range kept {
		p.byDest[c.dest] = append(p.byDest[c.dest], p.all.PushBack(c))
	}
	p.sweep = nil
	if len(kept) > 0 {
		p.sweep = time.AfterFunc(sweepEvery, p.clean)
	}
}

// close closes all, and what is put back later.
func (p *idlePool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for e := p.all.Front(); e != nil; e = e.Next() {
		_ = e.Value.(*directConn).raw.Close()
	}
	p.all.Init()
	clear(p.byDest)
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
}

// usable reports whether a connection is young enough and has heard nothing while
// it was idle: neither its end nor an answer that nobody asked for.
func (c *directConn) usable(now time.Time) bool {
	return now.Sub(c.since) < idleConnTimeout && c.reader.Buffered() == 0 && silent(c.raw)
}
