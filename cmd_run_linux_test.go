package starpod

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// apiAddress is on loopback, but not in NO_PROXY.
const apiAddress = "127.0.0.2"

// echoAPI is an API over TLS that keeps the Authorization fields it receives.
type echoAPI struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string
}

// newAPI starts one and returns with it the flags that let run reach it.
func newAPI(t *testing.T) (api *echoAPI, reach []string) {
	t.Helper()
	api = new(echoAPI)
	pki := testbench.NewPKI(t)
	listener, err := net.Listen("tcp", apiAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	api.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		api.mu.Lock()
		defer api.mu.Unlock()
		api.seen = append(api.seen, r.Header.Get("Authorization"))
	}))
	api.Listener.Close()
	api.Listener = listener
	api.TLS = &tls.Config{Certificates: []tls.Certificate{pki.Leaf(t, apiAddress)}}
	api.StartTLS()
	t.Cleanup(api.Close)
	return api, []string{"--allow", "127.0.0.0/8", "--trust", pki.RootFile(t)}
}

func (a *echoAPI) received() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.seen, "; ")
}

// call calls the API with the variable MY_KEY.
const call = `curl -q -sS -f -H "Authorization: Bearer $MY_KEY" "$URL"`

func runLine(flags []string, command ...string) []string {
	return append(append(append([]string{"run"}, flags...), "--"), command...)
}

func TestCmdRunGivesTokensInPlaceOfValues(t *testing.T) {
	t.Parallel()
	const value = "sk-s3cret-0123456789"
	file := func(text string) string { return writeFile(t, ".env", text) }
	for _, test := range []struct {
		name     string
		flags    []string
		env      []string
		received string
		stderr   string // "" means nothing at all
	}{
		{"from the environment", []string{"--secret", "MY_KEY@" + apiAddress}, []string{"MY_KEY=" + value}, "Bearer " + value, ""},
		{"for another host", []string{"--secret", "MY_KEY@h.test"}, []string{"MY_KEY=" + value}, "Bearer", "tokens not replaced"},
		{"from a file", []string{"--secret", "MY_KEY=file:" + writeFile(t, "key", value+"\r\n") + "@" + apiAddress}, nil, "Bearer " + value, ""},
		{"from a command", []string{"--secret", "MY_KEY=cmd:echo $FROM-0123456789; echo noise >&2@" + apiAddress}, []string{"FROM=sk-s3cret", "MY_KEY=old"}, "Bearer " + value, ""},
		{"for any host", []string{"--secret", "MY_KEY@*"}, []string{"MY_KEY=" + value}, "Bearer " + value, "unrestricted"},
		{"on the command line", []string{"--secret", "MY_KEY=" + value + "@" + apiAddress}, []string{"MY_KEY=old"}, "Bearer " + value, "a value on the command line is public"},
		{"in an env file", []string{"--env-file", file("# hosts: " + apiAddress + "\nMY_KEY=" + value + "\n# plain\nPLAIN=yes\n")}, nil, "Bearer " + value, ""},
		{"in a file for any host", []string{"--env-file", file("# hosts: *\nMY_KEY=" + value + "\n")}, nil, "Bearer " + value, "unrestricted"},
		{"with a key of one's own", []string{"--key-file", newKeyFile(t), "--secret", "MY_KEY@" + apiAddress}, []string{"MY_KEY=" + value}, "Bearer " + value, ""},
		{"quietly", []string{"--quiet", "--secret", "MY_KEY@*"}, []string{"MY_KEY=" + value}, "Bearer " + value, ""},
		{"telling more", []string{"-v", "--secret", "MY_KEY@" + apiAddress}, []string{"MY_KEY=" + value}, "Bearer " + value, "starpod: info: tokens replaced"},
		{"with a data folder", []string{"--data-dir", filepath.Join(t.TempDir(), "d"), "--secret", "MY_KEY@" + apiAddress}, []string{"MY_KEY=" + value}, "Bearer " + value, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			api, reach := newAPI(t)
			got := typed{
				args: runLine(append(reach, test.flags...), "sh", "-c", "env; "+call),
				env:  append(test.env, "URL="+api.URL, "STARPOD_UPSTREAM="),
			}.succeed(t)
			got.holdsNo(t, value)
			if !strings.Contains(got.stdout, "\nMY_KEY=starpod:v1:") && !strings.HasPrefix(got.stdout, "MY_KEY=starpod:v1:") {
				t.Errorf("environment: got %s, want a token", got.stdout)
			}
			if strings.Contains(got.stdout, "STARPOD_UPSTREAM") {
				t.Error("got STARPOD_UPSTREAM in the environment, want it kept away")
			}
			if strings.TrimSpace(api.received()) != test.received {
				t.Errorf("received: got %q, want %q", api.received(), test.received)
			}
			if test.stderr == "" && got.stderr != "" || !strings.Contains(got.stderr, test.stderr) {
				t.Errorf("standard error: got %q, want %q", got.stderr, test.stderr)
			}
		})
	}
}

