//go:build linux

package bench

import (
	"fmt"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// caddy is Caddy's own reverse_proxy from TLS to TLS, which knows its one host
// beforehand and opens no tunnel: the floor of what this module stands on.
var caddy = peer{name: "Caddy's reverse_proxy", start: func(tb testing.TB, w *world) *proxy {
	port := testbench.FreePort(tb)
	config := w.write(tb, "reverse_proxy.Caddyfile", fmt.Appendf(nil, reverseProxy, w.dir, port, w.port, w.placeholder, w.value))
	p := w.run(tb, port, w.binary, "run", "--config", config, "--adapter", "caddyfile")
	p.direct = true
	return p
}}

const reverseProxy = `{
	admin off
	persist_config off
	auto_https off
	storage file_system %[1]s/caddy
	log {
		level ERROR
	}
}
https://*.starpod.test:%[2]d {
	bind 127.0.0.1
	tls %[1]s/leaf.pem %[1]s/leaf.key
	reverse_proxy https://127.0.0.1:%[3]d {
		header_up Host {host}:%[3]d
		header_up Authorization %[4]s %[5]s
		transport http {
			versions 1.1
			tls_server_name {host}
			tls_trust_pool file %[1]s/upstream.pem
		}
	}
}
`
