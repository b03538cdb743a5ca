// Package heap tunes Go's garbage collector to a proxy, which holds little and
// allocates much: while requests come, the heap may grow to [Floor] before it is
// collected, and when none come any more, what is free is given back to the
// operating system. It works on the whole process, and not at all where the
// environment variable GOGC says how the collector is to work.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Floor is how large the heap becomes before it is collected, in bytes. Go
	// alone would collect one of 5 MB, which is what a proxy without clients holds,
	// each time it has doubled: some ten times a second under load.
	Floor = 32 << 20

	// Quiet is how long nothing is asked for until memory is given back.
	Quiet = 250 * time.Millisecond

	// worth is how many bytes must be dead or free for that. Go's own scavenger keeps
	// what the heap may grow to.
	worth = 4 << 20

	// standard is Go's own setting: the heap may double.
	standard = 100
)

var (
	tune   sync.Once
	tuned  atomic.Bool
	used   atomic.Bool // since the timer looked last
	armed  atomic.Bool
	before int // the setting in force, of adjust alone
)

// Tune begins to work on the process. It does so once, whoever calls it. A process
// that is being configured counts as one that works.
func Tune() {
	tune.Do(func() {
		if os.Getenv("GOGC") != "" {
			return
		}
		tuned.Store(true)
		adjust()
		everyCycle()
	})
	Used()
}

// Used says that the process works. It costs next to nothing.
func Used() {
	if !tuned.Load() {
		return
	}
	if !used.Load() { // a store for each request would be shared by all cores
		used.Store(true)
	}
	arm()
}

// arm sees to it that a timer runs.
func arm() {
	if !armed.Load() && armed.CompareAndSwap(false, true) {
		time.AfterFunc(Quiet, look)
	}
}

// look gives memory back if nothing has been used since it looked last.
func look() {
	if used.Swap(false) {
		time.AfterFunc(Quiet, look)
		return
	}
	armed.Store(false)
	if used.Load() { // it was said since, when this timer still seemed to run
		arm()
		return
	}
	if now := measure(); now.held-now.live+now.free >= worth {
		debug.FreeOSMemory()
	}
}

// everyCycle calls adjust after each collection from now on: an object that nobody
// knows is collected with the next.
func everyCycle() {
	// As large as not to share its place with others (runtime.AddCleanup).
	runtime.AddCleanup(new([64]byte), func(struct{}) {
		adjust()
		everyCycle()
	}, struct{}{})
}

// adjust makes the next collection begin at Floor or near it, or where Go would begin
// it if that is more. The setting is in percent of what has to be looked through.
func adjust() {
	percent := standard
	if now := measure(); now.live < Floor {
		percent = max(standard, int((Floor-now.live)*100/max(now.scanned, 1)))
	}
	if difference := percent - before; difference*10 > before || difference*10 < -before { // it stops the world
		before = percent
		debug.SetGCPercent(percent)
	}
}

// sizes are of the heap, in bytes.
type sizes struct {
	held    int64 // by objects, dead ones too
	live    int64 // found alive by the last collection
	free    int64 // and not given back
	scanned int64 // what a collection looks through: that, stacks and globals
}

func measure() sizes {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"},
	}
	metrics.Read(samples)
	at := func(i int) int64 { return int64(samples[i].Value.Uint64()) }
	return sizes{held: at(0), live: at(1), free: at(2), scanned: at(1) + at(3) + at(4)}
}
