package testbench

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// Await calls the condition until it returns nil, and fails the test with its
// last error once the time is up.
func Await(tb testing.TB, limit time.Duration, condition func() error) {
	tb.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("after %v: %v", limit, err)
		}
		<-tick.C
	}
}

// NoGoroutineLeak makes the end of the test wait for the number of goroutines
// of this process to fall back to what it is now. The test must not be parallel.
func NoGoroutineLeak(tb testing.TB) {
	tb.Helper()
	before := runtime.NumGoroutine()
	tb.Cleanup(func() {
		Await(tb, 10*time.Second, func() error {
			now := runtime.NumGoroutine()
			if now <= before {
				return nil
			}
			stacks := make([]byte, 1<<20)
			return fmt.Errorf("goroutines: got %d, want %d\n%s", now, before,
				stacks[:runtime.Stack(stacks, true)])
		})
	})
}
