// Command caddy is a Caddy with the standard modules and Starpod secrets, so
// that `go build ./cmd/caddy` gives the same server as xcaddy does.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/starpod/caddy-starpod"
)

func main() { caddycmd.Main() }
