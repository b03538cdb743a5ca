package testbench

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
)

// Usage is what a process holds, from /proc.
type Usage struct {
	FDs     int
	Threads int
	RSS     int64 // bytes
	Anon    int64 // bytes of RSS that are its own: heap, stacks, data that it has changed
	File    int64 // bytes of RSS that are pages of files: its program, which comes in as it runs
	PeakRSS int64 // bytes, since the start or the last ResetPeak
}

var statusLine = regexp.MustCompile(`(?m)^(VmRSS|RssAnon|RssFile|VmHWM|Threads):\s+(\d+)`)

// ReadUsage reads the usage of a running process (proc(5), status and fd).
func ReadUsage(tb testing.TB, pid int) Usage {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	fds, fdErr := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err := errors.Join(err, fdErr); err != nil {
		tb.Fatalf("reading the usage of process %d: %v", pid, err)
	}
	usage := Usage{FDs: len(fds)}
	for _, line := range statusLine.FindAllSubmatch(status, -1) {
		n, err := strconv.ParseInt(string(line[2]), 10, 64)
		if err != nil {
			tb.Fatalf("reading the usage of process %d: %v", pid, err)
		}
		switch string(line[1]) {
		case "VmRSS":
			usage.RSS = n << 10
		case "RssAnon":
			usage.Anon = n << 10
		case "RssFile":
			usage.File = n << 10
		case "VmHWM":
			usage.PeakRSS = n << 10
		case "Threads":
			usage.Threads = int(n)
		}
	}
	return usage
}

// ResetPeak makes the PeakRSS of a process start again at its RSS.
func ResetPeak(tb testing.TB, pid int) {
	tb.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		tb.Fatalf("resetting the peak memory of process %d: %v", pid, err)
	}
}
