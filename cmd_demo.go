package starpod

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/tokens"
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

// demoResult is what happened.
type demoResult struct {
	value, token string // made up
	program      string // which was started
	printed      string // by the program: its environment and the answers
	right, wrong string // the requests that the hosts received, "" for none
}

func runDemo(ctx context.Context) (*demoResult, error) {
	dir, err := os.MkdirTemp("", "starpod-demo-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	api, err := startDemoAPI(filepath.Join(dir, "api-root.pem"))
	if err != nil {
		return nil, err
	}
	defer api.close()
	loopback, err := handler.ParseEgressRule(true, "127.0.0.0/8")
	if err != nil {
		return nil, err
	}
	proxy, err := Start(ctx, Config{Rules: loopback, Trust: []string{api.rootFile}, Resolver: demoResolver()})
	if err != nil {
		return nil, err
	}
	defer func() { _ = proxy.Shutdown(ctx) }()

	result := &demoResult{value: "made-up-secret-" + rand.Text()[:8]}
	result.token, err = proxy.Seal(tokens.Secret{
		Name: demoVariable, Value: tokens.Value(result.value), Hosts: []string{demoHost},
	})
	if err != nil {
		return nil, err
	}
	program, err := demoProgram(ctx)
	if err != nil {
		return nil, err
	}
	result.program = filepath.Base(program.Args[len(program.Args)-1])
	program.Env = mergeEnv(os.Environ(), []string{
		demoVariable + "=" + result.token,
		"RIGHT_URL=" + api.url(demoHost), "WRONG_URL=" + api.url(demoOther),
	})
	if err := proxy.Prepare(program); err != nil {
		return nil, err
	}
	printed, err := program.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		return nil, fmt.Errorf("the program failed: %w: %s", err, strings.TrimSpace(string(failed.Stderr)))
	}
	if err != nil {
		return nil, fmt.Errorf("starting the program: %w", err)
	}
	result.printed = string(printed)
	result.right, result.wrong = api.received(demoHost), api.received(demoOther)
	return result, nil
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
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, self, "starpod", demoClientName), nil
}
