package starpod

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func approveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "approve [FOLDER]",
		Short: "Lets run take its defaults from the files of a project",
		Long: `
Approves .starpod.env and starpod.json of the nearest folder upwards from FOLDER
(default the working folder), as they are now, and shows what they make run do: names
and hosts, commands and rules, never a value. Read this before you run a command
there. An approval ends when the file changes or moves.

` + projectSyntax,
		Example: `  caddy starpod approve
  caddy starpod approve ~/src/project`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			files, err := findProject(dir)
			if err != nil {
				return err
			}
			if len(files) == 0 {
				return errors.New("no " + projectEnvFile + " or " + projectJSONFile + " in this folder or above it: write one, or name its folder")
			}
			for _, file := range files {
				if err := file.show(cmd.OutOrStdout()); err != nil {
					return err
				}
			}
			for _, file := range files {
				if err := file.approve(); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// show tells what a file makes run do. What stands in it is quoted, so that nothing
// hides from a terminal.
func (p projectFile) show(out io.Writer) error {
	fmt.Fprintf(out, "%s\n", quotedPath(p.path))
	if filepath.Base(p.path) == projectEnvFile {
		entries, err := bindEnvFile(p.path, string(p.content))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.plain {
				fmt.Fprintf(out, "  sets     %s, as it is\n", e.name)
				continue
			}
			fmt.Fprintf(out, "  secret   %s for %s\n", e.name, hostsInWords(e.hosts))
		}
		return nil
	}
	settings, err := p.settings()
	if err != nil {
		return err
	}
	if _, err := settings.rules(); err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	if _, err := drivers(settings.Isolation); err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	// Whether the environment has the secrets now does not matter.
	there := func(string) (string, bool) { return "-", true }
	for _, text := range settings.Secrets {
		secret, source, err := parseProjectSecret(text, there, bindHosts)
		if err != nil {
			return fmt.Errorf("%s: secrets: %w", p.path, err)
		}
		fmt.Fprintf(out, "  secret   %s for %s\n", secret.Name, hostsInWords(secret.Hosts))
		if source != "" {
			fmt.Fprintf(out, "  executes %q for it\n", strings.TrimPrefix(source, commandSource))
		}
	}
	for _, line := range settings.Egress {
		fmt.Fprintf(out, "  egress   %q\n", line)
	}
	if settings.Isolation != "" {
		fmt.Fprintf(out, "  isolates by %q\n", settings.Isolation)
	}
	return nil
}

func hostsInWords(hosts []string) string {
	if len(hosts) == 0 {
		return "ANY host"
	}
	return strings.Join(hosts, ", ")
}

// quotedPath leaves ordinary paths as they are.
func quotedPath(path string) string {
	if quoted := fmt.Sprintf("%q", path); quoted != `"`+path+`"` {
		return quoted
	}
	return path
}
