package heap

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// TestMain is the test binary, or one of the processes that TestTune starts: what
// is set is set for a whole process.
func TestMain(m *testing.M) {
	if os.Getenv("HEAP_TEST_PROCESS") == "" {
		os.Exit(m.Run())
	}
	Tune()
	Tune()          // has been done
	work(2 * Floor) // so that it has been set behind a collection, too
	fmt.Printf("percent over 100: %t\n", percent() > 100)

	before := cycles()
	Used()
	begin := time.Now()
	for cycles() == before && time.Since(begin) < 10*Quiet {
		runtime.Gosched()
	}
	fmt.Printf("given back: %t\n", cycles() > before)
}

// work allocates so many bytes in small pieces that nobody keeps.
func work(bytes int) {
	for range bytes / len(piece) {
		piece = make([]byte, len(piece))
	}
}

var piece = make([]byte, 16<<10)

func percent() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func cycles() uint32 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.NumGC
}

func TestTune(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, gogc, want string }{
		{"by itself", "", "percent over 100: true\ngiven back: true\n"},
		{"with GOGC", "100", "percent over 100: false\ngiven back: false\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(binary)
			cmd.Env = append(os.Environ(), "HEAP_TEST_PROCESS=1", "GOGC="+tt.gogc)
			out, err := cmd.CombinedOutput()
			if err != nil || string(out) != tt.want {
				t.Errorf("got %q, %v; want %q", out, err, tt.want)
			}
		})
	}
}

// A process that works has nothing given back until it is quiet.
func TestUsedWaitsForQuiet(t *testing.T) {
	tuned.Store(true)
	t.Cleanup(func() { tuned.Store(false) })
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it alone decides
	before := cycles()
	piece = make([]byte, 2*worth)
	begin := time.Now()
	for time.Since(begin) < 4*Quiet {
		Used()
		runtime.Gosched()
	}
	if got := cycles() - before; got > 0 {
		t.Errorf("collections while it worked: got %d, want none", got)
	}
	testbench.Await(t, 20*Quiet, func() error {
		if armed.Load() || cycles() == before {
			return fmt.Errorf("collections when it was quiet: got %d, want some", cycles()-before)
		}
		return nil
	})
	piece = make([]byte, 16<<10)
}
