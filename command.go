package starpod

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/starpod/caddy-starpod/tokens"
)

// command is `caddy starpod`, the parent of all others.
func command() caddycmd.Command {
	return caddycmd.Command{
		Name:  "starpod",
		Usage: "<command>",
		Short: "Lets programs use secrets that they never hold",
		Long: `
A program that is given a token, starpod:v1:…, in place of a secret can use the
secret without holding it. A proxy on its way out swaps the token for the value,
and only towards the hosts that the token itself names.

'run' is all of it in one line: it starts a proxy, seals secrets into tokens and
runs a command with them. The other commands make keys and tokens for a proxy
that runs from a Caddyfile (directive starpod_secrets), and lead clients to it.

To see it at work, offline: caddy starpod demo`,
		CobraFunc: func(parent *cobra.Command) {
			parent.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return errors.New("there is no such command; see: caddy starpod --help")
				}
				return cmd.Help()
			}
			parent.AddCommand(
				runCommand(), approveCommand(), demoCommand(), demoClientCommand(),
				keygenCommand(), sealCommand(), inspectCommand(),
				envCommand(), statusCommand(), watchCommand(), viewCommand(), doctorCommand(),
			)
		},
	}
}

// defaultKeyFile is where keygen puts the key and others look for it.
func defaultKeyFile() string {
	return filepath.Join(caddy.AppDataDir(), "starpod", ".vault_key")
}

// readKeys reads key files; the first key seals, all open.
func readKeys(files []string) (*tokens.Keyring, error) {
	keys := make([]*tokens.Key, 0, len(files))
	for _, file := range files {
		key, err := tokens.ReadKeyFile(file)
		if err != nil {
			return nil, fmt.Errorf("%w; name a key file with --key-file, or make one: caddy starpod keygen", err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key file: name one with --key-file")
	}
	return tokens.NewKeyring(keys[0], keys[1:]...), nil
}

// bindHosts returns the hosts that a secret is bound to: those named, else those
// known for its name. "*" alone stands for any host, which is a nil list.
// Whatever is wrong with a host is told by the caller, who knows if the text may
// be part of a value.
func bindHosts(name string, named []string) (hosts []string, err error) {
	if len(named) == 0 {
		if hosts = tokens.KnownHosts(name); len(hosts) == 0 {
			return nil, errNoHosts
		}
		return hosts, nil
	}
	if len(named) == 1 && named[0] == "*" {
		return nil, nil
	}
	for _, host := range named {
		if err := tokens.CheckHostPattern(host); err != nil {
			return nil, err
		}
	}
	return named, nil
}

// errNoHosts says that neither the user nor the table names hosts.
var errNoHosts = errors.New("no hosts named, and none known for this name")

// splitList splits at commas and drops the blanks around them.
func splitList(text string) []string {
	words := strings.Split(text, ",")
	for i := range words {
		words[i] = strings.TrimSpace(words[i])
	}
	return words
}

// exit ends the program with a status and prints nothing more. Caddy takes a
// status from a CommandFunc where it is above 1, any other error means 1, and
// cobra prints all errors that it is not told to keep to itself.
func exit(cmd *cobra.Command, status int) error {
	cmd.SilenceErrors = true
	if status == 1 {
		return errors.New("exit status 1")
	}
	ended := func(caddycmd.Flags) (int, error) { return status, nil }
	return caddycmd.WrapCommandFuncForCobra(ended)(cmd, nil)
}

// noArguments is for commands that take a value from standard input: an argument
// could be one, so it is not repeated in the error.
func noArguments(hint string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("%s takes no arguments: %s", cmd.Name(), hint)
		}
		return nil
	}
}
