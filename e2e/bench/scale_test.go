//go:build linux

package bench

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var report = flag.Bool("report", false, "have TestReport measure at all scales and write the page")

const (
	oneProcessor, twoProcessors = "GOMAXPROCS=1", "GOMAXPROCS=2"

	microsLabel = "processor, µs per request"
)

var charts = []chart{
	{name: "tunnels", title: "Processor by open tunnels", x: "open tunnels, 16 of them at work", y: microsLabel, series: []string{oneProcessor, twoProcessors}},
	{name: "tunnels-memory", title: "Memory by open tunnels", x: "open tunnels", y: "memory, MB more than without", logY: true, series: []string{oneProcessor, twoProcessors}},
	{name: "rate", title: "Requests a second by open tunnels", x: "open tunnels, 16 of them at work", y: "requests a second", series: []string{oneProcessor, twoProcessors}},
	{name: "tokens", title: "Processor by tokens in a request", x: "tokens in headers", y: microsLabel, series: []string{oneProcessor, twoProcessors}},
	{name: "hosts", title: "Processor by hosts", x: "hosts in turn, a new tunnel for each request", y: microsLabel, series: []string{"first visit", "later"}},
	{name: "hosts-memory", title: "Memory by hosts", x: "hosts visited", y: "memory, MB more than without", series: []string{"memory"}},
	{name: "bodies", title: "Processor by size of the body", x: "body, bytes", y: "processor, ms per request", logY: true, series: []string{"upload", "chunked", "download"}},
	{name: "bodies-memory", title: "Memory by size of the body", x: "body, bytes", y: "memory, MB more at the most", series: []string{"upload", "chunked", "download"}},
}

// scales say how far each measure goes, and how long a part of it takes.
type scales struct {
	tunnels, tokens, hosts []int
	bodies                 []int64
	spell                  time.Duration
}

func scalesFor(full bool) scales {
	if !full {
		return scales{tunnels: []int{1, 10}, tokens: []int{1, 10}, hosts: []int{1, 5, 20}, bodies: []int64{1e3, 1e6}, spell: 100 * time.Millisecond}
	}
	return scales{
		tunnels: []int{1, 10, 100, 1000}, tokens: []int{1, 10, 100}, hosts: []int{1, 100, 10000},
		bodies: []int64{1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1 << 30}, spell: 2 * time.Second,
	}
}

// TestReport measures what a request costs at many scales, and draws it.
func TestReport(t *testing.T) {
	s := scalesFor(*report)
	w := newWorld(t, s.hosts[len(s.hosts)-1], *report)
	found := scale{Machine: machine(), Curves: make(map[string]curves)}
	for processors, series := range []string{oneProcessor, twoProcessors} {
		t.Run(series, func(t *testing.T) {
			c := w.client(t, startOurs(t, w, processors+1))
			check(t, c.tunnelScale(t, s, series, &found))
			check(t, c.tokenScale(t, s, series, &found))
		})
	}
	for _, n := range s.hosts {
		t.Run(fmt.Sprintf("%d hosts", n), func(t *testing.T) {
			check(t, w.client(t, ours.start(t, w)).hostScale(t, s, n, &found))
		})
	}
	t.Run("bodies", func(t *testing.T) {
		check(t, w.client(t, ours.start(t, w)).bodyScale(t, s, &found))
	})
	if t.Failed() {
		return
	}
	page := pageFor(t, *report)
	page.scale = found
	page.save(t)
	t.Logf("\n%s", page.scale.section())
	for _, chart := range charts {
		for _, series := range chart.series {
			if got := found.Curves[chart.name][series]; len(got) < 2 {
				t.Errorf("%s, %s: got %v, want two points or more", chart.title, series, got)
			}
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// atLeast is the least that is drawn: the clock of processes has ticks of 10 ms,
// and memory may shrink meanwhile, but there is no logarithm of 0.
const atLeast = 0.01

func (s *scale) add(chart, series string, x int64, y float64) {
	if s.Curves[chart] == nil {
		s.Curves[chart] = make(curves)
	}
	s.Curves[chart][series] = append(s.Curves[chart][series], point{float64(x), max(rounded(y), atLeast)})
}

func (c *client) tunnelScale(tb testing.TB, s scales, series string, found *scale) error {
	base := c.settled(tb)
	var all []*tunnel
	defer func() { closeAll(all) }()
	for _, n := range s.tunnels {
		more, err := c.openAll(n - len(all))
		if err != nil {
			return err
		}
		all = append(all, more...)
		got, err := c.measure(tb, func() (int, error) { return c.drive(all, min(n, 16), s.spell, 1) })
		if err != nil {
			return err
		}
		found.add("tunnels", series, int64(n), got["cpu"])
		found.add("rate", series, int64(n), got["rate"])
		found.add("tunnels-memory", series, int64(n), float64(c.settled(tb)-base)/megabyte)
	}
	return nil
}

func (c *client) tokenScale(tb testing.TB, s scales, series string, found *scale) error {
	all, err := c.openAll(16)
	if err != nil {
		return err
	}
	defer closeAll(all)
	for _, n := range s.tokens {
		got, err := c.measure(tb, func() (int, error) { return c.drive(all, len(all), s.spell, n) })
		if err != nil {
			return err
		}
		found.add("tokens", series, int64(n), got["cpu"])
	}
	return nil
}

func (c *client) hostScale(tb testing.TB, s scales, n int, found *scale) error {
	hosts := c.world.hosts[:n]
	base := c.settled(tb)
	first, err := c.measure(tb, func() (int, error) {
		return n, inParallel(n, func(i int) error { return c.once(hosts[i]) })
	})
	if err != nil {
		return err
	}
	later, err := c.measure(tb, func() (int, error) { return c.fresh(s.spell, hosts) })
	if err != nil {
		return err
	}
	if n > 1 { // one visit is below the tick
		found.add("hosts", "first visit", int64(n), first["cpu"])
	}
	found.add("hosts", "later", int64(n), later["cpu"])
	found.add("hosts-memory", "memory", int64(n), float64(c.settled(tb)-base)/megabyte)
	return nil
}

func (c *client) bodyScale(tb testing.TB, s scales, found *scale) error {
	all, err := c.openAll(1)
	if err != nil {
		return err
	}
	defer closeAll(all)
	for _, size := range s.bodies {
		for series, move := range map[string]func() error{
			"upload":   func() error { return c.upload(all[0], size, false, "") },
			"chunked":  func() error { return c.upload(all[0], size, true, "") },
			"download": func() error { return c.download(all[0], size) },
		} {
			base := c.settled(tb)
			forgetPeak(tb, c.pid)
			got, err := c.measure(tb, func() (n int, err error) {
				for end := time.Now().Add(s.spell); err == nil && (n == 0 || time.Now().Before(end)); n++ {
					err = move()
				}
				return n, err
			})
			if err != nil {
				return fmt.Errorf("%s of %d bytes: %w", series, size, err)
			}
			_, peak := memory(tb, c.pid)
			found.add("bodies", series, size, got["cpu"]/1000)
			found.add("bodies-memory", series, size, float64(peak-base)/megabyte)
		}
	}
	return nil
}
