//go:build linux

package bench

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// mitmproxy is Debian's, told to stream bodies over 1 MiB: it holds them whole by
// default.
var mitmproxy = peer{name: "mitmproxy", needs: "mitmdump", slow: true, start: func(tb testing.TB, w *world) *proxy {
	port := testbench.FreePort(tb)
	w.writeMitmproxyAuthority(tb)
	script, err := filepath.Abs("testdata/mitmproxy.py")
	if err != nil {
		tb.Fatal(err)
	}
	return w.run(tb, port, "mitmdump", "--quiet", "--listen-host", "127.0.0.1", "--listen-port", strconv.Itoa(port),
		"--set", "confdir="+w.path("mitmproxy"), "--set", "ssl_verify_upstream_trusted_ca="+w.path("upstream.pem"),
		"--set", "stream_large_bodies=1m", "--scripts", script)
}}

// writeMitmproxyAuthority writes key and certificate into one file, as it wants
// them.
func (w *world) writeMitmproxyAuthority(tb testing.TB) {
	tb.Helper()
	cert, key := w.authority()
	var both []byte
	for _, file := range []string{key, cert} {
		text, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		both = append(both, text...)
	}
	if err := os.MkdirAll(w.path("mitmproxy"), 0o755); err != nil {
		tb.Fatal(err)
	}
	w.write(tb, "mitmproxy/mitmproxy-ca.pem", both)
}
