//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starpod/caddy-starpod/tokens"
)

// figures are what one mode measures, by name: cpu (milliseconds of the processor
// per 1000 requests), rate (requests a second), speed (MB/s), load (milliseconds of
// the processor per MB), rise (MB of memory above what there was, at the most),
// first (milliseconds to the first event), kb (of memory per tunnel), grown (the
// same for closed tunnels), ratio, micros, allocs.
type figures map[string]float64

// mode is a way to load a proxy.
type mode struct {
	name    string
	run     func(testing.TB, *client, plan) (figures, error)
	tunnels bool // it needs a proxy that opens tunnels
	own     bool // it is for this module alone
}

// modes run in this order: what is idle, before the heap has grown by work.
var modes = []mode{
	{name: "idle", run: idle},
	{name: "events", run: stream},
	{name: "keepalive", run: func(tb testing.TB, c *client, p plan) (figures, error) { return c.keepalive(tb, 16, p.spell) }},
	{name: "one", run: func(tb testing.TB, c *client, p plan) (figures, error) { return c.keepalive(tb, 1, p.spell) }},
	{name: "new", run: func(tb testing.TB, c *client, p plan) (figures, error) {
		return c.measure(tb, func() (int, error) { return c.fresh(p.spell, []string{apiHost}) })
	}},
	{name: "cold", run: cold, tunnels: true},
	{name: "upload", run: func(tb testing.TB, c *client, p plan) (figures, error) {
		return c.transfer(tb, p.large, func(t *tunnel, size int64) error { return c.upload(t, size, false, "") })
	}},
	{name: "chunked", run: func(tb testing.TB, c *client, p plan) (figures, error) {
		return c.transfer(tb, p.large, func(t *tunnel, size int64) error { return c.upload(t, size, true, "") })
	}},
	{name: "download", run: func(tb testing.TB, c *client, p plan) (figures, error) { return c.transfer(tb, p.large, c.download) }},
	{name: "token", run: func(tb testing.TB, c *client, p plan) (figures, error) {
		return c.transfer(tb, p.large, func(t *tunnel, size int64) error { return c.upload(t, size, false, c.token) })
	}, own: true},
	{name: "closed", run: closed, own: true},
	{name: "scanner", run: scanner, own: true},
	{name: "opening", run: opening, own: true},
}

func (m mode) fits(p peer, c *client) bool {
	return (!m.own || p.name == oursName) && (!m.tunnels || !c.direct)
}