func TestCmdRunExitStatus(t *testing.T) {
	t.Parallel()
	script := writeFile(t, "not-executable", "#!/bin/sh\n")
	for _, test := range []struct {
		name    string
		command []string
		want    int
		stderr  string
	}{
		{"success", []string{"true"}, 0, ""},
		{"failure", []string{"false"}, 1, ""},
		{"a status of its own", []string{"sh", "-c", "exit 3"}, 3, ""},
		{"ended by SIGTERM", []string{"sh", "-c", "kill -TERM $$"}, 128 + 15, ""},
		{"ended by SIGKILL", []string{"sh", "-c", "kill -KILL $$"}, 128 + 9, ""},
		{"not in PATH", []string{"no-such-command"}, 127, `"no-such-command": executable file not found in $PATH`},
		{"no such file", []string{"/no/such/file"}, 127, "no such file"},
		{"not executable", []string{script}, 126, "permission denied"},
		{"a folder", []string{t.TempDir()}, 126, "is a directory"},
		{"no command", nil, 1, "name a command: caddy starpod run"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := typed{args: runLine(nil, test.command...)}.run(t)
			if got.status != test.want || got.stdout != "" {
				t.Errorf("got status %d and %q, want %d and nothing", got.status, got.stdout, test.want)
			}
			if test.stderr == "" && got.stderr != "" || !strings.Contains(got.stderr, test.stderr) || strings.Count(got.stderr, "\n") > 1 {
				t.Errorf("standard error: got %q, want %q in one line", got.stderr, test.stderr)
			}
		})
	}
}

