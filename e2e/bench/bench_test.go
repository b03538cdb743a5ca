//go:build linux

// Package bench measures the built binary beside other proxies, and by itself at
// many scales: `make bench` and `make bench-report`, which write what they found
// to docs/performance.md. Without their flags the tests run for some seconds, which
// only shows that they would.
package bench

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

var (
	rounds    = flag.Int("rounds", 0, "of TestBench; 0 is a short form that checks the bench itself")
	modeNames = flag.String("modes", "", "of TestBench: those to run, all if empty")
	profiles  = flag.String("profiles", "", "of TestBench: folder for a profile of this module in each mode")
	peerNames = flag.String("peers", "", "of TestBench: those to run, separated by commas, all if empty")
)

// binary is that of this module, built once for all tests.
var binary func() (string, error)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sp-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	binary = sync.OnceValues(func() (string, error) { return testbench.BuildCaddy(dir) })
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// plan says how much each mode does.
type plan struct {
	rounds  int
	spell   time.Duration // of short requests
	spin    time.Duration // of what runs in this process
	cold    int           // hosts
	large   int64         // of a body, in bytes
	streams int
	idle    int // tunnels
	closed  int
}

func planFor(rounds int) plan {
	if rounds == 0 {
		return plan{rounds: 1, spell: 200 * time.Millisecond, spin: 50 * time.Millisecond, cold: 5, large: 2e6, streams: 1, idle: 10, closed: 20}
	}
	return plan{rounds: rounds, spell: 3 * time.Second, spin: time.Second, cold: 300, large: 256e6, streams: 9, idle: 400, closed: 10000}
}

// TestBench puts the proxies side by side, one at a time, in turns: what the
// machine does meanwhile hits all of them.
func TestBench(t *testing.T) {
	p := planFor(*rounds)
	chosen := choose(t, *modeNames, " ", modes, func(m mode) string { return m.name })
	against := choose(t, *peerNames, ",", peers, func(p peer) string { return p.name })
	if *rounds == 0 {
		against = []peer{ours, caddy} // which need nothing that is not here
	}
	against = slices.DeleteFunc(against, func(p peer) bool {
		if p.installed() {
			return false
		}
		t.Logf("%s is left out: there is no %s (as root `make bench` installs it)", p.name, p.needs)
		return true
	})
	w := newWorld(t, p.cold, *rounds > 0)
	found := samples{}
	for round := range p.rounds {
		for _, peer := range against {
			t.Run(fmt.Sprintf("round %d/%s", round+1, peer.name), func(t *testing.T) { w.turn(t, peer, chosen, p, found) })
		}
		slices.Reverse(against)
	}
	page := pageFor(t, *rounds > 0)
	page.bench.add(found)
	if !t.Failed() {
		page.save(t)
	}
	t.Logf("\n%s\n%s", page.bench.table(), page.bench.aims())
	if *rounds == 0 {
		found.check(t, chosen)
	}
}

// choose returns those of all whose names are listed, all if none is.
func choose[T any](t *testing.T, list, separator string, all []T, name func(T) string) (chosen []T) {
	t.Helper()
	if list == "" {
		return slices.Clone(all)
	}
	for wanted := range strings.SplitSeq(list, separator) {
		i := slices.IndexFunc(all, func(v T) bool { return name(v) == strings.TrimSpace(wanted) })
		if i < 0 {
			t.Fatalf("there is no %q: see the list in the code", wanted)
		}
		chosen = append(chosen, all[i])
	}
	return chosen
}

// turn runs the modes with one proxy. A peer may fail where this module may not.
func (w *world) turn(t *testing.T, p peer, chosen []mode, plan plan, found samples) {
	c := w.client(t, p.start(t, w))
	if p.slow {
		plan.large /= 8
	}
	for _, m := range chosen {
		if !m.fits(p, c) {
			continue
		}
		stop := profiling(t, c, m, plan)
		got, err := m.run(t, c, plan)
		stop()
		found.note(m.name, p.name, got)
		switch {
		case err == nil:
			t.Logf("%-10s %v", m.name, got)
		case p.name == oursName:
			t.Errorf("%s: %v", m.name, err)
		default:
			t.Logf("%-10s failed: %v", m.name, err)
		}
	}
}

// profiling takes a profile while a mode runs, if it is wanted.
func profiling(t *testing.T, c *client, m mode, p plan) (stop func()) {
	if *profiles == "" || c.profile == nil {
		return func() {}
	}
	done := make(chan error, 1)
	go func() {
		text, err := c.profile(max(1, int(p.spell.Seconds())))
		if err == nil {
			err = os.WriteFile(filepath.Join(*profiles, m.name+".prof"), text, 0o644)
		}
		done <- err
	}()
	return func() {
		if err := <-done; err != nil {
			t.Errorf("the profile: %v", err)
		}
	}
}

// samples are the figures of each round, by mode and peer; nil for a failure.
type samples map[string]map[string][]figures

func (s samples) note(mode, peer string, got figures) {
	if s[mode] == nil {
		s[mode] = make(map[string][]figures)
	}
	s[mode][peer] = append(s[mode][peer], got)
}

// check demands a figure for each mode.
func (s samples) check(t *testing.T, chosen []mode) {
	t.Helper()
	for _, m := range chosen {
		if got := s[m.name][oursName]; len(got) != 1 || len(got[0]) == 0 {
			t.Errorf("%s: got %v, want figures", m.name, got)
		}
	}
}
