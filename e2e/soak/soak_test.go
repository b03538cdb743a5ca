//go:build linux

// Package soak drives the built binary with mixed traffic at half of what it
// can do, with reloads, faults of hosts and clients that vanish, and looks at
// every answer: `make soak` for an hour, SOAK=10m for less. Without -soak.for it
// runs for some seconds, which only shows that it would.
package soak

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

var soakFor = flag.Duration("soak.for", 0, "how long; 0 is a short form that checks the soak itself")

// plan says how long each part takes.
type plan struct {
	hosts, workers    int
	full, first, rest time.Duration // at full load, until the first reading, until the last
	reload, settle    time.Duration // between reloads, and without a change before a reading
	growth            float64       // how much more memory, goroutines and descriptors there may be
}

func planFor(d time.Duration) plan {
	if d == 0 {
		return plan{
			hosts: 20, workers: 8, full: time.Second, first: 2 * time.Second, rest: 2 * time.Second,
			reload: time.Second, settle: time.Second, growth: 1,
		}
	}
	first := min(time.Minute, d/2)
	return plan{
		// At full load as long as three configurations live beside each other: what Go's
		// runtime needs to manage the largest heap of the run it never gives back.
		hosts: 500, workers: 24, full: 40 * time.Second, first: first, rest: d - first,
		reload: 10 * time.Second,
		// Longer than the proxy waits for a client that may have gone (30 s), and than
		// what a replaced configuration leaves behind holds its certificates.
		settle: 2 * time.Minute, growth: 0.05,
	}
}

func TestSoak(t *testing.T) {
	p := planFor(*soakFor)
	dir := t.TempDir()
	binary, err := testbench.BuildCaddy(dir)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(p.hosts)
	pki := testbench.NewPKI(t)
	w.upstream = startUpstream(t, w, pki)
	log := new(watchedLog)
	w.connect(t, testbench.StartCaddy(t, pki, testbench.Setup{
		Binary: binary, Hosts: append(slices.Clone(w.hosts), w.faulty...), Log: log,
		Options: "log {\n\t\texclude admin.api\n\t}", Activated: true,
		// The profile of allocations, which is not asked for, grows by each place that is
		// seen to allocate.
		Env: []string{"GODEBUG=memprofilerate=0"},
	}))
	s := &soak{plan: p, world: w, started: time.Now(), results: map[string]*result{}}

	s.visitAll(t)
	rate := s.fullRate(t)
	t.Logf("full load: %.0f requests a second; from here on half of that", rate)
	s.drive(t, rate/2, p.first)
	before := s.settled(t)
	s.drive(t, rate/2, p.rest)
	if *soakFor == 0 {
		s.each()
	}
	after := s.settled(t)

	s.report(t, before, after)
	s.judge(t, before, after)
	if at := log.found(); at != "" {
		t.Errorf("the proxy's log holds a value: %s", at)
	}
	if t.Failed() {
		t.Logf("the end of the proxy's log:\n%s", log.tail())
	}
}

// soak is one run.
type soak struct {
	plan
	world   *world
	started time.Time

	mu       sync.Mutex
	results  map[string]*result // by kind
	failures []string           // the first of them
}

// result is what became of one kind of request.
type result struct {
	count, wrong int
	total, max   time.Duration
}

const maxFailures = 20

func (s *soak) note(name string, took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.results[name]
	if r == nil {
		r = new(result)
		s.results[name] = r
	}
	r.count++
	r.total += took
	r.max = max(r.max, took)
	if err == nil {
		return
	}
	r.wrong++
	if len(s.failures) < maxFailures {
		s.failures = append(s.failures, fmt.Sprintf("%s, %s at %v: %v", name, took.Round(time.Millisecond),
			time.Since(s.started).Round(time.Millisecond), err))
	}
}

// visitAll asks every host once, so that what is remembered of each is there
// from the beginning.
func (s *soak) visitAll(t *testing.T) {
	t.Helper()
	for _, host := range s.world.hosts {
		value := s.world.value(host)
		err := s.world.echoes(t.Context(), s.world.once, s.world.url(host, "/echo"), s.world.tokens[host], value, stars(value))
		if err != nil {
			t.Fatalf("visiting %s: %v", host, err)
		}
	}
}

// fullRate is how many requests a second come of the mix without a pause.
func (s *soak) fullRate(t *testing.T) float64 {
	t.Helper()
	done := s.count()
	s.drive(t, math.Inf(1), s.full) // one is always due
	return float64(s.count()-done) / s.full.Seconds()
}

func (s *soak) count() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.results {
		n += r.count
	}
	return n
}

// drive sends so many requests a second for a time, while the configuration is
// loaded anew again and again.
func (s *soak) drive(t *testing.T, rate float64, d time.Duration) {
	t.Helper()
	stop := make(chan struct{})
	var others sync.WaitGroup
	// One behind the other: a reload cuts what the admin endpoint is being asked.
	others.Go(func() {
		every(s.reload, stop, func() {
			s.watch(t)
			s.load()
		})
	})
	s.work(&pace{interval: time.Duration(float64(time.Second) / max(rate, 1))}, d)
	close(stop)
	others.Wait()
}

func every(d time.Duration, stop <-chan struct{}, do func()) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			do()
		case <-stop:
			return
		}
	}
}

// load loads the configuration; a failure counts as a wrong answer.
func (s *soak) load() {
	began := time.Now()
	s.world.reloaded.Store(began.UnixNano())
	err := s.world.proxy.Reload()
	s.world.reloaded.Store(time.Now().UnixNano())
	s.note("reload", time.Since(began), err)
}

// work has the workers send requests until the time is up. What is under way
// then ends as it would have.
func (s *soak) work(p *pace, d time.Duration) {
	until := time.Now().Add(d)
	var workers sync.WaitGroup
	for range s.workers {
		workers.Go(func() {
			for p.wait(until) {
				s.try(choose())
			}
		})
	}
	workers.Wait()
}

// each sends one request of each kind.
func (s *soak) each() {
	for _, k := range kinds {
		if !k.lingers {
			s.try(k)
		}
	}
}

func (s *soak) try(k kind) {
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	began := time.Now()
	err := k.run(s.world, ctx)
	s.note(k.name, time.Since(began), err)
}

// pace keeps all workers together to one request in an interval; what was
// missed is not made up for.
type pace struct {
	interval time.Duration

	mu   sync.Mutex
	next time.Time
}

// wait returns when the next request is due; false if that is too late.
func (p *pace) wait(until time.Time) bool {
	p.mu.Lock()
	now := time.Now()
	at := p.next
	if at.Before(now) {
		at = now
	}
	p.next = at.Add(p.interval)
	p.mu.Unlock()
	if !at.Before(until) {
		return false
	}
	time.Sleep(at.Sub(now))
	return true
}

// watchedLog takes the proxy's log, looks for values in it, and keeps its end.
type watchedLog struct {
	mu  sync.Mutex
	end []byte
	hit string
}

const logTail = 20_000

func (l *watchedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seam := max(0, len(l.end)-len(valuePrefix))
	l.end = append(l.end, p...)
	if i := bytes.Index(l.end[seam:], []byte(valuePrefix)); i >= 0 && l.hit == "" {
		from := max(0, seam+i-300)
		l.hit = string(l.end[from:min(len(l.end), from+600)])
	}
	if len(l.end) > 2*logTail {
		l.end = append(l.end[:0], l.end[len(l.end)-logTail:]...)
	}
	return len(p), nil
}

func (l *watchedLog) found() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hit
}

func (l *watchedLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.ToValidUTF8(string(l.end), "")
}
