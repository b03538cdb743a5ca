package testbench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The bench itself has to work before it can judge a proxy: each client reaches
// the upstream directly, at a name only its own hosts file knows.
func TestClientsReachTheUpstream(t *testing.T) {
	pki := NewPKI(t)
	trust := TrustVariables(t, pki.RootFile(t))
	for _, client := range Clients(t) {
		for _, scheme := range []string{"https", "http"} {
			t.Run(client.Name+" "+scheme, func(t *testing.T) {
				t.Parallel()
				upstream := NewUpstream(t, pki)
				upstream.Handle("/", Echo)
				url, proto := upstream.URL(APIHost), client.Proto
				if scheme == "http" {
					url, proto = upstream.PlainURL(APIHost), "HTTP/1.1"
				}
				cmd := Command(t, client.Argv[0], append(client.Argv[1:len(client.Argv):len(client.Argv)], url+"/v1/x?q=1")...)
				cmd.Env = append(withoutProxy(os.Environ()), "HOME="+t.TempDir(), "API_TOKEN=t0ken")
				cmd.Env = append(cmd.Env, trust...)
				out, err := cmd.CombinedOutput()
				if err != nil || string(out) != `{"key":"t0ken"}` {
					t.Fatalf("output: got %q (%v), want the body", out, err)
				}
				got := upstream.Last(t)
				if got.Proto != proto || got.Header.Get("Authorization") != "Bearer t0ken" || got.Target != "/v1/x?q=1" ||
					!strings.HasPrefix(got.Host, APIHost+":") || string(got.Body) != `{"key":"t0ken"}` {
					t.Errorf("got %+v, want %s", got, proto)
				}
			})
		}
	}
}

func TestGitReachesTheUpstream(t *testing.T) {
	pki := NewPKI(t)
	upstream := NewUpstream(t, pki)
	git := NewGit(t, "x-access-token", "pa/ss+w=rd")
	git.Seed(t, "README", "hello\n")
	upstream.HandleStream("/", git)
	dir := t.TempDir()
	cmd := Command(t, "sh", "-ec", `
		git clone -q "$1/demo.git" demo
		cd demo
		cat README
		head -c 2000000 /dev/urandom >large
		echo pushed >NEW
		git add NEW large
		git -c user.name=t -c user.email=t@starpod.test commit -q -m second
		git push -q origin HEAD:main
	`, "sh", "https://x-access-token:pa%2Fss%2Bw%3Drd@"+strings.TrimPrefix(upstream.URL(GitHost), "https://"))
	cmd.Dir = dir
	cmd.Env = append(withoutProxy(os.Environ()), "HOME="+dir, "GIT_TERMINAL_PROMPT=0")
	cmd.Env = append(cmd.Env, TrustVariables(t, pki.RootFile(t))...)
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "hello\n" {
		t.Fatalf("got %q (%v), want the file", out, err)
	}
	if got := git.File(t, "NEW"); got != "pushed\n" {
		t.Errorf("pushed file: got %q", got)
	}
}

func TestGitRefusesWrongCredentials(t *testing.T) {
	pki := NewPKI(t)
	upstream := NewUpstream(t, pki)
	upstream.HandleStream("/", NewGit(t, "x-access-token", "right"))
	cmd := Command(t, "git", "ls-remote", strings.Replace(upstream.PlainURL(GitHost), "://", "://x-access-token:wrong@", 1)+"/demo.git")
	cmd.Env = append(withoutProxy(os.Environ()), "HOME="+t.TempDir(), "GIT_TERMINAL_PROMPT=0")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("got %q, want a refusal", out)
	}
}

func TestCommandLeavesTheMachineAlone(t *testing.T) {
	before, _ := os.ReadFile("/etc/hosts")
	out, err := Command(t, "cat", "/etc/hosts").CombinedOutput()
	if err != nil || !strings.Contains(string(out), APIHost) {
		t.Errorf("inside: got %q (%v)", out, err)
	}
	after, _ := os.ReadFile("/etc/hosts")
	if string(before) != string(after) || strings.Contains(string(after), APIHost) {
		t.Errorf("outside: got %q, want %q", after, before)
	}
}

func TestCommandKeepsTheProcess(t *testing.T) {
	cmd := Command(t, "sh", "-c", "echo $$; exit 7")
	out, err := cmd.Output()
	exit, _ := err.(*exec.ExitError)
	if exit == nil || exit.ExitCode() != 7 || string(out) != fmt.Sprintln(cmd.Process.Pid) {
		t.Errorf("got process %q and %v, want %d and status 7", out, err, cmd.Process.Pid)
	}
}

func TestReadUsage(t *testing.T) {
	before := ReadUsage(t, os.Getpid())
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	held := make([]byte, 64<<20)
	for i := range held {
		held[i] = 1
	}
	got := ReadUsage(t, os.Getpid())
	if got.FDs <= before.FDs || got.Threads == 0 || got.PeakRSS < got.RSS || got.RSS < before.RSS+int64(len(held))/2 {
		t.Errorf("got %+v after %+v", got, before)
	}
	held[0] = 2
	ResetPeak(t, os.Getpid())
}

func withoutProxy(env []string) []string {
	var kept []string
	for _, variable := range env {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasSuffix(strings.ToLower(name), "_proxy") {
			kept = append(kept, variable)
		}
	}
	return kept
}
