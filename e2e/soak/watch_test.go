//go:build linux

package soak

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
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
	heap       int64 // bytes in use, of Go's heap
}

func (r reading) String() string {
	return fmt.Sprintf("%6.1f MB resident, %6.1f MB heap, %5d goroutines, %4d descriptors",
		float64(r.RSS)/(1<<20), float64(r.heap)/(1<<20), r.goroutines, r.FDs)
}

var heapInUse = regexp.MustCompile(`# HeapAlloc = (\d+)`)

// read takes a reading, behind a garbage collection if it is to be compared.
func (s *soak) read(collect bool) (r reading, err error) {
	path := "/debug/pprof/heap?debug=1"
	if collect {
		path += "&gc=1"
		s.world.proxy.Get(path) // one more empties the pools
	}
	profile, err := s.world.proxy.Get(path)
	if err != nil {
		return r, err
	}
	if match := heapInUse.FindSubmatch(profile); match != nil {
		r.heap, _ = strconv.ParseInt(string(match[1]), 10, 64)
	}
	r.goroutines, err = s.world.proxy.Goroutines()
	return r, err
}

// watch logs what the proxy holds while it works.
func (s *soak) watch(t *testing.T) {
	t.Helper()
	if !s.world.proxy.Running() {
		return // what fails by it is counted
	}
	r, err := s.read(false)
	if err != nil {
		t.Errorf("reading what the proxy holds: %v", err)
		return
	}
	r.Usage = testbench.ReadUsage(t, s.world.proxy.Pid)
	t.Logf("%8v  %8d requests  %v", time.Since(s.started).Round(time.Second), s.count(), r)
}

// settled brings the proxy to the same idle state each time and reads what it
// holds: no client connected, a configuration that has just been loaded (so that
// no connection to a host is left either), time for what lingers, and garbage
// collected. It is the median of several readings, since the question for each is
// a connection itself.
func (s *soak) settled(t *testing.T) reading {
	t.Helper()
	s.world.closeIdle()
	s.load()
	time.Sleep(s.settle)
	var residents, heaps []int64
	var goroutines, descriptors []int
	for range readings {
		r, err := s.read(true)
		if err != nil {
			t.Fatal(err)
		}
		usage := testbench.ReadUsage(t, s.world.proxy.Pid)
		residents, heaps = append(residents, usage.RSS), append(heaps, r.heap)
		goroutines, descriptors = append(goroutines, r.goroutines), append(descriptors, usage.FDs)
		time.Sleep(100 * time.Millisecond)
	}
	r := reading{goroutines: median(goroutines), heap: median(heaps)}
	r.RSS, r.FDs = median(residents), median(descriptors)
	t.Logf("at rest: %v", r)
	return r
}

const readings = 9

func median[T cmp.Ordered](of []T) T {
	slices.Sort(of)
	return of[len(of)/2]
}

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

// judge fails the test for wrong answers, values at other hosts, and growth.
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
		{"resident memory", before.RSS, after.RSS},
		{"goroutines", int64(before.goroutines), int64(after.goroutines)},
		{"descriptors", int64(before.FDs), int64(after.FDs)},
	} {
		if limit := int64(float64(figure.before) * (1 + s.growth)); figure.after > limit {
			t.Errorf("%s at rest: got %d, want at most %d (%.0f %% over %d)", figure.name, figure.after, limit, s.growth*100, figure.before)
		}
	}
}