func TestCmdRunRefuses(t *testing.T) {
	t.Parallel()
	const value = "sk-s3cret"
	file := func(text string) string { return writeFile(t, ".env", text) }
	for _, test := range []struct {
		name  string
		flags []string
		want  string
	}{
		{"a secret without hosts", []string{"--secret", "MY_KEY=" + value}, "name its hosts"},
		{"a value in place of a name", []string{"--secret", value}, "write it as NAME"},
		{"a misspelt flag", []string{"--secrets=MY_KEY=" + value}, "unknown flag: --secrets"},
		{"one dash", []string{"-secret=MY_KEY=" + value}, "unknown shorthand flag"},
		{"a secret given twice", []string{"--secret", "A=" + value + "@h.test", "--env-file", file("# hosts: h.test\nA=" + value)}, "line 2: A is given twice"},
		{"a secret's file that is missing", []string{"--secret", "A=file:/no/such/file@h.test"}, "A: open /no/such/file"},
		{"a secret's file that is empty", []string{"--secret", "A=file:/dev/null@h.test"}, "A: is empty"},
		{"a secret's file without an end", []string{"--secret", "A=file:/dev/zero@h.test"}, "no token holds"},
		{"a command that fails", []string{"--secret", "A=cmd:echo " + value + "; echo " + value + " >&2; exit 3@h.test"}, "A: its command failed: exit status 3"},
		{"a command that prints nothing", []string{"--secret", "A=cmd:cat@h.test"}, "A: is empty"},
		{"a command without an end", []string{"--secret", "A=cmd:yes " + value + "@h.test"}, "no token holds"},
		{"a command without hosts", []string{"--secret", "A=cmd:echo " + value}, "name its hosts"},
		{"an env file that is missing", []string{"--env-file", "/no/such/file"}, "--env-file: open /no/such/file"},
		{"an env file with a mistake", []string{"--env-file", file("A='" + value)}, "line 1: A: the quote is not closed"},
		{"an env file without hosts", []string{"--env-file", file("\nA=" + value)}, "line 2: A: no hosts named"},
		{"an env file with a URL as host", []string{"--env-file", file("# hosts: http://h.test\nA=" + value)}, "line 2: A: write the host alone"},
		{"an env file with an empty secret", []string{"--env-file", file("# hosts: h.test\nA=")}, "line 2: A: is empty"},
		{"a password in --upstream", []string{"--upstream", "http://user:" + value + "@proxy.test:3128"}, "STARPOD_UPSTREAM"},
		{"an upstream that is no URL", []string{"--upstream", "proxy.test:3128"}, "http://host:port"},
		{"an isolation that is none", []string{"--isolation", "moon"}, "choose auto, sealed, veth or env"},
		{"a level that is none", []string{"--log-level", "loud"}, "choose debug, info, warn or error"},
		{"an address range that is none", []string{"--allow", "10.0.0.0/99"}, "write it like 10.0.0.0/8"},
		{"a root that is missing", []string{"--trust", "/no/such.pem"}, "/no/such.pem"},
		{"a site without --attach", []string{"--site", ":8080"}, "go with --attach"},
		{"a rule with --attach", []string{"--attach", "--deny", "*"}, "--deny does not go with --attach"},
		{"veth with --attach", []string{"--attach", "--isolation", "veth"}, "--isolation veth does not go with --attach"},
		{"no Caddy to attach to", []string{"--attach", "--data-dir", "/no/such", "--secret", "A=" + value + "@h.test"}, "no Caddy listens at /no/such/attach.sock: start one with"},
		{"a key that is missing", []string{"--key-file", "/no/such/key"}, "caddy starpod keygen"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := typed{args: runLine(test.flags, "echo", "started")}.run(t)
			if got.status != 1 || got.stdout != "" || !strings.Contains(got.stderr, test.want) {
				t.Errorf("got status %d, %q and %q, want 1 and %q", got.status, got.stdout, got.stderr, test.want)
			}
			got.holdsNo(t, value)
		})
	}
}

func TestCmdRunWarnsOfCopies(t *testing.T) {
	t.Parallel()
	got := typed{
		args: runLine([]string{"--secret", "MY_KEY@h.test"}, "true"),
		env:  []string{"MY_KEY=sk-s3cret", "DB_URL=postgres://u:sk-s3cret@db/"},
	}.succeed(t)
	got.holdsNo(t, "sk-s3cret")
	if strings.Count(got.stderr, "\n") != 1 || !strings.Contains(got.stderr, `"variable": "DB_URL"`) {
		t.Errorf("got %q, want one warning that names DB_URL", got.stderr)
	}
	short := typed{args: runLine([]string{"--secret", "MY_KEY@h.test"}, "true"), env: []string{"MY_KEY=1234", "OTHER=12345"}}.succeed(t)
	if short.stderr != "" {
		t.Errorf("short value: got %q, want no warning", short.stderr)
	}
}

func TestCmdRunWarnsOfAnOpenEnvFile(t *testing.T) {
	t.Parallel()
	path := writeFile(t, ".env", "GITHUB_TOKEN=x\n")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	got := typed{args: runLine([]string{"--env-file", path}, "true")}.succeed(t)
	if !strings.Contains(got.stderr, "chmod 600 "+path) {
		t.Errorf("got %q, want the chmod", got.stderr)
	}
}

func TestCmdRunAllowAndDenyDecideInOrder(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		rules []string
		want  string // what the API received
	}{
		{"allowed first", []string{"--allow", apiAddress, "--deny", "127.0.0.0/8"}, "Bearer v"},
		{"denied first", []string{"--deny", "127.0.0.0/8", "--allow", apiAddress}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			api, reach := newAPI(t)
			typed{
				args: runLine(append(append(test.rules, reach...), "--secret", "MY_KEY@"+apiAddress), "sh", "-c", call),
				env:  []string{"MY_KEY=v", "URL=" + api.URL},
			}.run(t)
			if api.received() != test.want {
				t.Errorf("received: got %q, want %q", api.received(), test.want)
			}
		})
	}
}

