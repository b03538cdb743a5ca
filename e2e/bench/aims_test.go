//go:build linux

package bench

import (
	"fmt"
	"math"
	"strings"
)

// aim is a figure and what it shall be at the most, or at least.
type aim struct {
	what  string
	limit float64
	least bool // limit is the least that is wanted
	of    string
	unit  string
	ours  func(*results) float64
	than  func(*results) float64 // what limit is a multiple of; nil where it stands for itself
}

func figure(mode, peer, name string) func(*results) float64 {
	return func(r *results) float64 { return r.value(mode, peer, name) }
}

// worst is the largest rise of memory by any body.
func worst(r *results) float64 {
	return max(r.value("upload", oursName, "rise"), r.value("chunked", oursName, "rise"), r.value("download", oursName, "rise"), r.value("token", oursName, "rise"))
}

var aims = []aim{
	{what: "16 tunnels, processor", limit: 0.75, of: goproxyName, unit: "ms", ours: figure("keepalive", oursName, "cpu"), than: figure("keepalive", goproxyName, "cpu")},
	{what: "one tunnel, processor", limit: 0.9, of: goproxyName, unit: "ms", ours: figure("one", oursName, "cpu"), than: figure("one", goproxyName, "cpu")},
	{what: "new tunnel each, processor", limit: 0.8, of: goproxyName, unit: "ms", ours: figure("new", oursName, "cpu"), than: figure("new", goproxyName, "cpu")},
	{what: "new host each", limit: 0.9, least: true, of: "our new tunnels", unit: "a second", ours: figure("cold", oursName, "rate"), than: figure("new", oursName, "rate")},
	{what: "upload", limit: 1, least: true, of: goproxyName, unit: "MB/s", ours: figure("upload", oursName, "speed"), than: figure("upload", goproxyName, "speed")},
	{what: "chunked upload", limit: 1, least: true, of: goproxyName, unit: "MB/s", ours: figure("chunked", oursName, "speed"), than: figure("chunked", goproxyName, "speed")},
	{what: "download", limit: 1, least: true, of: goproxyName, unit: "MB/s", ours: figure("download", oursName, "speed"), than: figure("download", goproxyName, "speed")},
	{what: "memory that a body adds, at the most", limit: 16, unit: "MB", ours: worst},
	{what: "upload with a token in it", limit: 0.9, least: true, of: "ours without", unit: "MB/s", ours: figure("token", oursName, "speed"), than: figure("upload", oursName, "speed")},
	{what: "first event", limit: 1, of: caddy.name, unit: "ms", ours: figure("events", oursName, "first"), than: figure("events", caddy.name, "first")},
	{what: "memory per idle tunnel", limit: 40, unit: "KB", ours: figure("idle", oursName, "kb")},
	{what: "memory that a closed tunnel leaves, of 10 000", limit: 0.2, unit: "KB", ours: figure("closed", oursName, "grown")},
	{what: "scanning text without tokens", limit: 0.8, least: true, of: "`bytes.Index`", unit: "×", ours: figure("scanner", oursName, "ratio")},
	{what: "opening a token of 150 characters", limit: 1.5, unit: "µs", ours: figure("opening", oursName, "micros")},
	{what: "the same, allocations", limit: 4, ours: figure("opening", oursName, "allocs")},
}

// aims is the table of what is aimed at, with what was measured.
func (r *results) aims() string {
	var b strings.Builder
	b.WriteString("| figure | aim | measured | |\n|---|---|---:|---|\n")
	for _, a := range aims {
		measured, reached := a.judge(r)
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", a.what, a.text(), measured, reached)
	}
	return b.String()
}

func (a aim) text() string {
	sign := "≤"
	if a.least {
		sign = "≥"
	}
	if a.of != "" {
		return fmt.Sprintf("%s %s × %s", sign, digits(a.limit), a.of)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", sign, digits(a.limit), a.unit))
}

// judge is empty where nothing was measured.
func (a aim) judge(r *results) (measured, reached string) {
	value := a.ours(r)
	measured = strings.TrimSpace(digits(value) + " " + a.unit)
	if a.than != nil {
		than := a.than(r)
		measured = fmt.Sprintf("%s : %s %s, %.2f ×", digits(value), digits(than), a.unit, value/than)
		value /= than
	}
	switch {
	case math.IsNaN(value):
		return "", ""
	case a.least && value >= a.limit, !a.least && value <= a.limit:
		return measured, "reached"
	}
	return measured, "not reached"
}
