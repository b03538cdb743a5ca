package isolation

import (
	"os/exec"
	"slices"
	"testing"
	"time"
)

// BenchmarkStart tells what `run` in a sealed namespace costs more than the bare
// command, in milliseconds: the median of all rounds. Use -benchtime 20x.
func BenchmarkStart(b *testing.B) {
	w := newWorld(b)
	for _, mode := range []struct {
		name string
		user bool
	}{{"root", false}, {"user", true}} {
		b.Run(mode.name, func(b *testing.B) {
			var bare, sealed []time.Duration
			for b.Loop() {
				bare = append(bare, timed(b, w.bare(mode.user)))
				sealed = append(sealed, timed(b, w.run(b, mode.user, []string{"--isolation", "sealed"}, "true")))
			}
			b.ReportMetric(milliseconds(median(sealed)-median(bare)), "ms/start")
			b.ReportMetric(milliseconds(median(bare)), "ms/bare")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func (w *world) bare(user bool) *exec.Cmd {
	if user {
		return exec.Command("setpriv", "--reuid="+ordinaryID, "--regid="+ordinaryID, "--clear-groups", "true")
	}
	return exec.Command("true")
}

func timed(b *testing.B, cmd *exec.Cmd) time.Duration {
	b.Helper()
	begin := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return time.Since(begin)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