func TestCmdRunSendsThroughAnUpstream(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host + " " + r.Header.Get("Proxy-Authorization")
		w.WriteHeader(http.StatusForbidden)
	}))
	defer upstream.Close()
	got := typed{
		args: runLine(nil, "sh", "-c", `env; curl -q -sS https://api.example.com/; true`),
		env:  []string{"STARPOD_UPSTREAM=" + strings.Replace(upstream.URL, "://", "://user:pa55word@", 1)},
	}.succeed(t)
	got.holdsNo(t, "pa55word")
	select {
	case line := <-asked:
		if line != "CONNECT api.example.com:443 Basic dXNlcjpwYTU1d29yZA==" {
			t.Errorf("got %q, want a CONNECT with the credentials", line)
		}
	default:
		t.Errorf("got no request, want one; standard error:\n%s", got.stderr)
	}
}

func TestCmdRunPassesStandardInputOn(t *testing.T) {
	t.Parallel()
	got := typed{args: runLine(nil, "sh", "-c", "cat; echo done >&2"), stdin: "one\ntwo"}.succeed(t)
	if got.stdout != "one\ntwo" || got.stderr != "done\n" {
		t.Errorf("got %q and %q, want the input and what was written", got.stdout, got.stderr)
	}
}

// What stands behind the command is its own, with and without the dashes.
func TestCmdRunLeavesTheFlagsOfTheCommandAlone(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"run", "--", "echo", "--secret", "x", "--"},
		{"run", "--quiet", "echo", "--secret", "x", "--"},
	} {
		if got := (typed{args: args}).succeed(t); got.stdout != "--secret x --\n" {
			t.Errorf("%q: got %q, want the arguments", args, got.stdout)
		}
	}
}

func TestCmdRunLeavesNoFileBehind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got := typed{args: runLine(nil, "sh", "-c", "exit 3"), env: []string{"TMPDIR=" + dir}}.run(t)
	left, err := os.ReadDir(dir)
	if got.status != 3 || err != nil || len(left) != 0 {
		t.Errorf("got status %d and %v (%v), want 3 and nothing", got.status, left, err)
	}
}

// The parent's /proc files show what it was given and, to a debugger, all it
// knows. Ordinary users run this as themselves, root as nobody.
func TestCmdRunHidesItsProcess(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "starpod-hidden-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	line := runLine([]string{"--secret", "MY_KEY@h.test"}, "sh", "-c",
		`tr '\0' '\n' </proc/self/environ; for f in environ mem maps; do cat /proc/$PPID/$f && echo "could read $f"; done; true`)
	cmd := typed{args: line, env: []string{"MY_KEY=sk-s3cret", "HOME=" + dir, "XDG_DATA_HOME=" + dir}}.prepare(t)
	if os.Geteuid() == 0 {
		binary := filepath.Join(dir, "caddy")
		copyFile(t, self(t), binary)
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		setpriv, err := exec.LookPath("setpriv")
		if err != nil {
			t.Fatalf("looking for setpriv of util-linux: %v", err)
		}
		cmd.Args = append([]string{setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", binary}, cmd.Args[1:]...)
		cmd.Path = setpriv
		cmd.Dir = dir
	}
	out, err := cmd.CombinedOutput()
	text := string(out)
	if err != nil || strings.Contains(text, "could read") || strings.Contains(text, "sk-s3cret") {
		t.Errorf("got %s (%v), want no value and nothing readable", text, err)
	}
	if !strings.Contains(text, "MY_KEY=starpod:v1:") || strings.Count(text, "Permission denied") != 3 {
		t.Errorf("got %s, want the token, and three files that cannot be read", text)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = out.ReadFrom(in); err != nil {
		t.Fatal(fmt.Errorf("copying the test binary: %w", err))
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
