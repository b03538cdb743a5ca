//go:build linux

package e2e

import (
	"bufio"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// callWithToken sends what is in API_TOKEN and fails on 4xx and 5xx.
const callWithToken = `env; exec curl -sS -f -H "Authorization: Bearer $API_TOKEN" "$URL"`

func TestSecretsCanBeGivenInEachWay(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	for _, test := range []struct {
		name, variable, host string
		flags                func(t *testing.T, value string) []string
		env                  func(value string) []string
	}{
		{
			name: "from the caller's environment", variable: "MY_KEY", host: testbench.APIHost,
			flags: func(*testing.T, string) []string {
				return []string{"--secret", "MY_KEY@other.starpod.test,*.starpod.test"}
			},
			env: func(value string) []string { return []string{"MY_KEY=" + value} },
		},
		{
			name: "on the command line", variable: "MY_KEY", host: testbench.APIHost,
			flags: func(_ *testing.T, value string) []string {
				return []string{"--secret", "MY_KEY=" + value + "@" + testbench.APIHost + "," + testbench.GitHost}
			},
		},
		{
			name: "by a name whose host is known", variable: "GITHUB_TOKEN", host: testbench.GitHubHost,
			flags: func(*testing.T, string) []string { return []string{"--secret", "GITHUB_TOKEN"} },
			env:   func(value string) []string { return []string{"GITHUB_TOKEN=" + value} },
		},
		{
			name: "in an env file", variable: "GITHUB_TOKEN", host: testbench.GitHubHost,
			flags: func(t *testing.T, value string) []string {
				path := filepath.Join(t.TempDir(), ".env")
				if err := os.WriteFile(path, []byte("# keys\nGITHUB_TOKEN="+value+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return []string{"--env-file", path}
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			upstream := testbench.NewUpstream(t, pki)
			// No "@" and no quotes: the command line and env files have rules for those.
			value := strings.NewReplacer(`"`, "", "&", "", "<", "", ">", "", "%", "").Replace(newValue())
			env := []string{"URL=" + upstream.URL(test.host)}
			if test.env != nil {
				env = append(env, test.env(value)...)
			}
			log := sandbox{
				flags:   append(loopback(t, pki), test.flags(t, value)...),
				command: []string{"sh", "-c", strings.ReplaceAll(callWithToken, "API_TOKEN", test.variable)},
				env:     env,
			}.succeed(t)
			log.holdsNo(t, value)
			if got := received(t, upstream, log).Header.Get("Authorization"); got != "Bearer "+value {
				t.Errorf("Authorization: got %q, want %q", got, "Bearer "+value)
			}
		})
	}
}

func TestTheStatusOfTheCommandIsTheStatusOfRun(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, script string
		want         int
	}{
		{"success", "exit 0", 0},
		{"a status of its own", "exit 7", 7},
		{"ended by a signal", "kill -TERM $$", 128 + int(syscall.SIGTERM)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := sandbox{flags: []string{"--isolation", "env"}, command: []string{"sh", "-c", test.script}}.run(t)
			if got.status != test.want {
				t.Errorf("status: got %d, want %d; standard error:\n%s", got.status, test.want, got.stderr)
			}
		})
	}
}

func TestStandardInputAndOutputAreTheCommands(t *testing.T) {
	t.Parallel()
	got := sandbox{
		flags:   []string{"--isolation", "env"},
		command: []string{"sh", "-c", "cat; echo to stderr >&2"},
		stdin:   "line one\nline two",
	}.succeed(t)
	if got.stdout != "line one\nline two" || !strings.Contains(got.stderr, "to stderr\n") {
		t.Errorf("got %q and %q", got.stdout, got.stderr)
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	t.Parallel()
	cmd := sandbox{
		flags:   []string{"--isolation", "env"},
		command: []string{"sh", "-c", `trap 'echo caught; exit 42' TERM; echo ready; while :; do sleep 0.05; done`},
	}.prepare(t)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("first line: got %q, want %q", lines.Text(), "ready")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	lines.Scan()
	caught := lines.Text()
	err = cmd.Wait()
	if caught != "caught" || cmd.ProcessState.ExitCode() != 42 {
		t.Errorf("got %q and %v, want %q and status 42; standard error:\n%s", caught, err, "caught", &stderr)
	}
}

func TestNothingIsSentWhereItMayNotGo(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	for _, test := range []struct {
		name     string
		flags    []string
		upstream *testbench.Upstream
		status   string
	}{
		{"loopback without leave", []string{"--trust", pki.RootFile(t)}, testbench.NewUpstream(t, pki), "403"},
		{"a host that is denied", append([]string{"--deny", testbench.APIHost}, loopback(t, pki)...), testbench.NewUpstream(t, pki), "403"},
		{"a root nobody trusts", []string{"--allow", "127.0.0.0/8"}, testbench.NewUpstream(t, pki), "502"},
		{"an expired certificate", loopback(t, pki), testbench.NewUpstreamWith(t, pki.Expired(t), "h2", "http/1.1"), "502"},
		{"a certificate for another name", loopback(t, pki), testbench.NewUpstreamWith(t, pki.WrongName(t), "h2", "http/1.1"), "502"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			value := newValue()
			got := sandbox{
				flags: append(append([]string{"--isolation", "env"}, test.flags...), "--secret", "API_TOKEN@"+testbench.APIHost),
				command: []string{"sh", "-c",
					`curl -sS -o /dev/null -w '%{http_connect} %{http_code}' -H "Authorization: Bearer $API_TOKEN" "$URL"; true`},
				env: []string{"API_TOKEN=" + value, "URL=" + test.upstream.URL(testbench.APIHost)},
			}.succeed(t)
			got.holdsNo(t, value)
			// Refused is refused, be it at the CONNECT or inside the tunnel.
			if !strings.HasPrefix(got.stdout, test.status) && !strings.HasSuffix(got.stdout, " "+test.status) {
				t.Errorf("status: got %q, want %s; standard error:\n%s", got.stdout, test.status, got.stderr)
			}
			if n := test.upstream.Received(); n != 0 {
				t.Errorf("upstream: got %d bytes, want none", n)
			}
			if test.status == "403" && test.upstream.Accepted() != 0 {
				t.Errorf("upstream: got %d connections, want none", test.upstream.Accepted())
			}
		})
	}
}

func TestTheProxyServesNobodyButItsChild(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	for _, url := range []string{upstream.URL(testbench.APIHost), upstream.PlainURL(testbench.APIHost)} {
		got := sandbox{
			flags: append(loopback(t, pki), "--secret", "API_TOKEN@"+testbench.APIHost),
			command: []string{"sh", "-c",
				`curl -sS -o /dev/null -w '%{http_connect} %{http_code}' -x "http://${HTTP_PROXY#*@}" "$URL"; true`},
			env: []string{"API_TOKEN=" + newValue(), "URL=" + url},
		}.succeed(t)
		if !strings.Contains(got.stdout, "407") || upstream.Accepted() != 0 {
			t.Errorf("%s: got status %q and %d connections, want 407 and none; standard error:\n%s",
				url, got.stdout, upstream.Accepted(), got.stderr)
		}
	}
}

func TestTheEnvironmentOfTheCommand(t *testing.T) {
	t.Parallel()
	got := sandbox{flags: []string{"--isolation", "env"}, command: []string{"env"}}.succeed(t)
	env := map[string]string{}
	for line := range strings.Lines(got.stdout) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		env[name] = value
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		proxy, err := url.Parse(env[name])
		if err != nil || proxy.Scheme != "http" || proxy.User == nil || proxy.Hostname() != "127.0.0.1" || proxy.Port() == "" {
			t.Errorf("%s: got %q (%v), want http://user:password@127.0.0.1:port", name, env[name], err)
		}
	}
	for _, name := range []string{"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
		"GIT_SSL_CAINFO", "PIP_CERT", "npm_config_cafile", "PERL_LWP_SSL_CA_FILE", "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "DENO_CERT",
		"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "NIX_SSL_CERT_FILE", "SYSTEM_WGETRC"} {
		if !filepath.IsAbs(env[name]) {
			t.Errorf("%s: got %q, want an absolute path", name, env[name])
		}
	}
	if env["NODE_USE_ENV_PROXY"] != "1" || !strings.Contains(env["JAVA_TOOL_OPTIONS"], "trustStore") {
		t.Errorf("got NODE_USE_ENV_PROXY=%q JAVA_TOOL_OPTIONS=%q", env["NODE_USE_ENV_PROXY"], env["JAVA_TOOL_OPTIONS"])
	}
}
