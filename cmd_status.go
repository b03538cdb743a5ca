package starpod

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// adminFlags say where the admin API of a running proxy is, as the flags of
// `caddy stop` do.
type adminFlags struct{ address, config, adapter string }

func (f *adminFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.address, "address", "", "`ADDRESS` of the running Caddy's admin API (default localhost:2019)")
	flags.StringVar(&f.config, "config", "", "configuration `FILE` to take that address from")
	flags.StringVar(&f.adapter, "adapter", "", "`NAME` of the config adapter for --config")
}

// status asks the running proxy.
func (f *adminFlags) status() (Status, error) {
	var status Status
	address, err := caddycmd.DetermineAdminAPIAddress(f.address, nil, f.config, f.adapter)
	if err != nil {
		return status, fmt.Errorf("finding the admin API: %w", err)
	}
	resp, err := caddycmd.AdminAPIRequest(address, http.MethodGet, "/starpod/status", nil, nil)
	if err != nil {
		return status, fmt.Errorf("asking the proxy at %s: %w; is a Caddy with starpod_secrets running? "+
			"Name its admin address with --address", address, err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return status, fmt.Errorf("reading the answer of %s: %w; is --address an admin API of Caddy?", address, err)
	}
	return status, nil
}

func statusCommand() *cobra.Command {
	var admin adminFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Shows how a running proxy is doing",
		Long: `
Asks the admin API of a running Caddy about its proxies: where they listen, how
clients are isolated, which certificate authority they use, and what they have
counted since the configuration was loaded. None of it is secret.`,
		Example: `  caddy starpod status
  caddy starpod status --json
  caddy starpod status --address localhost:2019`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := admin.status()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), status)
			}
			return status.print(cmd.OutOrStdout())
		},
	}
	admin.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (s Status) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "isolation\ttier %d, %s\n", s.Tier.Level, s.Tier.Driver)
	if n := s.Namespace; n != nil {
		fmt.Fprintf(w, "namespace\t%s, %s, host end %s\n", n.Name, n.Path, n.Host)
		if n.Lost != "" {
			fmt.Fprintf(w, "\tLOST: %s; %s\n", n.Lost, mendNamespace)
		}
	}
	if a := s.Attach; a != nil {
		fmt.Fprintf(w, "attached\t%d commands, at %s\n", a.Commands, a.Socket)
	}
	for _, p := range s.Proxies {
		how := "tunnels blindly"
		if p.Intercept {
			how = "intercepts"
		}
		fmt.Fprintf(w, "proxy\t%s, %s, keys: %d\n", strings.Join(p.Listen, " "), how, p.Keys)
	}
	roots := s.CA.SystemRoots
	if roots == "" {
		roots = "none found"
	}
	fmt.Fprintf(w, "authority\t%s, until %s\n", s.CA.Fingerprint, s.CA.NotAfter)
	fmt.Fprintf(w, "bundle\t%s (system roots: %s)\n", s.CA.Bundle, roots)
	fmt.Fprintf(w, "requests\t%d forwarded, %d refused\n", s.Counts.Requests, s.Counts.Refused)
	fmt.Fprintf(w, "tunnels\t%d intercepted, %d blind\n", s.Counts.Intercepted, s.Counts.Tunnelled)
	fmt.Fprintf(w, "tokens\t%d replaced, %d stripped, %d undecodable\n",
		s.Counts.Replaced, s.Counts.Stripped, s.Counts.Undecodable)
	return w.Flush()
}
