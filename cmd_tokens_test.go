package starpod

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var tokenLine = regexp.MustCompile(`^starpod:v1:[A-Za-z0-9+/]+=*\n$`)

func TestCmdKeygen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env := []string{"XDG_DATA_HOME=" + dir}
	got := typed{args: []string{"keygen"}, env: env}.succeed(t)
	want := filepath.Join(dir, "caddy", "starpod", ".vault_key")
	if got.stdout != want+"\n" || !strings.Contains(got.stderr, "caddy starpod seal --name") {
		t.Errorf("got %q and %q, want the path and what to do next", got.stdout, got.stderr)
	}
	info, err := os.Stat(want)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v (%v), want mode 0600", info, err)
	}
	before, _ := os.ReadFile(want)
	again := typed{args: []string{"keygen"}, env: env}.run(t)
	after, _ := os.ReadFile(want)
	if again.status != 1 || !strings.Contains(again.stderr, "it is kept") || string(before) != string(after) {
		t.Errorf("again: got status %d and %q, want a refusal and the same file", again.status, again.stderr)
	}
	// The default is found by the others.
	token := typed{args: []string{"seal", "--name", "GITHUB_TOKEN"}, env: env, stdin: "v"}.succeed(t).stdout
	shown := typed{args: []string{"inspect", token}, env: env}.succeed(t).stdout
	if !strings.Contains(shown, "api.github.com") {
		t.Errorf("got %q, want the known host", shown)
	}
}

func TestCmdSealAndInspect(t *testing.T) {
	t.Parallel()
	key := newKeyFile(t)
	day := time.Now().AddDate(0, 0, 2).UTC().Format(time.DateOnly)
	for _, test := range []struct {
		name   string
		flags  []string
		stdin  string
		value  string
		want   map[string]any // members of the JSON
		stderr string
	}{
		{"hosts by comma and by repetition", []string{"--host", "a.example.com,*.example.org", "--host", "b.example.com:8443"},
			"v", "v", map[string]any{"hosts": []any{"a.example.com", "*.example.org", "b.example.com:8443"}}, ""},
		{"a newline at the end is dropped", []string{"--host", "h.test"}, "v\n", "v", nil, ""},
		{"CRLF at the end is dropped", []string{"--host", "h.test"}, "v\r\n", "v", nil, ""},
		{"one newline only is dropped", []string{"--host", "h.test"}, "v\n\n", "v\n", nil, ""},
		{"a newline is kept on request", []string{"--host", "h.test", "--keep-newline"}, "v\n", "v\n", nil, ""},
		{"a known name in lower case", []string{"--name", "openai_api_key"}, "v", "v",
			map[string]any{"name": "openai_api_key", "hosts": []any{"api.openai.com"}}, ""},
		{"a known name with other hosts", []string{"--name", "OPENAI_API_KEY", "--host", "h.test"}, "v", "v",
			map[string]any{"hosts": []any{"h.test"}}, ""},
		{"no hosts", nil, "v", "v", map[string]any{"hosts": []any{}}, "warning: unrestricted"},
		{"no hosts on purpose", []string{"--host", "*"}, "v", "v", map[string]any{"hosts": []any{}}, ""},
		{"a date", []string{"--host", "h.test", "--expires", day}, "v", "v",
			map[string]any{"expires": day + "T00:00:00Z", "expired": false}, ""},
		{"methods and paths", []string{"--host", "h.test", "--method", "GET,POST", "--path", "/v1/{a,b}", "--path", "/v2/**"}, "v", "v",
			map[string]any{"methods": []any{"GET", "POST"}, "paths": []any{"/v1/{a,b}", "/v2/**"}}, ""},
		{"an empty value on purpose", []string{"--host", "h.test", "--allow-empty"}, "", "", nil, ""},
		{"a value of every kind of letters", []string{"--host", "h.test"}, `a'"$\é<&>` + "\n", `a'"$\é<&>`, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			sealed := typed{args: append([]string{"seal", "--key-file", key}, test.flags...), stdin: test.stdin}.succeed(t)
			if !tokenLine.MatchString(sealed.stdout) {
				t.Errorf("seal: got %q, want a token and a newline", sealed.stdout)
			}
			if test.stderr == "" && sealed.stderr != "" || !strings.Contains(sealed.stderr, test.stderr) {
				t.Errorf("seal: got %q on standard error, want %q", sealed.stderr, test.stderr)
			}
			shown := typed{args: []string{"inspect", "--key-file", key, "--json", "--reveal"}, stdin: sealed.stdout}.succeed(t)
			var got map[string]any
			if err := json.Unmarshal([]byte(shown.stdout), &got); err != nil || got["value"] != test.value {
				t.Errorf("inspect: got %s (%v), want the value %q", shown.stdout, err, test.value)
			}
			for member, want := range test.want {
				if a, b := asJSON(t, got[member]), asJSON(t, want); a != b {
					t.Errorf("%s: got %s, want %s", member, a, b)
				}
			}
		})
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestCmdSealRefuses(t *testing.T) {
	t.Parallel()
	key := newKeyFile(t)
	const value = "sk-very-secret"
	for _, test := range []struct {
		name  string
		args  []string
		stdin string
		want  string
	}{
		{"a value as argument", []string{value, "--key-file", key}, "", "standard input"},
		{"an empty value", []string{"--key-file", key, "--host", "h.test"}, "\n", "--allow-empty"},
		{"a host list that an empty variable made", []string{"--key-file", key, "--host", "", "--name", "GITHUB_TOKEN"}, value, "--host api.example.com"},
		{"a URL as host", []string{"--key-file", key, "--host", "https://h.test/"}, value, "write the host alone"},
		{"a missing key", []string{"--key-file", filepath.Join(t.TempDir(), "none")}, value, "caddy starpod keygen"},
		{"a prefix that is not there", []string{"--key-file", key, "--host", "h.test", "--keep-prefix", "xoxb-"}, value, `does not begin with "xoxb-"`},
		{"nothing behind the prefix", []string{"--key-file", key, "--host", "h.test", "--keep-prefix", value}, value, "is empty"},
		{"a time that has passed", []string{"--key-file", key, "--host", "h.test", "--expires", "2001-01-01"}, value, "has passed"},
		{"a time that is none", []string{"--key-file", key, "--host", "h.test", "--expires", "soon"}, value, "24h"},
		{"a method that is none", []string{"--key-file", key, "--host", "h.test", "--method", "GET /"}, value, "such as GET"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := typed{args: append([]string{"seal"}, test.args...), stdin: test.stdin}.run(t)
			if got.status != 1 || got.stdout != "" || !strings.Contains(got.stderr, test.want) {
				t.Errorf("got status %d, %q and %q, want 1 and %q", got.status, got.stdout, got.stderr, test.want)
			}
			if test.name != "nothing behind the prefix" {
				got.holdsNo(t, value)
			}
		})
	}
}

