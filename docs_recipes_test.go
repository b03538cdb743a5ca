package starpod

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// workflow is what counts of one of GitHub Actions.
type workflow struct {
	Jobs map[string]struct {
		Steps []struct {
			Uses, Run string
			Env       map[string]string
		}
	}
}

// TestPagesWorkflow reads the workflows in the pages, checks their commands, and that
// a secret is given to run only.
func TestPagesWorkflow(t *testing.T) {
	t.Parallel()
	for _, b := range blocks(t, "yaml") {
		var w workflow
		if err := yaml.Unmarshal([]byte(b.text), &w); err != nil || len(w.Jobs) == 0 {
			t.Errorf("%s: got %v (%v), want jobs", b.name(), w, err)
			continue
		}
		secrets := 0
		for _, job := range w.Jobs {
			for _, step := range job.Steps {
				if step.Run == "" && !regexp.MustCompile(`^[\w/-]+@v\d+$`).MatchString(step.Uses) {
					t.Errorf("%s: got the step %q, want an action with its version, or commands", b.name(), step.Uses)
				}
				checkShell(t, step.Run)
				if strings.Contains(step.Run, "secrets.") {
					t.Errorf("%s: a command has a secret in it: %s", b.name(), step.Run)
				}
				for name, value := range step.Env {
					if !strings.Contains(value, "secrets.") {
						continue
					}
					secrets++
					if !regexp.MustCompile(`(?m)^caddy starpod run .*--secret ` + name + `@.* -- `).MatchString(step.Run) {
						t.Errorf("%s: %s is given to %s, want it to be a secret of run", b.name(), name, step.Run)
					}
				}
			}
		}
		if secrets == 0 {
			t.Errorf("%s: got no secrets", b.name())
		}
	}
}

// TestPagesDevcontainer compares the dev container with the command that a test runs.
func TestPagesDevcontainer(t *testing.T) {
	t.Parallel()
	podman, err := os.ReadFile("examples/namespace/podman.sh")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, option := range regexp.MustCompile(`--(network|volume|cap-drop|security-opt) (\S+)`).FindAllStringSubmatch(string(podman), -1) {
		want = append(want, "--"+option[1]+"="+option[2])
	}
	found := blocks(t, "json")
	i := slices.IndexFunc(found, func(b block) bool { return b.page == "docs/recipes.md" })
	if i < 0 {
		t.Fatal("the page has none")
	}
	var got struct {
		Image        string
		RunArgs      []string
		ContainerEnv map[string]string
	}
	if err := json.Unmarshal([]byte(found[i].text), &got); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.RunArgs, want) || got.Image == "" || got.ContainerEnv["GITHUB_TOKEN"] == "" {
		t.Errorf("got %+v, want the options %q", got, want)
	}
}
