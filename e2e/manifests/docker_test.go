package manifests

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// loadCompose reads the example as `docker compose` does: by the schema of the
// Compose Specification, and then by its sense.
func loadCompose(replace ...string) (*types.Project, error) {
	path := filepath.Join(examples, "docker", "compose.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	text = []byte(strings.NewReplacer(replace...).Replace(string(text)))
	return loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  filepath.Dir(path),
		ConfigFiles: []types.ConfigFile{{Filename: path, Content: text}},
		Environment: types.Mapping{"AGENT_IMAGE": "agent", "API_TOKEN": "starpod:v1:x"},
	})
}

func TestCompose(t *testing.T) {
	project, err := loadCompose()
	if err != nil {
		t.Fatal(err)
	}
	proxy, agent := project.Services["proxy"], project.Services["agent"]
	if !project.Networks["inside"].Internal || project.Networks["outside"].Internal {
		t.Error("want one network without a way out, and one with it")
	}
	if got := agent.NetworksByPriority(); !slices.Equal(got, []string{"inside"}) || agent.NetworkMode != "" || len(agent.Ports) != 0 {
		t.Errorf("got the agent in %v, want it in the network without a way out alone", got)
	}
	if len(proxy.Networks) != 2 || len(proxy.Ports) != 0 {
		t.Errorf("got the proxy in %v with ports %v, want it in both networks, and none published", proxy.Networks, proxy.Ports)
	}
	if len(proxy.Secrets) != 1 || len(agent.Secrets) != 0 || project.Secrets[proxy.Secrets[0].Source].File == "" {
		t.Errorf("got secrets %v and %v, want the key for the proxy alone", proxy.Secrets, agent.Secrets)
	}
	for _, volume := range agent.Volumes {
		if volume.Source != "bundle" || !volume.ReadOnly {
			t.Errorf("got %v for the agent, want no volume but that of the bundle, to read", volume)
		}
	}
	for name, service := range project.Services {
		if !slices.Equal(service.CapDrop, []string{"ALL"}) || !slices.Contains(service.SecurityOpt, "no-new-privileges:true") || service.Privileged || service.Pid != "" {
			t.Errorf("%s has rights that it does not need", name)
		}
	}
	if !proxy.ReadOnly || proxy.HealthCheck == nil || agent.DependsOn["proxy"].Condition != types.ServiceConditionHealthy {
		t.Error("want the proxy on a file system that is read only, and the agent to wait until it works")
	}
	for _, key := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		if got := agent.Environment[key]; got == nil || *got != "http://proxy:8080" {
			t.Errorf("got %s=%v, want the proxy", key, got)
		}
	}
	dockerfile := filepath.Join(proxy.Build.Context, proxy.Build.Dockerfile)
	if _, err := os.Stat(dockerfile); err != nil {
		t.Errorf("got %s (%v), want a Dockerfile", dockerfile, err)
	}
}

// TestComposeSchema is the control: what is wrong does not pass.
func TestComposeSchema(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"an option that does not exist", "read_only:", "readonly:", "readonly"},
		{"a value of another type", "read_only: true", "read_only: [true]", "read_only"},
		{"a network that is not there", "networks: [inside]", "networks: [inner]", "inner"},
		{"a condition that does not exist", "service_healthy", "service_well", "condition"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadCompose(tt.old, tt.new)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %s", err, tt.want)
			}
		})
	}
}

// parseDockerfile reads one as BuildKit does, with what its linter says.
func parseDockerfile(text string) (stages []instructions.Stage, said []string, err error) {
	result, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return nil, nil, err
	}
	warn := func(rule, description, _, message string, _ []parser.Range) {
		said = append(said, rule+": "+message)
	}
	stages, _, err = instructions.Parse(result.AST, linter.New(&linter.Config{Warn: warn}))
	for _, warning := range result.Warnings {
		said = append(said, warning.Short)
	}
	return stages, said, err
}

func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(examples, "docker", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	stages, said, err := parseDockerfile(string(text))
	if err != nil || len(said) != 0 {
		t.Fatalf("got %v and %q, want nothing to say", err, said)
	}
	last := stages[len(stages)-1]
	if last.BaseName != "scratch" {
		t.Errorf("got an image on %s, want one on nothing", last.BaseName)
	}
	user := ""
	for _, command := range last.Commands {
		switch c := command.(type) {
		case *instructions.UserCommand:
			user = c.User
		case *instructions.CopyCommand:
			if c.From == "" {
				checkSources(t, c.SourcePaths)
			}
		}
	}
	if user == "" || strings.HasPrefix(user, "0") || strings.HasPrefix(user, "root") {
		t.Errorf("got user %q, want another than root", user)
	}
	for _, command := range stages[0].Commands {
		if c, ok := command.(*instructions.CopyCommand); ok {
			checkSources(t, c.SourcePaths)
		}
	}
	for name, wrong := range map[string]string{
		"an instruction that does not exist": strings.Replace(string(text), "EXPOSE", "EXPOSES", 1),
		"a stage without a base":             strings.Replace(string(text), "FROM scratch\n", "FROM\n", 1),
		"an option that does not exist":      strings.Replace(string(text), "COPY --from=build", "COPY --form=build", 1),
	} {
		if _, _, err := parseDockerfile(wrong); err == nil {
			t.Errorf("%s passes, want an error", name)
		}
	}
}

// checkSources sees that what is copied is in the repository, and holds no keys:
// neither all of the folder, nor those that keys are kept in.
func checkSources(t *testing.T, paths []string) {
	t.Helper()
	for _, path := range paths {
		found, err := filepath.Glob(filepath.Join(examples, "..", path))
		if err != nil || len(found) == 0 || path == "." || strings.HasPrefix(path, ".starpod") {
			t.Errorf("COPY %s: got %d files (%v)", path, len(found), err)
		}
	}
}
