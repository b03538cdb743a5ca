package starpod

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/starpod/caddy-starpod/tokens"
)

// tokenPrefix is how every token begins.
const tokenPrefix = "starpod:v1:"

// inspection is what inspect prints, and its JSON form.
type inspection struct {
	ID      string     `json:"id"` // as in the audit log
	Name    string     `json:"name,omitempty"`
	Hosts   []string   `json:"hosts"` // empty: any
	Expires *time.Time `json:"expires,omitempty"`
	Expired bool       `json:"expired"`
	Methods []string   `json:"methods"` // empty: any
	Paths   []string   `json:"paths"`   // empty: any
	Value   *string    `json:"value,omitempty"`
}

func inspectCommand() *cobra.Command {
	var keyFiles []string
	var reveal, asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect [TOKEN]",
		Short: "Tells what a token is for",
		Long: `
Opens a token and prints its id (as in the audit log), its name, the hosts,
methods and paths it is for, and when it expires. White space around the token
and text in front of it, such as a kept prefix, do not matter. Without TOKEN it
is read from standard input.

The value itself is printed only with --reveal.`,
		Example: `  printf %s "$GITHUB_TOKEN" | caddy starpod seal --name GITHUB_TOKEN | caddy starpod inspect
  caddy starpod inspect "$API_TOKEN" --json
  caddy starpod inspect "$API_TOKEN" --key-file new_key --key-file old_key --reveal`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := readKeys(keyFiles)
			if err != nil {
				return err
			}
			token, err := tokenFrom(cmd.InOrStdin(), args)
			if err != nil {
				return err
			}
			found, err := inspect(keys, token, reveal)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), found)
			}
			return found.print(cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&keyFiles, "key-file", []string{defaultKeyFile()}, "`FILE` with a master key; may be repeated, any of them may open the token")
	flags.BoolVar(&reveal, "reveal", false, "print the value, too")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// tokenFrom finds the token in the argument, or in what is read.
func tokenFrom(in io.Reader, args []string) (string, error) {
	var text string
	if len(args) > 0 {
		text = args[0]
	} else {
		read, err := io.ReadAll(io.LimitReader(in, 2*tokens.MaxTokenLen))
		if err != nil {
			return "", fmt.Errorf("reading the token from standard input: %w", err)
		}
		text = string(read)
	}
	start := strings.Index(text, tokenPrefix)
	if start < 0 {
		return "", errors.New("this is no token: one begins with " + tokenPrefix + ", perhaps behind a kept prefix")
	}
	return strings.TrimSpace(text[start:]), nil
}

func inspect(keys *tokens.Keyring, token string, reveal bool) (inspection, error) {
	secret, err := keys.Open(token)
	switch {
	case errors.Is(err, tokens.ErrMalformed):
		return inspection{}, errors.New("this is no whole token: copy it again, from " + tokenPrefix + " to its last letter")
	case err != nil:
		return inspection{}, fmt.Errorf("%w: name the file of the other key with --key-file, or seal the value again", err)
	}
	sum := sha256.Sum256([]byte(token))
	found := inspection{
		ID: hex.EncodeToString(sum[:4]), Name: secret.Name,
		Hosts: orEmpty(secret.Hosts), Methods: orEmpty(secret.Methods), Paths: orEmpty(secret.Paths),
	}
	if !secret.Expires.IsZero() {
		at := secret.Expires.UTC()
		found.Expires, found.Expired = &at, !time.Now().Before(at)
	}
	if reveal {
		value := secret.Value.Reveal()
		found.Value = &value
	}
	return found, nil
}

func (i inspection) print(out io.Writer) error {
	expires := "never"
	if i.Expires != nil {
		expires = i.Expires.Format(time.RFC3339)
		if i.Expired {
			expires += " (expired)"
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "id\t%s\n", i.ID)
	if i.Name != "" {
		fmt.Fprintf(w, "name\t%s\n", printable(i.Name))
	}
	fmt.Fprintf(w, "hosts\t%s\n", listOrAny(i.Hosts))
	fmt.Fprintf(w, "expires\t%s\n", expires)
	fmt.Fprintf(w, "methods\t%s\n", listOrAny(i.Methods))
	fmt.Fprintf(w, "paths\t%s\n", listOrAny(i.Paths))
	if i.Value != nil {
		fmt.Fprintf(w, "value\t%s\n", printable(*i.Value))
	}
	return w.Flush()
}

func listOrAny(items []string) string {
	if len(items) == 0 {
		return "any"
	}
	return printable(strings.Join(items, ", "))
}

// printable quotes a text that could move the cursor of a terminal.
func printable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

func orEmpty(items []string) []string {
	if items == nil {
		return []string{}
	}
	return items
}

// printJSON prints JSON for people: indented, and with < and & as they are.
func printJSON(out io.Writer, v any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
