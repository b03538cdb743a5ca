package starpod

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starpod/caddy-starpod/ca"
)

// envFlags are the flags of env.
type envFlags struct {
	admin                 adminFlags
	proxy, dataDir, shell string
}

func envCommand() *cobra.Command {
	f := new(envFlags)
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Prints the shell exports that lead clients to a running proxy",
		Long: `
Prints statements that set HTTP_PROXY, HTTPS_PROXY, NO_PROXY and the variables by
which clients find the certificates to trust (SSL_CERT_FILE, NODE_EXTRA_CA_CERTS,
REQUESTS_CA_BUNDLE and others). Evaluate them in a shell, and what it starts goes
through the proxy.

Where the proxy is and which file its clients trust is asked of the running
Caddy. --proxy and --data-dir together say it without asking. A proxy with
proxy_auth needs --proxy with user and password in the URL.

wget and Java take no such variable; 'caddy starpod run' knows how to lead them.`,
		Example: `  eval "$(caddy starpod env)"
  caddy starpod env --shell fish | source
  caddy starpod env --shell powershell | Out-String | Invoke-Expression
  eval "$(caddy starpod env --proxy http://127.0.0.1:8080 --data-dir .starpod/db)"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			env, err := f.client()
			if err != nil {
				return err
			}
			entries := env.list()
			slices.Sort(entries)
			lines, err := exportLines(f.shell, entries)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), lines)
			return err
		},
	}
	f.admin.register(cmd.Flags())
	cmd.Flags().StringVar(&f.proxy, "proxy", "", "`URL` of the proxy (default as the running Caddy says)")
	cmd.Flags().StringVar(&f.dataDir, "data-dir", "", "`FOLDER` with the proxy's "+ca.BundleFile+" (default as the running Caddy says)")
	cmd.Flags().StringVar(&f.shell, "shell", "sh", "`SHELL` whose syntax to write: sh (also for bash and zsh), fish or powershell")
	return cmd
}

// client finds out about the proxy: from the flags, and what they leave open
// from the admin API.
func (f *envFlags) client() (clientEnv, error) {
	env := clientEnv{proxy: f.proxy}
	if f.proxy != "" {
		if u, err := url.Parse(f.proxy); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
			return env, errors.New("--proxy: write it like http://127.0.0.1:8080")
		}
	}
	bundle := ""
	if f.dataDir != "" {
		bundle = filepath.Join(f.dataDir, ca.BundleFile)
	}
	if f.proxy == "" || f.dataDir == "" {
		status, err := f.admin.status()
		if err != nil {
			return env, fmt.Errorf("%w, or give both --proxy and --data-dir", err)
		}
		if bundle == "" {
			bundle = status.CA.Bundle
		}
		if env.proxy == "" {
			running, err := status.only()
			if err != nil {
				return env, err
			}
			env.proxy = "http://" + reachable(running.Listen[0])
			if !running.Intercept {
				return env, nil
			}
		}
	}
	// Clients may run in any folder.
	var err error
	if env.bundle, err = filepath.Abs(bundle); err != nil {
		return env, fmt.Errorf("finding the folder of %s: %w", bundle, err)
	}
	if _, err := os.Stat(env.bundle); err != nil {
		return env, fmt.Errorf("looking for the certificates that clients trust: %w; "+
			"name the proxy's data_dir with --data-dir, after its first start", err)
	}
	return env, nil
}

// only returns the one proxy that listens.
func (s Status) only() (ProxyStatus, error) {
	var listening []ProxyStatus
	var where []string
	for _, p := range s.Proxies {
		if len(p.Listen) > 0 {
			listening = append(listening, p)
			where = append(where, "http://"+reachable(p.Listen[0]))
		}
	}
	switch len(listening) {
	case 0:
		return ProxyStatus{}, errors.New("the running Caddy has no proxy: add starpod_secrets to a site, or give both --proxy and --data-dir")
	case 1:
		return listening[0], nil
	}
	return ProxyStatus{}, fmt.Errorf("several proxies are running: choose one of %s with --proxy",
		strings.Join(where, ", "))
}

// reachable turns the address of a listener into one to connect to: one that
// listens everywhere is reached on loopback.
func reachable(listen string) string {
	addr, err := netip.ParseAddrPort(listen)
	switch {
	case err != nil || !addr.Addr().IsUnspecified():
		return listen
	case addr.Addr().Is4():
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port()).String()
	}
	return netip.AddrPortFrom(netip.IPv6Loopback(), addr.Port()).String()
}
