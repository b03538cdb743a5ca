//go:build !linux

package netns

import (
	"context"
	"os/exec"
	"runtime"
)

// Cell is the namespace of one command, which only Linux has.
type Cell struct{}

// Seal returns an error: there are no network namespaces here.
func Seal(*exec.Cmd, CellConfig) (*Cell, error) { return nil, unsupported() }

// Start, Open, Enter and Abandon are those of a Cell that never is.
func (*Cell) Start() error                          { return unsupported() }
func (*Cell) Open(context.Context) (*Outlet, error) { return nil, unsupported() }
func (*Cell) Enter(context.Context, Entry) error    { return unsupported() }
func (*Cell) Abandon()                              {}
func (*Cell) Ended() <-chan struct{}                { return nil }

// Probe returns why there are none.
func Probe(context.Context) error { return unsupported() }

// unsupported names the system as Starpod's own proxy does.
func unsupported() error {
	system := runtime.GOOS
	if system == "darwin" {
		system = "macos"
	}
	return &Unavailable{Reason: "netns unavailable: " + system}
}
