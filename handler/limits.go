package handler

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Limits bound what clients can make the proxy hold. A client is a user where
// proxy_auth asks for one, else an IPv4 address or a /64 of IPv6. What is zero has
// its default.
type Limits struct {
	// Connections to the server that are no tunnels: new, idle, and with requests
	// on them. One too many is closed. Default: 4096 of a client, 16384 in all.
	Connections Limit `json:"connections,omitzero"`

	// Tunnels, intercepted and blind. Default: 4096 of a client, 16384 in all.
	Tunnels Limit `json:"tunnels,omitzero"`

	// Requests under way, WebSockets among them. Default: 4096 of a client,
	// 16384 in all.
	Requests Limit `json:"requests,omitzero"`

	// Requests whose body or answer is being decompressed, which takes up to
	// 16 MiB each. Others wait. Default: 32 of a client, 128 in all.
	Codings Limit `json:"codings,omitzero"`

	// Certificates being made for one client. Others wait. Default: 16.
	Minting int `json:"minting,omitempty"`

	// Requests at one time on one connection of HTTP/2 inside a tunnel.
	// Default: 250.
	Streams int `json:"streams,omitempty"`

	// How long URL and header of a request inside a tunnel may be together, in
	// bytes. Default: 256 KiB.
	HeaderSize int64 `json:"header_size,omitempty"`

	// How much of max_spool one client may take, in bytes. Default: half of it.
	ClientSpool int64 `json:"client_spool,omitempty"`

	// How much of request bodies and WebSocket frames is held in memory, in bytes;
	// half of it for one client. Further bodies wait in files, further frames leave
	// in fragments. Default: 256 MiB.
	Memory int64 `json:"memory,omitempty"`

	// How long the TLS handshake in a tunnel may take, and the header of each
	// request inside. Default: 1m.
	HandshakeTimeout caddy.Duration `json:"handshake_timeout,omitempty"`

	// How long an intercepted tunnel may be without a request. Default: 5m.
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	// How long a blind tunnel may be without a byte. Default: 1h.
	BlindTimeout caddy.Duration `json:"blind_timeout,omitempty"`
}

// Limit is how many of something there may be.
type Limit struct {
	PerClient int `json:"per_client,omitempty"`
	InAll     int `json:"in_all,omitempty"` // default: four times as many
}

// kind is something that limits count.
type kind int

const (
	kindConnection kind = iota
	kindTunnel
	kindRequest
	kindCoding
	kindCount
)

// kindNames are the words of the Caddyfile.
var kindNames = [kindCount]string{"connections", "tunnels", "requests", "codings"}

func (l *Limits) of(k kind) *Limit {
	return [kindCount]*Limit{&l.Connections, &l.Tunnels, &l.Requests, &l.Codings}[k]
}

// Sizes, in bytes.
const (
	defaultHeaderSize = 256 << 10
	leastHeaderSize   = 4 << 10 // what net/http reads at once
	defaultMemory     = 256 << 20
)

func (l *Limits) setDefaults(maxSpool int64, oneClient bool) {
	for k := range kindCount {
		limit, perClient := l.of(k), 4096
		if k == kindCoding {
			perClient = 32
		}
		limit.PerClient = cmp.Or(limit.PerClient, perClient)
		limit.InAll = cmp.Or(limit.InAll, 4*limit.PerClient)
	}
	l.Minting = cmp.Or(l.Minting, 16)
	l.Streams = cmp.Or(l.Streams, 250)
	l.HeaderSize = cmp.Or(l.HeaderSize, defaultHeaderSize)
	l.Memory = cmp.Or(l.Memory, defaultMemory)
	share := maxSpool / 2
	if oneClient {
		share = maxSpool // there is nobody to keep the rest for
	}
	l.ClientSpool = cmp.Or(l.ClientSpool, share)
	l.HandshakeTimeout = cmp.Or(l.HandshakeTimeout, caddy.Duration(time.Minute))
	l.IdleTimeout = cmp.Or(l.IdleTimeout, caddy.Duration(5*time.Minute)) // Caddy's
	l.BlindTimeout = cmp.Or(l.BlindTimeout, caddy.Duration(time.Hour))
}

// Validate tells what cannot be meant.
func (l *Limits) Validate() error {
	for k := range kindCount {
		limit := *l.of(k)
		if limit.PerClient < 0 || limit.InAll < 0 {
			return fmt.Errorf("limits: %s must not be negative", kindNames[k])
		}
		if limit.InAll > 0 && limit.InAll < limit.PerClient {
			return fmt.Errorf("limits: %s allows %d to one client and %d to all together: raise the second", kindNames[k], limit.PerClient, limit.InAll)
		}
	}
	if l.Minting < 0 || l.Streams < 0 || l.ClientSpool < 0 || l.Memory < 0 ||
		l.HandshakeTimeout < 0 || l.IdleTimeout < 0 || l.BlindTimeout < 0 {
		return fmt.Errorf("limits: nothing in it can be negative")
	}
	if l.HeaderSize != 0 && (l.HeaderSize < leastHeaderSize || l.HeaderSize > 1<<30) {
		return fmt.Errorf("limits: header_size %d is out of reach: choose from 4KiB to 1GiB", l.HeaderSize)
	}
	return nil
}

// refuseKind is the answer to one too many.
func refuseKind(k kind, limit int, inAll bool) *Refusal {
	refusal := &Refusal{Status: http.StatusTooManyRequests, Rule: RuleLimits}
	whose := "this client has"
	if inAll {
		refusal.Status, whose = http.StatusServiceUnavailable, "all clients together have"
	}
	refusal.Reason = fmt.Sprintf("%s %d %s under way, which is the limit", whose, limit, kindNames[k])
	refusal.Mend = "try again when some have ended, or raise `" + kindNames[k] + "` in `limits`"
	return refusal
}

// MaxHeaderBytes is for http.Server. What is over the limit, but not by much, gets
// an answer that says so.
func (l *Limits) MaxHeaderBytes() int { return int(2 * cmp.Or(l.HeaderSize, defaultHeaderSize)) }

// checkHeader refuses a header over the limit.
func (f *forwarding) checkHeader() error {
	size := int64(len(f.original.RequestURI) + len(f.host))
	for name, values := range f.original.Header {
		for _, value := range values {
			size += int64(len(name) + len(value) + len(": \r\n"))
		}
	}
	limit := f.proxy.Limits.HeaderSize
	if size <= limit {
		return nil
	}
	return &Refusal{
		Status: http.StatusRequestHeaderFieldsTooLarge, Rule: RuleLimits,
		Reason: fmt.Sprintf("URL and header have %d bytes, more than the limit of %d", size, limit),
		Mend:   "send less, or raise `header_size` in `limits`",
	}
}

// reserve takes memory until the request ends, and reports whether there is as
// much.
func (f *forwarding) reserve(bytes int64) bool {
	if !f.holder.reserve(bytes) {
		return false
	}
	f.cleanup = append(f.cleanup, func() { f.holder.release(bytes) })
	return true
}

// awaitDecoding waits for the client's turn to have something decompressed, which
// lasts until the request ends: both its body and its answer.
func (f *forwarding) awaitDecoding(ctx context.Context) error {
	if f.decoding {
		return nil
	}
	done, err := f.holder.decoding(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.decoding, f.cleanup = true, append(f.cleanup, done)
	return nil
}
