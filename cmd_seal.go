package starpod

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starpod/caddy-starpod/tokens"
)

// sealFlags are the flags of seal.
type sealFlags struct {
	keyFile, name, expires, keepPrefix string
	hosts, methods, paths              []string
	keepNewline, allowEmpty            bool
}

func sealCommand() *cobra.Command {
	f := new(sealFlags)
	cmd := &cobra.Command{
		Use:   "seal",
		Short: "Turns a secret from standard input into a token",
		Long: `
Reads a value from standard input and prints a token for it: the token and a
newline, nothing else. One newline at the end of the input is not taken as part
of the value. On a terminal the value is asked for and not shown.

The token works towards the hosts given with --host and no others: a host, any
host below a domain (*.example.com), and either with a port (:8443). Without
--host they come from the name, where it is one of the well-known:
GITHUB_TOKEN is bound to api.github.com. A token without any host works
everywhere, which is rarely what one wants; --host '*' says so without a warning.

--keep-prefix is for clients that look at the first letters of a secret: those
letters stay in front of the token, and only what follows them is sealed.`,
		Example: `  printf %s "$GITHUB_TOKEN" | caddy starpod seal --name GITHUB_TOKEN
  caddy starpod seal --host api.example.com --expires 24h < secret.txt
  caddy starpod seal --host slack.com --keep-prefix xoxb-
  caddy starpod seal --host 'api.example.com,*.example.org' --method GET --path '/v1/**'`,
		Args: noArguments("write the value to its standard input, where other processes cannot see it"),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.keyFile, "key-file", defaultKeyFile(), "`FILE` with the master key")
	flags.StringSliceVar(&f.hosts, "host", nil, "`HOST` that may receive the value; repeat it or separate by commas")
	flags.StringVar(&f.name, "name", "", "`NAME` of the secret in logs, and where --host defaults from")
	flags.StringVar(&f.expires, "expires", "", "`TIME` at which the token stops working: a duration (24h), a date (2030-01-31, as it begins in UTC) or RFC 3339 (default never)")
	flags.StringSliceVar(&f.methods, "method", nil, "HTTP `METHOD` that may carry the value; repeat it or separate by commas (default any)")
	flags.StringArrayVar(&f.paths, "path", nil, "`PATH` that may carry the value, with * for a part of a segment and ** for any; may be repeated (default any)")
	flags.StringVar(&f.keepPrefix, "keep-prefix", "", "first `LETTERS` of the value, which stay readable in front of the token")
	flags.BoolVar(&f.keepNewline, "keep-newline", false, "take a newline at the end as part of the value")
	flags.BoolVar(&f.allowEmpty, "allow-empty", false, "seal an empty value")
	return cmd
}

func (f *sealFlags) run(cmd *cobra.Command) error {
	keys, err := readKeys([]string{f.keyFile})
	if err != nil {
		return err
	}
	secret := tokens.Secret{Name: f.name, Methods: f.methods, Paths: f.paths}
	if secret.Expires, err = parseExpiry(f.expires, time.Now()); err != nil {
		return err
	}
	// An empty variable in `--host "$HOST"` must not unbind the token.
	if cmd.Flags().Changed("host") && len(f.hosts) == 0 {
		return errors.New("--host names no host: write one, such as --host api.example.com")
	}
	secret.Hosts, err = bindHosts(f.name, f.hosts)
	switch {
	case errors.Is(err, errNoHosts):
		cmd.PrintErrln("warning: unrestricted: any host receives the value; bind it with --host")
	case err != nil:
		return fmt.Errorf("--host: %w", err)
	}
	if secret.Value, err = f.value(cmd); err != nil {
		return err
	}
	token, err := keys.Seal(secret)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), f.keepPrefix+token)
	return err
}

// value reads the part of the value that is to be sealed.
func (f *sealFlags) value(cmd *cobra.Command) (tokens.Value, error) {
	text, err := readValue(cmd, f.keepNewline)
	if err != nil {
		return "", err
	}
	sealed, found := strings.CutPrefix(text, f.keepPrefix)
	if !found {
		return "", fmt.Errorf("--keep-prefix: the value does not begin with %q; check the value, or leave the flag out", f.keepPrefix)
	}
	if sealed == "" && !f.allowEmpty {
		return "", errors.New("the value is empty: write it to standard input, or allow it with --allow-empty")
	}
	return tokens.Value(sealed), nil
}

// parseExpiry reads a duration from now, a date or a time; "" is never.
func parseExpiry(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	var at time.Time
	if d, err := time.ParseDuration(text); err == nil {
		at = now.Add(d)
	} else if at, err = time.Parse(time.DateOnly, text); err != nil {
		if at, err = time.Parse(time.RFC3339, text); err != nil {
			return at, fmt.Errorf("--expires: %q is no time: write it like 24h, 2030-01-31 or 2030-01-31T18:00:00Z", text)
		}
	}
	if !at.After(now) {
		return at, fmt.Errorf("--expires: %s has passed: name a time to come", text)
	}
	return at, nil
}
