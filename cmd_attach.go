package starpod

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/pflag"

	"github.com/starpod/caddy-starpod/internal/heap"
)

const attachSyntax = `Attaching:
  --attach makes a Caddy that is running the proxy of COMMAND, in place of one of
  its own: that Caddy's key seals the secrets and never leaves it, and its rules,
  logs and reloads count. It needs starpod_secrets and isolation sealed or auto,
  and runs as the same user, or COMMAND is run by root. Its socket is attach.sock
  in its data_dir: name that with --data-dir, or the socket with --socket. If
  several of its sites have starpod_secrets, --site says which one counts. With
  --isolation env COMMAND is told the site's address, and credentials of its own
  where the site asks for some. When Caddy ends, COMMAND has no network any more.
`

// attachFlags are those of run that lead to a running Caddy.
type attachFlags struct {
	attach       bool
	socket, site string
}

func (f *attachFlags) registerAttach(flags *pflag.FlagSet) {
	flags.BoolVar(&f.attach, "attach", false, "use the proxy of a running Caddy")
	flags.StringVar(&f.socket, "socket", "", "with --attach: `PATH` of the running Caddy's socket (default attach.sock in --data-dir)")
	flags.StringVar(&f.site, "site", "", "with --attach: `ADDRESS` of the site to use, like 127.0.0.1:8080 (default the only one)")
}

// ownFlags say what a proxy of one's own is like. A running one is as it is.
var ownFlags = []string{"allow", "deny", "trust", "upstream", "no-intercept"}

func (f *runFlags) checkAttach(flags *pflag.FlagSet) error {
	if !f.attach {
		if f.socket != "" || f.site != "" {
			return errors.New("--socket and --site go with --attach: add it, or leave them out")
		}
		return nil
	}
	for _, name := range ownFlags {
		if flags.Changed(name) {
			return errors.New("--" + name + " does not go with --attach: the running Caddy decides; write it into its Caddyfile")
		}
	}
	if f.summary {
		return errors.New("--summary does not go with --attach: caddy starpod watch tells what the running Caddy does")
	}
	if f.isolation == driverVeth {
		return errors.New("--isolation veth does not go with --attach: use sealed, or join the namespace of a site that binds starpod/starpod-ns")
	}
	return nil
}

// proxy starts one, or attaches to one.
func (f *runFlags) proxy(ctx context.Context, c Config) (*Handle, error) {
	if !f.attach {
		heap.Tune()
		return Start(ctx, c)
	}
	path := f.socket
	if path == "" {
		dir := c.DataDir
		if dir == "" {
			dir = filepath.Join(caddy.AppDataDir(), "starpod")
		}
		path = filepath.Join(dir, attachFile)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// Not the command's to see, wherever the running Caddy says its files are.
	c.Hide = append(c.Hide, path)
	if f.socket == "" {
		c.Hide = append(c.Hide, filepath.Dir(path))
	}
	return attach(ctx, c, path, f.site)
}
