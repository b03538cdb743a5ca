package handler

import (
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/starpod/caddy-starpod/tokens"
	"go.uber.org/zap/zapcore"
)

// Stats counts over the life of a configuration.
type Stats struct {
	Requests    atomic.Int64 // forwarded
	Intercepted atomic.Int64 // tunnels
	Tunnelled   atomic.Int64 // blind tunnels
	Refused     atomic.Int64
	Replaced    atomic.Int64 // tokens
	Stripped    atomic.Int64
	Undecodable atomic.Int64

	denied, left               atomic.Int64 // tokens that open and are not for the request
	egressRefused, selfRefused atomic.Int64
	leaves                     leafCounts
	duration                   atomic.Value // prometheus.Histogram, unset without metrics
}

// finish ends a forwarding: it counts, writes the audit line and lets go of
// what the request held.
func (p *Proxy) finish(f *forwarding) {
	f.mu.Lock()
	cleanup := f.cleanup
	f.cleanup = nil
	f.mu.Unlock()
	for _, clean := range cleanup {
		clean() // a WebSocket takes note of its last tokens in this
	}
	f.mu.Lock()
	found, result := f.tokens, f.result
	f.tokens = nil
	f.mu.Unlock()
	p.Stats.Requests.Add(1)
	p.Stats.observe(time.Since(f.started).Seconds())
	f.note(result)
	p.Stats.Replaced.Add(int64(result.Replaced))
	p.Stats.Stripped.Add(int64(result.Stripped))
	p.Stats.Undecodable.Add(int64(result.Undecodable))
	f.warnOfUnrestricted(found)
	if len(found) == 0 && f.unscanned == "" {
		return
	}
	level, message := zapcore.InfoLevel, "tokens replaced"
	if result.Stripped > 0 || result.Undecodable > 0 || result.Replaced == 0 && len(found) > 0 {
		level, message = zapcore.WarnLevel, "tokens not replaced"
	} else if len(found) == 0 {
		level, message = zapcore.InfoLevel, "body not scanned"
	}
	if !p.tells(level) {
		return
	}
	record := p.requestRecord(KindTokens, f.in, f.dest)
	record.Level, record.Message = level, message
	record.Status, record.Tokens, record.NotScanned = f.status, tokenRecords(found), f.unscanned
	record.Masked = int(f.hidden.Load())
	p.tell(record)
}

// maxHostsSeen bounds what is remembered of where unrestricted tokens went.
const maxHostsSeen = 1024

// warnOfUnrestricted tells the audit log of values that went where nobody said that
// they may go: a token without hosts that was replaced over http://, or for a
// host that this configuration had not sent one to.
func (f *forwarding) warnOfUnrestricted(found []foundToken) {
	p := f.proxy
	i := slices.IndexFunc(found, func(t foundToken) bool { return t.Unrestricted && t.Action == tokens.Replaced })
	if i < 0 {
		return
	}
	reason := ""
	if known, _ := p.hostsSeen.ContainsOrAdd(f.dest.HostPort(), struct{}{}); !known {
		reason = "a host that had not been sent one"
	}
	if f.dest.Scheme == "http" {
		reason = "over http://"
	}
	if reason == "" {
		return
	}
	record := p.requestRecord(KindUnrestricted, f.in, f.dest)
	record.Level, record.Message = zapcore.WarnLevel, "unrestricted token sent"
	record.Tokens, record.Reason, record.Mend = tokenRecords(found[i:i+1]), reason, "seal the secret with --host"
	p.tell(record)
}

// note tells the request's placeholders what became of its tokens so far.
func (f *forwarding) note(result tokens.Result) {
	if o := outcomeFrom(f.in.Context()); o != nil {
		o.Replaced, o.Stripped, o.Undecodable = result.Replaced, result.Stripped, result.Undecodable
	}
}

// refused counts and logs an answer that the proxy gave in place of the
// destination.
func (p *Proxy) refused(r *http.Request, dest Destination, refusal *Refusal) {
	p.Stats.countRefusal(refusal.Rule)
	if !p.tells(zapcore.WarnLevel) {
		return
	}
	record := p.requestRecord(KindRefused, r, dest)
	record.Level, record.Message, record.Status = zapcore.WarnLevel, "request refused", refusal.Status
	record.Rule, record.Reason, record.Mend = refusal.Rule, p.shown(refusal.Reason), refusal.Mend
	p.tell(record)
}

// Counts is a reading of Stats.
type Counts struct {
	Requests    int64 `json:"requests"`
	Intercepted int64 `json:"tunnels_intercepted"`
	Tunnelled   int64 `json:"tunnels_blind"`
	Refused     int64 `json:"refused"`
	Replaced    int64 `json:"tokens_replaced"`
	Stripped    int64 `json:"tokens_stripped"`
	Undecodable int64 `json:"tokens_undecodable"`
}

// Counts reads all counters.
func (s *Stats) Counts() Counts {
	return Counts{
		Requests: s.Requests.Load(), Refused: s.Refused.Load(),
		Intercepted: s.Intercepted.Load(), Tunnelled: s.Tunnelled.Load(),
		Replaced: s.Replaced.Load(), Stripped: s.Stripped.Load(), Undecodable: s.Undecodable.Load(),
	}
}
