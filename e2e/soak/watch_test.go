//go:build linux

package soak

import (
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// choose picks a kind by weight. The short form has no time for those that the
// proxy waits for.
func choose() kind {
	n := rand.IntN(totalWeight)
	for _, k := range kinds {
		if n -= k.weight; n < 0 && (!k.lingers || *soakFor > 0) {
			return k
		}
	}
	return kinds[0]
}

var totalWeight = func() (sum int) {
	for _, k := range kinds {
		sum += k.weight
	}
	return sum
}()

// reading is what the proxy holds at one moment.
type reading struct {
	testbench.Usage
	goroutines int
	heap       heap
}

// heap is of Go's heap, in bytes.
type heap struct {
	objects int64
	spans   int64 // that objects are in
	kept    int64 // free, and not given back to the kernel
}

func (r reading) String() string {
	mb := func(bytes int64) float64 { return float64(bytes) / (1 << 20) }
	return fmt.Sprintf("%.1f MB of its own (heap: objects %.1f, their spans %.1f, kept %.1f), %.1f MB of files, %d goroutines, %d descriptors",
		mb(r.Anon), mb(r.heap.objects), mb(r.heap.spans), mb(r.heap.kept), mb(r.File), r.goroutines, r.FDs)
}

// memStats are lines of a heap profile (runtime.MemStats).
var memStats = regexp.MustCompile(`(?m)^# (HeapAlloc|HeapInuse|HeapIdle|HeapReleased) = (\d+)$`)

func heapOf(profile []byte) (h heap) {
	for _, line := range memStats.FindAllSubmatch(profile, -1) {
		n, _ := strconv.ParseInt(string(line[2]), 10, 64)
		switch string(line[1]) {
		case "HeapAlloc":
			h.objects = n
		case "HeapInuse":
			h.spans = n
		case "HeapIdle":
			h.kept += n
		case "HeapReleased":
			h.kept -= n
		}
	}
	return h
}

// read takes a reading, behind a garbage collection if it is to be compared.
func (s *soak) read(t *testing.T, collect bool) (r reading, err error) {
	t.Helper()
	path := "/debug/pprof/heap?debug=1"
	if collect {
		path += "&gc=1"
		s.world.proxy.Get(path) // one more empties the pools
	}
	profile, err := s.world.proxy.Get(path)
	if err != nil {
		return r, err
	}
	r.heap, r.Usage = heapOf(profile), testbench.ReadUsage(t, s.world.proxy.Pid)
	r.goroutines, err = s.world.proxy.Goroutines()
	return r, err
}

// watch logs what the proxy holds while it works.
func (s *soak) watch(t *testing.T) {
	t.Helper()
	if !s.world.proxy.Running() {
		return // what fails by it is counted
	}
	r, err := s.read(t, false)
	if err != nil {
		t.Errorf("reading what the proxy holds: %v", err)
		return
	}
	t.Logf("%8v  %8d requests  %v", time.Since(s.started).Round(time.Second), s.count(), r)
}

// settled brings the proxy to the same idle state each time and reads what it
// holds: no client connected, a configuration that has just been loaded (so that
// no connection to a host is left either), time for what lingers, and garbage
// collected. It is the least of several readings, since the question for each is a
// connection itself, which is there a moment longer on a busy machine; what leaks is in
// all of them.
//
// Of memory there are as many as it takes until it falls no more. What Go's runtime need not keep
// it only learns by a collection, and then gives it back in the background
// (runtime/mgcscavenge.go): right behind the load it keeps more than all objects take,
// and how much is chance.
func (s *soak) settled(t *testing.T) reading {
	t.Helper()
	s.world.closeIdle()
	s.load()
	time.Sleep(s.settle)
	var all []reading
	least := reading{Usage: testbench.Usage{Anon: math.MaxInt64}}
	for same := 0; same < readings && len(all) < maxReadings; same++ {
		r, err := s.read(t, true)
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, r); r.Anon < least.Anon {
			if r.Anon < least.Anon-least.Anon/100 {
				same = 0
			}
			least = r
		}
		time.Sleep(500 * time.Millisecond)
	}
	for _, r := range all {
		least.goroutines, least.FDs = min(least.goroutines, r.goroutines), min(least.FDs, r.FDs)
	}
	t.Logf("at rest: %v", least)
	return least
}

const (
	readings    = 9 // with nothing new
	maxReadings = 100
)

// report writes the table.
func (s *soak) report(t *testing.T, before, after reading) {
	t.Helper()
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "\nrequest\tcount\twrong\tmean\tslowest\t")
	count, wrong := 0, 0
	row := func(name string) {
		r := s.results[name]
		if r == nil {
			return
		}
		count, wrong = count+r.count, wrong+r.wrong
		fmt.Fprintf(table, "%s\t%d\t%d\t%v\t%v\t\n", name, r.count, r.wrong,
			(r.total / time.Duration(r.count)).Round(10*time.Microsecond), r.max.Round(time.Millisecond))
	}
	for _, k := range kinds {
		row(k.name)
	}
	row("reload")
	fmt.Fprintf(table, "all\t%d\t%d\t\t\t\n", count, wrong)
	table.Flush()
	fmt.Fprintf(&text, "\nnew connections that were dropped at a reload, without an answer, and tried again: %d\n", s.world.dropped.Load())
	fmt.Fprintf(&text, "\nat rest after %v: %v\nat rest after %v: %v\n", s.full+s.first, before, s.full+s.first+s.rest, after)
	t.Log(text.String())
}

// judge fails the test for wrong answers, values at other hosts, and growth. Pages of
// files are not judged: they are the program's own, of which more come in as more of
// it runs, up to its size, and the kernel drops them when it likes.
func (s *soak) judge(t *testing.T, before, after reading) {
	t.Helper()
	for _, failure := range s.failures {
		t.Error(failure)
	}
	for _, k := range kinds {
		if s.results[k.name] == nil && (!k.lingers || *soakFor > 0) {
			t.Errorf("%s: none was sent", k.name)
		}
	}
	u := s.world.upstream
	if leaked, broken := u.leaked.Load(), u.broken.Load(); leaked+broken > 0 {
		t.Errorf("values at other hosts: got %d, want 0; broken uploads taken for whole ones: got %d, want 0: %v",
			leaked, broken, u.example.Load())
	}
	for _, figure := range []struct {
		name          string
		before, after int64
	}{
		{"memory of its own", before.Anon, after.Anon},
		{"goroutines", int64(before.goroutines), int64(after.goroutines)},
		{"descriptors", int64(before.FDs), int64(after.FDs)},
	} {
		if limit := int64(float64(figure.before) * (1 + s.growth)); figure.after > limit {
			t.Errorf("%s at rest: got %d, want at most %d (%.0f %% over %d)", figure.name, figure.after, limit, s.growth*100, figure.before)
		}
	}
}
