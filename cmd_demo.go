package starpod

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/spf13/cobra"
)

const (
	demoHost     = "api.example.com"  // which the token names
	demoOther    = "evil.example.net" // which it does not
	demoVariable = "API_TOKEN"
	demoTimeout  = 30 * time.Second
)

// demoScript is what the program of the demonstration does: it shows all that it
// knows, then calls both hosts.
const demoScript = `env
for url in "$RIGHT_URL" "$WRONG_URL"; do
	curl -q -sS -H "Authorization: Bearer $API_TOKEN" "$url" || exit
done`

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Shows the main job, offline and by itself",
		Long: `
Starts an API on loopback that answers under two names, a proxy, and a program
(curl, where there is one) that is given a token for one of the names. The
program calls both. Shown is what the program held and what each name received.
The command fails if any of it is not as it should be. Nothing leaves the machine
and nothing stays on it.`,
		Example: `  caddy starpod demo`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoTimeout)
			defer cancel()
			result, err := runDemo(ctx)
			if err != nil {
				return fmt.Errorf("the demonstration could not run: %w", err)
			}
			if !result.tell(cmd.OutOrStdout()) {
				return exit(cmd, 1)
			}
			return nil
		},
	}
}

func runDemo(ctx context.Context) (*demoResult, error) {
	t, err := startTrial(ctx, Config{})
	if err != nil {
		return nil, err
	}
	defer t.close(ctx)
	program, err := demoProgram(ctx)
	if err != nil {
		return nil, err
	}
	return t.run(program)
}

// demoProgram is curl, unmodified, or this program where there is none. The last
// argument is its name.
func demoProgram(ctx context.Context) (*exec.Cmd, error) {
	_, noCurl := exec.LookPath("curl")
	_, noShell := exec.LookPath("sh")
	// The curl of Windows takes its roots from the system alone.
	if noCurl == nil && noShell == nil && runtime.GOOS != "windows" {
		return exec.CommandContext(ctx, "sh", "-c", demoScript, "curl"), nil
	}
	return demoClient(ctx)
}

func demoClient(ctx context.Context) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, self, "starpod", demoClientName), nil
}
