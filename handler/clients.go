package handler

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"sync"

	"golang.org/x/sync/semaphore"
)

// clients counts what each client holds. A client that holds nothing is not in
// it, so it is no larger than what the limits allow.
type clients struct {
	limits  *Limits
	codings *semaphore.Weighted // of all

	mu     sync.Mutex
	byName map[string]*client
	held   [kindCount]int
	memory int64 // of bodies and frames, bytes
	conns  map[net.Conn]func()
}

// client is who holds something. Its counts are guarded by the mutex of clients.
type client struct {
	all  *clients
	name string
	uses int // who refers to it

	held    [kindCount]int
	memory  int64 // bytes
	spooled int64 // bytes

	codings, minting *semaphore.Weighted
}

func newClients(l *Limits) *clients {
	return &clients{
		limits: l, codings: semaphore.NewWeighted(int64(l.Codings.InAll)),
		byName: make(map[string]*client), conns: make(map[net.Conn]func()),
	}
}

// take counts one more of a kind for a client. done ends that, and with it the
// use of the client.
func (cs *clients) take(name string, k kind) (c *client, done func(), refusal *Refusal) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	limit := *cs.limits.of(k)
	c = cs.byName[name]
	switch {
	case c != nil && c.held[k] >= limit.PerClient:
		return nil, nil, refuseKind(k, limit.PerClient, false)
	case cs.held[k] >= limit.InAll:
		return nil, nil, refuseKind(k, limit.InAll, true)
	case c == nil:
		c = &client{
			all: cs, name: name, codings: semaphore.NewWeighted(int64(cs.limits.Codings.PerClient)),
			minting: semaphore.NewWeighted(int64(cs.limits.Minting)),
		}
		cs.byName[name] = c
	}
	c.uses++
	c.held[k]++
	cs.held[k]++
	return c, sync.OnceFunc(func() {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		c.held[k]--
		cs.held[k]--
		if c.uses--; c.uses == 0 {
			delete(cs.byName, name)
		}
	}), nil
}

// reserve takes bytes of memory, and reports whether there are as many left.
func (c *client) reserve(bytes int64) bool {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	share := c.all.limits.Memory / 2
	if c.name == theOnly {
		share = c.all.limits.Memory
	}
	if c.memory+bytes > share || c.all.memory+bytes > c.all.limits.Memory {
		return false
	}
	c.memory += bytes
	c.all.memory += bytes
	return true
}

func (c *client) release(bytes int64) {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	c.memory -= bytes
	c.all.memory -= bytes
}

// spool adds to the bytes that the client has in files, and returns their sum.
func (c *client) spool(bytes int64) int64 {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	c.spooled += bytes
	return c.spooled
}

// decoding waits until the client may have one more body decoded.
func (c *client) decoding(ctx context.Context) (done func(), err error) {
	if err := c.codings.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	if err := c.all.codings.Acquire(ctx, 1); err != nil {
		c.codings.Release(1)
		return nil, err
	}
	return sync.OnceFunc(func() {
		c.all.codings.Release(1)
		c.codings.Release(1)
	}), nil
}

// theOnly is the name of the client of a proxy that has one.
const theOnly = ""

// clientOf names the client of a request whose credentials have been checked.
func (p *Proxy) clientOf(r *http.Request) string {
	switch {
	case p.OneClient:
		return theOnly
	case p.Authenticate != nil && !originFrom(r.Context()).needsNoCredentials():
		user, _, _ := proxyBasicAuth(r)
		return "user " + user
	}
	return clientAt(r.RemoteAddr)
}

// clientAt names the client of an address. Whoever has an IPv6 address has 2^64 of
// them (RFC 4291, section 2.5.4).
func clientAt(remote string) string {
	addr, err := netip.ParseAddrPort(remote)
	if err != nil {
		return "at " + remote
	}
	ip := addr.Addr().Unmap()
	if ip.Is6() {
		if prefix, err := ip.WithZone("").Prefix(64); err == nil {
			return "at " + prefix.String()
		}
	}
	return "at " + ip.String()
}

// ConnState is for http.Server: it counts the connections of each client that are
// no tunnels, and closes one too many.
func (p *Proxy) ConnState(conn net.Conn, state http.ConnState) {
	p.Init()
	if !reflect.TypeOf(conn).Comparable() {
		return // some listener wrapper's; it can be no key of a map
	}
	switch state {
	case http.StateNew:
		p.countConn(conn)
	case http.StateHijacked, http.StateClosed:
		p.clients.mu.Lock()
		done := p.clients.conns[conn]
		delete(p.clients.conns, conn)
		p.clients.mu.Unlock()
		if done != nil {
			done()
		}
	}
}

func (p *Proxy) countConn(conn net.Conn) {
	name := theOnly
	if !p.OneClient {
		name = clientAt(conn.RemoteAddr().String())
	}
	_, done, refusal := p.clients.take(name, kindConnection)
	if refusal != nil {
		p.Stats.countRefusal(refusal.Rule)
		_ = conn.Close()
		return
	}
	p.clients.mu.Lock()
	defer p.clients.mu.Unlock()
	p.clients.conns[conn] = done
}

// allowance is memory of a client that one user of it takes and gives back as a
// whole. A nil one has no end.
type allowance struct {
	client *client

	mu     sync.Mutex
	taken  int64 // bytes
	closed bool
}

func (a *allowance) reserve(bytes int64) bool {
	if a == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || !a.client.reserve(bytes) {
		return false
	}
	a.taken += bytes
	return true
}

func (a *allowance) release() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.giveBack()
}

// close gives all back, for good.
func (a *allowance) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.giveBack()
}

func (a *allowance) giveBack() {
	if a.taken > 0 {
		a.client.release(a.taken)
		a.taken = 0
	}
}
