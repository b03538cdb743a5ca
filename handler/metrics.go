package handler

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/starpod/caddy-starpod/tokens"
)

// leafCounts are the outcomes of asking the authority for a leaf certificate.
type leafCounts struct{ minted, cached, failed atomic.Int64 }

// CountLeaf is for [ca.Options.OnMint].
func (s *Stats) CountLeaf(_ string, err error, cached bool) {
	switch {
	case err != nil:
		s.leaves.failed.Add(1)
	case cached:
		s.leaves.cached.Add(1)
	default:
		s.leaves.minted.Add(1)
	}
}

// Register offers what is counted as metrics named caddy_starpod_*. Every label
// has a fixed set of values, so no client can make series. Metrics that are
// registered already stay as they are.
func (s *Stats) Register(registry prometheus.Registerer) error {
	s.duration.Store(prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "caddy_starpod_request_duration_seconds",
		Help: "Time from a request's header to the end of its answer, seconds.",
		// Up to an hour: answers stream.
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600},
	}))
	collectors := []prometheus.Collector{s.duration.Load().(prometheus.Collector)}
	for _, c := range []struct {
		name, help, label, value string
		count                    *atomic.Int64
	}{
		{"tokens_total", "Tokens found in requests, by what became of them.", "action", "replace", &s.Replaced},
		{"tokens_total", "Tokens found in requests, by what became of them.", "action", "strip", &s.Stripped},
		{"tokens_total", "Tokens found in requests, by what became of them.", "action", "undecodable", &s.Undecodable},
		{"tokens_total", "Tokens found in requests, by what became of them.", "action", "deny", &s.denied},
		{"tokens_total", "Tokens found in requests, by what became of them.", "action", "leave", &s.left},
		{"connections_total", "Tunnels that clients opened, by what was done with them.", "mode", "intercept", &s.Intercepted},
		{"connections_total", "Tunnels that clients opened, by what was done with them.", "mode", "tunnel", &s.Tunnelled},
		{"leaf_certificates_total", "Certificates that tunnels asked for.", "result", "minted", &s.leaves.minted},
		{"leaf_certificates_total", "Certificates that tunnels asked for.", "result", "cached", &s.leaves.cached},
		{"leaf_certificates_total", "Certificates that tunnels asked for.", "result", "failed", &s.leaves.failed},
		{"egress_refused_total", "Connections that were refused because of where they were going.", "rule", RuleEgress, &s.egressRefused},
		{"egress_refused_total", "Connections that were refused because of where they were going.", "rule", RuleSelf, &s.selfRefused},
	} {
		collectors = append(collectors, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "caddy_starpod_" + c.name, Help: c.help, ConstLabels: prometheus.Labels{c.label: c.value},
		}, func() float64 { return float64(c.count.Load()) }))
	}
	for _, c := range collectors {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

// countRefusal counts an answer that the proxy gave in place of the destination.
func (s *Stats) countRefusal(rule string) {
	s.Refused.Add(1)
	switch rule {
	case RuleEgress:
		s.egressRefused.Add(1)
	case RuleSelf:
		s.selfRefused.Add(1)
	}
}

// countToken counts what no result of a scan does.
func (s *Stats) countToken(t tokens.Token) {
	switch {
	case t.Reason == tokens.ReasonUndecodable:
	case t.Action == tokens.Denied:
		s.denied.Add(1)
	case t.Action == tokens.Left:
		s.left.Add(1)
	}
}

// observe takes note of how long a request took, in seconds.
func (s *Stats) observe(seconds float64) {
	if histogram, ok := s.duration.Load().(prometheus.Observer); ok {
		histogram.Observe(seconds)
	}
}
