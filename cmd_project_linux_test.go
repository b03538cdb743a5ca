package starpod

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// project is a folder with files, and a user who has a home.
type project struct {
	dir  string
	env  []string
	home string
}

func newProject(t *testing.T, files map[string]string) project {
	t.Helper()
	p := project{dir: t.TempDir(), home: t.TempDir()}
	p.env = []string{"HOME=" + p.home, "XDG_DATA_HOME=" + filepath.Join(p.home, "data")}
	p.write(t, files)
	return p
}

func (p project) write(t *testing.T, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(p.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// in types a command in a folder of the project.
func (p project) in(folder string, args ...string) typed {
	return typed{args: args, env: p.env, dir: filepath.Join(p.dir, folder)}
}

const showEnv = "env | grep -E '^(A|B|C|D)=' | cut -c1-13 | sort"

func TestCmdRunTakesDefaultsFromTheProject(t *testing.T) {
	t.Parallel()
	p := newProject(t, map[string]string{
		"starpod.json": `{"secrets": ["A@a.test", "B=cmd:pwd@b.test"], "egress": ["deny *"], "isolation": "env"}`,
		".starpod.env": "# hosts: c.test\nC=sk-s3cret\n# plain\nD=plain\n",
		"deep/er/x":    "",
	})
	p.env = append(p.env, "A=in the environment")
	line := runLine([]string{"-v"}, "sh", "-c", showEnv+`; curl -q -sS "http://127.0.0.2:1/"`)
	if got := p.in("deep/er", line...).run(t); got.status != 1 || got.stdout != "" || !strings.Contains(got.stderr, "caddy starpod approve "+p.dir) {
		t.Errorf("before the approval: got %d, %q, %q, want the command that approves", got.status, got.stdout, got.stderr)
	}
	shown := p.in("deep", "approve").succeed(t)
	shown.holdsNo(t, "sk-s3cret")
	for _, want := range []string{"A for a.test", "B for b.test", `executes "pwd"`, `egress   "deny *"`, `by "env"`, "C for c.test", "sets     D"} {
		if !strings.Contains(shown.stdout, want) {
			t.Errorf("approve: got %s, want %q", shown.stdout, want)
		}
	}
	got := p.in("deep/er", line...).succeed(t)
	if want := "A=starpod:v1:\nB=starpod:v1:\nC=starpod:v1:\nD=plain\n"; !strings.HasPrefix(got.stdout, want) || !strings.Contains(got.stdout, `"rule":"egress"`) {
		t.Errorf("got %s, want %s and a refusal", got.stdout, want)
	}
	if !strings.Contains(got.stderr, "isolation env") && !strings.Contains(got.stderr, "env var mode") {
		t.Errorf("got %s, want isolation env", got.stderr)
	}
	over := p.in("", runLine([]string{"--secret", "C=x-value@h.test"}, "sh", "-c", showEnv)...).succeed(t)
	over.holdsNo(t, "given twice")
	p.write(t, map[string]string{".starpod.env": "# hosts: evil.test\nC=sk-s3cret\n"})
	if got := p.in("", line...).run(t); got.status != 1 || !strings.Contains(got.stderr, ".starpod.env is not approved") {
		t.Errorf("after a change: got %d and %q, want it to be approved again", got.status, got.stderr)
	}
	if got := p.in("", runLine([]string{"--no-project"}, "sh", "-c", showEnv)...).succeed(t); got.stdout != "A=in the envi\n" {
		t.Errorf("without the project: got %s, want its environment alone", got.stdout)
	}
}

// What a repository brings with it does nothing by itself, and little by consent.
func TestCmdRunDistrustsProjects(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string // of approve
	}{
		{"a value", map[string]string{"starpod.json": `{"secrets": ["A=sk-s3cret@evil.test"]}`}, "this file holds no values"},
		{"a file", map[string]string{"starpod.json": `{"secrets": ["A=file:/etc/passwd@evil.test"]}`}, "names no files"},
		{"an unknown member", map[string]string{"starpod.json": `{"trust": ["evil.pem"]}`}, "unknown field"},
		{"no JSON", map[string]string{"starpod.json": `secrets: A`}, "write it as"},
		{"text behind the end", map[string]string{"starpod.json": `{} {}`}, "text behind its end"},
		{"a rule that is none", map[string]string{"starpod.json": `{"egress": ["open *"]}`}, "allow WHERE"},
		{"an isolation that is none", map[string]string{"starpod.json": `{"isolation": "moon"}`}, "choose auto"},
		{"a secret without hosts", map[string]string{".starpod.env": "A=sk-s3cret\n"}, "no hosts named"},
		{"a folder", map[string]string{"starpod.json/x": ""}, "is no file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newProject(t, test.files)
			got := p.in("", "approve").run(t)
			got.holdsNo(t, "sk-s3cret")
			if got.status != 1 || !strings.Contains(got.stderr, test.want) {
				t.Errorf("approve: got %d and %q, want %q", got.status, got.stderr, test.want)
			}
			if got := p.in("", runLine(nil, "true")...).run(t); got.status != 1 || !strings.Contains(got.stderr, "--no-project") {
				t.Errorf("run: got %d and %q, want a refusal", got.status, got.stderr)
			}
		})
	}
}

// A command of starpod.json is what was approved, not what the project makes of it.
func TestCmdRunDoesNotLookForCommandsInTheProject(t *testing.T) {
	t.Parallel()
	p := newProject(t, map[string]string{
		"starpod.json": `{"secrets": ["A=cmd:./token@evil.test"]}`,
		"token":        "#!/bin/sh\necho executed >" + filepath.Join(t.TempDir(), "mark") + "\n",
	})
	if err := os.Chmod(filepath.Join(p.dir, "token"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.in("", "approve").succeed(t)
	got := p.in("", runLine(nil, "true")...).run(t)
	if got.status != 1 || !strings.Contains(got.stderr, "A: its command failed: exit status 127") {
		t.Errorf("got %d and %q, want it not to be found", got.status, got.stderr)
	}
}

func TestCmdApproveFindsNothing(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	if got := p.in("", "approve").run(t); got.status != 1 || !strings.Contains(got.stderr, "no .starpod.env or starpod.json") {
		t.Errorf("got %d and %q, want the names", got.status, got.stderr)
	}
}
