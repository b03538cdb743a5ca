package starpod_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	starpod "github.com/starpod/caddy-starpod"
	"github.com/starpod/caddy-starpod/tokens"
)

// useFromGo is what the README shows.
func useFromGo(ctx context.Context) error {
	proxy, err := starpod.Start(ctx, starpod.Config{})
	if err != nil {
		return err
	}
	defer proxy.Shutdown(ctx)
	token, err := proxy.Seal(tokens.Secret{Value: "…", Hosts: []string{"api.example.com"}})
	if err != nil {
		return err
	}
	cmd := exec.Command("curl", "-H", "X-Api-Key: "+token, "https://api.example.com/")
	if err := proxy.Prepare(cmd); err != nil {
		return err
	}
	return cmd.Run()
}

// TestPagesGo compares the Go code in the README with the function above, which
// compiles.
func TestPagesGo(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := strings.Cut(string(source), "func useFromGo(ctx context.Context) error {\n")
	want, _, _ = strings.Cut(want, "\n}\n")
	want = strings.ReplaceAll("\n"+want, "\n\t", "\n")
	parts := strings.Split(string(readme), "```go\n")
	if len(parts) != 2 {
		t.Fatalf("got %d blocks of Go, want one: compile the others here, too", len(parts)-1)
	}
	got, _, _ := strings.Cut(parts[1], "```")
	comment, got, _ := strings.Cut(got, "\n")
	if "\n"+got != want+"\n" || !strings.HasPrefix(comment, "// imports:") {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	_ = useFromGo
}
