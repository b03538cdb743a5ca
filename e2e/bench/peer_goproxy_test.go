//go:build linux

package bench

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// goproxy is the program in the folder of that name.
var goproxy = peer{name: goproxyName, start: func(tb testing.TB, w *world) *proxy {
	binary, port := w.path("goproxy"), testbench.FreePort(tb)
	if out, err := buildGoproxy(binary); err != nil {
		tb.Fatalf("building goproxy: %v\n%s", err, out)
	}
	cert, key := w.authority()
	return w.run(tb, port, binary, "-listen", "127.0.0.1:"+strconv.Itoa(port), "-cert", cert, "-key", key, "-trust", w.path("upstream.pem"))
}}

const goproxyName = "goproxy"

var buildGoproxyOnce sync.Once

func buildGoproxy(binary string) (out []byte, err error) {
	buildGoproxyOnce.Do(func() {
		var root string
		if root, err = testbench.ModuleRoot(); err == nil {
			out, err = exec.Command("go", "build", "-C", filepath.Join(root, "e2e/bench/goproxy"), "-o", binary, ".").CombinedOutput()
		}
	})
	return out, err
}
