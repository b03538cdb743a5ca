package starpod

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/starpod/caddy-starpod/tokens"
)

func keygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen [FILE]",
		Short: "Makes a master key, which seals tokens and opens them",
		Long: fmt.Sprintf(`
Makes a random AES-256 key and writes it to FILE as base64, with mode 0600. A
file that exists stays as it is, and the command fails.

Without FILE the key goes where the other commands look for it:
%s

Whoever has the key can open every token made with it. Programs that hold tokens
must not be able to read it.`, defaultKeyFile()),
		Example: `  caddy starpod keygen
  caddy starpod keygen ./vault_key`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := defaultKeyFile()
			sealWith := ""
			if len(args) > 0 {
				path = args[0]
				sealWith = " --key-file " + quoteSh(path)
			}
			_, err := tokens.CreateKeyFile(path)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%w; it is kept, since tokens made with it would be lost: name another file, or move it away", err)
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), path)
			cmd.PrintErrf("Next: name the file in the Caddyfile,\n"+
				"    starpod_secrets %s\n"+
				"and make a token for a secret:\n"+
				"    caddy starpod seal%s --name GITHUB_TOKEN\n", path, sealWith)
			return nil
		},
	}
}
