//go:build linux

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// tick is the unit of the times in /proc/*/stat (sysconf(3), _SC_CLK_TCK): the
// same on all machines that Go runs on.
const tick = 10 * time.Millisecond

// family returns the process and those that descend from it.
func family(tb testing.TB, pid int) (pids []int) {
	tb.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		tb.Fatal(err)
	}
	children := make(map[int][]int)
	for _, file := range files {
		if fields, err := stat(file); err == nil { // else it has ended
			parent := int(fields[1])
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			children[parent] = append(children[parent], child)
		}
	}
	pids = []int{pid}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids
}

// stat reads the numbers behind the name and the state of a process (proc(5)), the
// first of which is 0 in place of the state.
func stat(file string) (fields []int64, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	words := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	fields = make([]int64, len(words))
	for i, word := range words[1:] {
		fields[i+1], _ = strconv.ParseInt(word, 10, 64)
	}
	return fields, nil
}

// processor is the time that the process and its family have used, with what
// children used that have ended.
func processor(tb testing.TB, pid int) (used time.Duration) {
	tb.Helper()
	for _, member := range family(tb, pid) {
		if fields, err := stat(fmt.Sprintf("/proc/%d/stat", member)); err == nil {
			used += time.Duration(fields[11]+fields[12]+fields[13]+fields[14]) * tick
		}
	}
	return used
}

// memory is what the family holds, in bytes.
func memory(tb testing.TB, pid int) (held, peak int64) {
	tb.Helper()
	for _, member := range family(tb, pid) {
		usage := testbench.ReadUsage(tb, member)
		held, peak = held+usage.RSS, peak+usage.PeakRSS
	}
	return held, peak
}

// forgetPeak makes the peaks start again.
func forgetPeak(tb testing.TB, pid int) {
	tb.Helper()
	for _, member := range family(tb, pid) {
		testbench.ResetPeak(tb, member)
	}
}