// measure tells what the requests of f cost.
func (c *client) measure(tb testing.TB, f func() (n int, err error)) (figures, error) {
	before, began := processor(tb, c.pid), time.Now()
	n, err := f()
	took, used := time.Since(began), processor(tb, c.pid)-before
	if err == nil && n == 0 {
		err = fmt.Errorf("no request has ended within %v", took)
	}
	if err != nil {
		return nil, err
	}
	return figures{"cpu": 1000 * millis(used) / float64(n), "rate": float64(n) / took.Seconds()}, nil
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// openAll opens so many tunnels and makes a request in each.
func (c *client) openAll(n int) (all []*tunnel, err error) {
	all = make([]*tunnel, n)
	err = inParallel(n, func(i int) (err error) {
		if all[i], err = c.open(apiHost); err != nil {
			return err
		}
		return all[i].get(c.head(http.MethodGet, apiHost, "/small", 1), c.seen(1))
	})
	if err != nil {
		closeAll(all)
		return nil, err
	}
	return all, nil
}

func closeAll(all []*tunnel) {
	for _, t := range all {
		if t != nil {
			t.Close()
		}
	}
}

// inParallel calls f with the numbers below n, a few at a time.
func inParallel(n int, f func(i int) error) error {
	var group errgroup.Group
	group.SetLimit(workers)
	for i := range n {
		group.Go(func() error { return f(i) })
	}
	return group.Wait()
}

// workers is how many make requests at a time over tunnels of their own.
const workers = 8

// drive makes short requests in the tunnels for a while, so many at a time, and
// returns how many.
func (c *client) drive(all []*tunnel, atOnce int, d time.Duration, tokens int) (int, error) {
	head, seen := c.head(http.MethodGet, apiHost, "/small", tokens), c.seen(tokens)
	end := time.Now().Add(d)
	var done atomic.Int64
	var group errgroup.Group
	for worker := range atOnce {
		group.Go(func() error {
			for i := worker; time.Now().Before(end); i = next(i, atOnce, len(all), worker) {
				if err := all[i].get(head, seen); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err := group.Wait()
	return int(done.Load()), err
}

func next(i, step, end, first int) int {
	if i+step < end {
		return i + step
	}
	return first
}

func (c *client) keepalive(tb testing.TB, n int, d time.Duration) (figures, error) {
	all, err := c.openAll(n)
	if err != nil {
		return nil, err
	}
	defer closeAll(all)
	return c.measure(tb, func() (int, error) { return c.drive(all, n, d, 1) })
}

// fresh makes each request in a tunnel of its own for a while.
func (c *client) fresh(d time.Duration, hosts []string) (int, error) {
	end := time.Now().Add(d)
	var done atomic.Int64
	err := inParallel(workers, func(worker int) error {
		for i := worker; time.Now().Before(end); i += workers {
			if err := c.once(hosts[i%len(hosts)]); err != nil {
				return err
			}
			done.Add(1)
		}
		return nil
	})
	return int(done.Load()), err
}

// cold asks hosts that the proxy has not seen yet, once each.
func cold(tb testing.TB, c *client, _ plan) (figures, error) {
	return c.measure(tb, func() (int, error) {
		return len(c.world.hosts), inParallel(len(c.world.hosts), func(i int) error { return c.once(c.world.hosts[i]) })
	})
}

const megabyte = 1e6

// transfer moves a body in one direction.
func (c *client) transfer(tb testing.TB, size int64, move func(*tunnel, int64) error) (figures, error) {
	all, err := c.openAll(1)
	if err != nil {
		return nil, err
	}
	defer closeAll(all)
	base, _ := memory(tb, c.pid)
	forgetPeak(tb, c.pid)
	before, began := processor(tb, c.pid), time.Now()
	if err := move(all[0], size); err != nil {
		return nil, err
	}
	took, used := time.Since(began), processor(tb, c.pid)-before
	_, peak := memory(tb, c.pid)
	amount := float64(size) / megabyte
	return figures{"speed": amount / took.Seconds(), "load": millis(used) / amount, "rise": float64(peak-base) / megabyte}, nil
}

func stream(tb testing.TB, c *client, p plan) (figures, error) {
	all, err := c.openAll(1)
	if err != nil {
		return nil, err
	}
	defer closeAll(all)
	var times []float64
	for range p.streams {
		first, err := c.firstEvent(all[0])
		if err != nil {
			return nil, err
		}
		times = append(times, millis(first))
	}
	return figures{"first": median(times)}, nil
}

// settled is the memory that is held once it stays the same for a while.
func (c *client) settled(tb testing.TB) int64 {
	tb.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last, _ := memory(tb, c.pid)
	for still := 0; still < c.world.still; {
		<-tick.C
		now, _ := memory(tb, c.pid)
		if still++; max(now-last, last-now) > 256<<10 {
			still = 0
		}
		last = now
	}
	return last
}

func idle(tb testing.TB, c *client, p plan) (figures, error) {
	before := c.settled(tb)
	all, err := c.openAll(p.idle)
	if err != nil {
		return nil, err
	}
	defer closeAll(all)
	return figures{"kb": float64(c.settled(tb)-before) / 1e3 / float64(p.idle)}, nil
}

// closed opens and closes tunnels, the first of them before the reading that the
// others are held against.
func closed(tb testing.TB, c *client, p plan) (figures, error) {
	use := func(n int) error { return inParallel(n, func(int) error { return c.once(apiHost) }) }
	if err := use(p.closed / 5); err != nil {
		return nil, err
	}
	before := c.settled(tb)
	if err := use(p.closed); err != nil {
		return nil, err
	}
	return figures{"grown": float64(c.settled(tb)-before) / 1e3 / float64(p.closed)}, nil
}

// scanner compares the search for tokens in text that holds none with the search
// for as many bytes that are not there, either of which finds nothing.
func scanner(_ testing.TB, _ *client, p plan) (figures, error) {
	text, needle := bytes.Repeat(block, 16), []byte("starpod")
	search := speed(p.spin, func() { bytes.Index(text, needle) })
	scan := speed(p.spin, func() { (&tokens.Scanner{}).Bytes(text) })
	return figures{"ratio": scan / search}, nil
}

// opening swaps one token of some 150 characters in a header.
func opening(tb testing.TB, _ *client, p plan) (figures, error) {
	keys := keyring(tb, bytes.Repeat([]byte{7}, 32))
	in := []byte("Bearer " + seal(tb, keys, "ghp_0123456789abcdefghijklmnopqrstuvwxyz"))
	target := tokens.Target{Host: apiHost, Port: 443, Method: http.MethodGet, Path: "/", Time: time.Now()}
	var err error
	swap := func() {
		s := tokens.Scanner{Keys: keys, Target: target}
		if _, failed := s.Bytes(in); failed != nil || s.Result.Replaced != 1 {
			err = fmt.Errorf("got %+v (%w), want one token replaced", s.Result, failed)
		}
	}
	perSecond := speed(p.spin, swap)
	allocs := testing.AllocsPerRun(100, swap)
	return figures{"micros": 1e6 / perSecond, "allocs": allocs}, err
}

// speed is how often a second f can be called, in the best of five parts of d.
func speed(d time.Duration, f func()) (best float64) {
	for range 5 {
		calls, began := 0, time.Now()
		for ; time.Since(began) < d/5; calls++ {
			f()
		}
		best = max(best, float64(calls)/time.Since(began).Seconds())
	}
	return best
}