func TestCmdInspectForPeople(t *testing.T) {
	t.Parallel()
	key, other := newKeyFile(t), newKeyFile(t)
	const value = "xoxb-12345678"
	token := strings.TrimSpace(typed{
		args:  []string{"seal", "--key-file", key, "--name", "SLACK_TOKEN", "--keep-prefix", "xoxb-", "--expires", "24h"},
		stdin: value,
	}.succeed(t).stdout)
	if !strings.HasPrefix(token, "xoxb-starpod:v1:") {
		t.Fatalf("got %q, want the prefix in front", token)
	}
	for _, test := range []struct {
		name   string
		args   []string
		stdin  string
		status int
		want   []string
	}{
		{"as argument", []string{"--key-file", key, token}, "", 0, []string{"SLACK_TOKEN\n", "hosts    slack.com\n", "methods  any\n"}},
		{"from standard input amid blanks", []string{"--key-file", key}, "\n  " + token + " \n", 0, []string{"slack.com"}},
		{"with the old key of two", []string{"--key-file", other, "--key-file", key, token}, "", 0, []string{"slack.com"}},
		{"with another key", []string{"--key-file", other, token}, "", 1, []string{"does not open", "--key-file"}},
		{"cut off", []string{"--key-file", key, token[:len(token)-3]}, "", 1, []string{"copy it again"}},
		{"no token", []string{"--key-file", key, "hello"}, "", 1, []string{"starpod:v1:"}},
		{"with its value", []string{"--key-file", key, "--reveal", token}, "", 0, []string{"value    12345678\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := typed{args: append([]string{"inspect"}, test.args...), stdin: test.stdin}.run(t)
			text := got.stdout
			if test.status != 0 {
				text = got.stderr
			}
			if got.status != test.status {
				t.Errorf("status: got %d, want %d; %s", got.status, test.status, got.stderr)
			}
			for _, want := range test.want {
				if !strings.Contains(text, want) {
					t.Errorf("got %q, want %q in it", text, want)
				}
			}
			if test.name != "with its value" {
				got.holdsNo(t, "12345678")
			}
		})
	}
}

func TestCmdInspectQuotesWhatCouldMoveTheCursor(t *testing.T) {
	t.Parallel()
	key := newKeyFile(t)
	token := typed{args: []string{"seal", "--key-file", key, "--name", "a\x1b[2Jb", "--host", "h.test"}, stdin: "v"}.succeed(t).stdout
	got := typed{args: []string{"inspect", "--key-file", key, token}}.succeed(t).stdout
	if strings.Contains(got, "\x1b") || !strings.Contains(got, `"a\x1b[2Jb"`) {
		t.Errorf("got %q, want the name quoted", got)
	}
}
