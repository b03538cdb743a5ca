package isolation

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// dockedServer is a Caddy that commands attach to.
type dockedServer struct {
	*exec.Cmd
	world             *world
	user              bool
	config, key, data string
	admin, site       string
}

// attachable prepares one, of root or of the ordinary user. auth is a line of the
// site.
func (w *world) attachable(t testing.TB, user bool, auth string) *dockedServer {
	t.Helper()
	dir, err := os.MkdirTemp(w.dir, "attach-")
	if err != nil {
		t.Fatal(err)
	}
	s := &dockedServer{world: w, user: user, config: dir + "/Caddyfile", key: dir + "/key", data: dir + "/data"}
	s.admin, s.site = fmt.Sprint("127.0.0.1:", testbench.FreePort(t)), fmt.Sprint("127.0.0.1:", testbench.FreePort(t))
	root, err := os.ReadFile(w.pki.RootFile(t))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{
	admin %s
	persist_config off
	starpod {
		data_dir %s
		isolation sealed
	}
}
http://:%s {
	bind 127.0.0.1
	starpod_secrets {
		master_key_file %s
		generate_key
		%s
		egress {
			trust %s/root.pem
		}
	}
}
`, s.admin, s.data, strings.TrimPrefix(s.site, "127.0.0.1:"), s.key, auth, dir)
	for name, content := range map[string]string{"Caddyfile": text, "root.pem": string(root)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shell(t, `chmod 755 "$1"`, dir)
	if user {
		shell(t, `chown `+ordinaryID+` "$1"`, dir)
	}
	s.start(t)
	return s
}

// command is a subcommand of caddy by the user of the server.
func (s *dockedServer) command(args ...string) *exec.Cmd {
	if s.user {
		return exec.Command("setpriv", append([]string{"--reuid=" + ordinaryID, "--regid=" + ordinaryID, "--clear-groups", s.world.caddy}, args...)...)
	}
	return exec.Command(s.world.caddy, args...)
}

func (s *dockedServer) start(t testing.TB) {
	t.Helper()
	s.Cmd = s.command("run", "--adapter", "caddyfile", "--config", s.config)
	home := filepath.Dir(s.config)
	s.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home+"/x", "XDG_CONFIG_HOME="+home+"/x")
	log := new(bytes.Buffer)
	s.Stderr = log
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	cmd := s.Cmd
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
		if strings.Contains(log.String(), canary) || strings.Contains(log.String(), "panic") {
			t.Errorf("got a value or a panic in the log:\n%s", log)
		}
	})
	s.awaitCommands(t, 0)
}

// awaitCommands waits until so many are attached.
func (s *dockedServer) awaitCommands(t testing.TB, n int) {
	t.Helper()
	testbench.Await(t, 30*time.Second, func() error {
		response, err := http.Get("http://" + s.admin + "/starpod/status")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		var status struct{ Attach struct{ Commands int } }
		if err := json.NewDecoder(response.Body).Decode(&status); err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK || status.Attach.Commands != n {
			return fmt.Errorf("got %s and %d commands, want %d", response.Status, status.Attach.Commands, n)
		}
		return nil
	})
}

// reload loads the configuration anew, as `caddy reload --force` does.
func (s *dockedServer) reload(t testing.TB) {
	t.Helper()
	text, err := os.Open(s.config)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPost, "http://"+s.admin+"/load", text)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "text/caddyfile")
	r.Header.Set("Cache-Control", "must-revalidate")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("reloading: %v", err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		t.Fatalf("reloading: %s %s", response.Status, body)
	}
}

func (s *dockedServer) descriptors(t testing.TB) int {
	t.Helper()
	return testbench.ReadUsage(t, s.Process.Pid).FDs
}

func (s *dockedServer) flags(more ...string) []string {
	return append([]string{"--attach", "--data-dir", s.data, "--secret", "API_KEY@" + apiName}, more...)
}

// run prepares an attached command by the server's user.
func (s *dockedServer) run(t testing.TB, flags []string, command ...string) *exec.Cmd {
	t.Helper()
	cmd := s.world.run(t, s.user, flags, command...)
	cmd.Env = append(cmd.Env, "API_KEY="+canary)
	return cmd
}

// held is an attached command that waits for lines to do as they say.
type held struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (s *dockedServer) hold(t testing.TB, flags ...string) *held {
	t.Helper()
	h := &held{Cmd: s.run(t, s.flags(flags...), "sh", "-c", `echo ready; while read -r line; do eval "$line" 2>&1 | tail -n 1; echo "/ end"; done`)}
	var err error
	if h.in, err = h.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := h.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log := new(bytes.Buffer)
	h.out, h.Stderr = bufio.NewReader(out), log
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Process.Kill()
		h.in.Close()
		if t.Failed() {
			t.Logf("a command's log:\n%s", log)
		}
	})
	if line, err := h.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("got %q (%v), want the command to be ready; log:\n%s", line, err, log)
	}
	return h
}

// do returns the last line that came of a script.
func (h *held) do(t testing.TB, script string) string {
	t.Helper()
	fmt.Fprintln(h.in, script)
	var all string
	for {
		line, err := h.out.ReadString('\n')
		text, ended := strings.CutSuffix(line, "/ end\n")
		if all += text; err != nil || ended {
			return strings.TrimSpace(all)
		}
	}
}

// ask calls the API without knowledge of a proxy.
const askAPI = `curl -q -sS --noproxy '*' --max-time 10 -o /dev/null -w '%{http_code}\n' -H "X-Key: $API_KEY" https://` + apiName + `/`

// TestAttach runs commands by the proxy of a running Caddy.
func TestAttach(t *testing.T) {
	w := newWorld(t)
	w.snapshot(t)
	before := w.snapshot(t)
	for _, user := range []bool{false, true} {
		name := map[bool]string{false: "root", true: "user"}[user]
		t.Run(name, func(t *testing.T) {
			s := w.attachable(t, user, "")
			t.Run("swaps", func(t *testing.T) { s.testSwaps(t) })
			t.Run("escapes", func(t *testing.T) { s.testEscapes(t) })
			if user {
				return
			}
			t.Run("reload", func(t *testing.T) { s.testReload(t) })
			t.Run("ends", func(t *testing.T) { s.testEnds(t) })
		})
	}
	t.Run("another user", w.testOtherUser)
	t.Run("environment", w.testAttachedByEnvironment)
	w.compare(t, before)
}

// testSwaps looks at what arrives, by every way that a command can take.
func (s *dockedServer) testSwaps(t *testing.T) {
	const curl = `curl -q -sSf -H "X-Key: $API_KEY" -o /dev/null `
	s.world.api.Forget()
	out, log := output(t, s.run(t, s.flags(), "sh", "-ec", curl+`https://`+apiName+`/proxy
		`+curl+`--noproxy '*' https://`+apiName+`/direct
		`+curl+`--noproxy '*' http://`+apiName+`/plain
		`+curl+`--noproxy '*' https://`+evilName+`/evil
		env`))
	for _, r := range s.world.api.Requests() {
		want := canary
		if r.Path == "/evil" {
			want = ""
		}
		if got := r.Header.Get("X-Key"); got != want {
			t.Errorf("%s: got %q, want %q", r.Path, got, want)
		}
	}
	if n := len(s.world.api.Requests()); n != 4 {
		t.Errorf("got %d requests, want 4", n)
	}
	token := regexp.MustCompile(`(?m)^API_KEY=(starpod:v1:.*)$`).FindStringSubmatch(out)
	if strings.Contains(out+log, canary) || token == nil {
		t.Fatalf("got %s%s, want a token and no value", out, log)
	}
	// The server's key made it.
	inspect := s.command("starpod", "inspect", "--key-file", s.key, "--reveal")
	inspect.Stdin = strings.NewReader(token[1])
	if shown, err := inspect.CombinedOutput(); err != nil || !strings.Contains(string(shown), canary) {
		t.Errorf("got %s (%v), want the server's key to open the token", shown, err)
	}
}

// testEscapes tries what an attached command could do to the proxy it is served by.
func (s *dockedServer) testEscapes(t *testing.T) {
	socket := filepath.Join(s.data, "attach.sock")
	list := []struct {
		attempt
		want string
	}{
		{to("unix", socket), "^(ENOENT|EACCES)$"},
		{to("unix", fmt.Sprintf("/proc/%d/root%s", s.Process.Pid, socket)), "^(EACCES|ENOENT)$"},
		{to("open", s.data), "^0 files$|^EACCES$"},
		{to("open", s.key), "^0 bytes$|^EACCES$"},
		{to("dial", s.admin), refused},
		{to("connect", s.admin), "^HTTP/1.1 403"},
		{to("dial", s.site), refused},
		{to("dial", outside4+":22"), byProxy},
		{to("udp", outside4+":443"), refused},
		{to("open", fmt.Sprintf("/proc/%d/environ", s.Process.Pid)), denied},
		{to("open", "/proc/PARENT/mem"), denied},
		{to("descriptors"), `^\[\]$`},
		{to("capabilities"), `^\[\]$`},
	}
	var tried []attempt
	for _, l := range list {
		tried = append(tried, l.attempt)
	}
	input, err := json.Marshal(tried)
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.run(t, s.flags(), s.world.attacker, attackMode)
	cmd.Stdin = bytes.NewReader(input)
	out, _ := output(t, cmd)
	var results []string
	if err := json.Unmarshal([]byte(out), &results); err != nil || len(results) != len(list) {
		t.Fatalf("got %q (%v), want %d results", out, err, len(list))
	}
	for i, l := range list {
		if !regexp.MustCompile(l.want).MatchString(results[i]) {
			t.Errorf("%v: got %q, want %q", l.attempt, results[i], l.want)
		}
	}
	// A command that another proxy isolates sees the socket, and must not get out by it.
	nested := s.run(t, []string{"--isolation", "sealed", "--secret", "API_KEY@" + apiName},
		s.world.caddy, "starpod", "run", "--attach", "--data-dir", s.data, "--isolation", "env", "--", "echo", "out")
	if text, err := nested.CombinedOutput(); err == nil || !strings.Contains(string(text), "another network namespace") {
		t.Errorf("got %s (%v), want no way out by another proxy's socket", text, err)
	}
}

// testReload reloads under commands that work all the time.
func (s *dockedServer) testReload(t *testing.T) {
	idle := s.descriptors(t)
	cmd := s.run(t, s.flags(), s.world.attacker, steadyMode, "https://"+apiName+"/")
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	other := s.hold(t)
	s.awaitCommands(t, 2)
	for range 20 {
		s.reload(t)
		if got := other.do(t, askAPI); got != "200" {
			t.Errorf("after a reload: got %q, want 200", got)
		}
	}
	input.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("an attached command noticed the reloads: %v\n%s", err, &out)
	}
	other.in.Close()
	_ = other.Wait()
	s.awaitCommands(t, 0)
	testbench.Await(t, 20*time.Second, func() error {
		if now := s.descriptors(t); now > idle+5 {
			return fmt.Errorf("got %d descriptors, %d before", now, idle)
		}
		return nil
	})
}

// testEnds kills one side or the other.
func (s *dockedServer) testEnds(t *testing.T) {
	testbench.Await(t, 20*time.Second, func() error { // connections of earlier tests
		before := s.descriptors(t)
		time.Sleep(200 * time.Millisecond)
		if now := s.descriptors(t); now != before {
			return fmt.Errorf("got %d descriptors and then %d", before, now)
		}
		return nil
	})
	before := s.descriptors(t)
	h := s.hold(t)
	if got := h.do(t, askAPI); got != "200" {
		t.Errorf("got %q, want 200", got)
	}
	h.Process.Kill()
	s.awaitCommands(t, 0)
	if got := h.do(t, askAPI); !strings.HasPrefix(got, "curl:") && !strings.HasSuffix(got, "000") {
		t.Errorf("got %q from a command whose run was killed, want no connection", got)
	}
	testbench.Await(t, 20*time.Second, func() error {
		if now := s.descriptors(t); now > before+1 { // the connection to the API may be kept
			return fmt.Errorf("got %d descriptors, %d before", now, before)
		}
		return nil
	})
	for name, end := range map[string]func(){
		"killed":  func() { s.Process.Kill(); s.Wait() },
		"stopped": func() { stop(t, s.Cmd) },
	} {
		orphan := s.hold(t)
		end()
		if got := orphan.do(t, askAPI); !strings.HasPrefix(got, "curl:") && !strings.HasSuffix(got, "000") {
			t.Errorf("%s: got %q from a command whose Caddy ended, want no connection", name, got)
		}
		orphan.in.Close()
		_ = orphan.Wait()
		if _, err := os.Lstat(filepath.Join(s.data, "attach.sock")); name == "stopped" && err == nil {
			t.Error("stopped: the socket is there, want it removed")
		}
		alone, err := s.run(t, s.flags(), "true").CombinedOutput()
		if err == nil || !strings.Contains(string(alone), "no Caddy listens at ") {
			t.Errorf("%s: got %s (%v), want what to do", name, alone, err)
		}
		s.start(t)
		output(t, s.run(t, s.flags(), "true"))
	}
}

// testOtherUser opens a socket to everybody, and still nobody else may attach.
func (w *world) testOtherUser(t *testing.T) {
	s := w.attachable(t, false, "")
	shell(t, `chmod 755 "$1"; chmod 666 "$1/attach.sock"`, s.data)
	cmd := w.run(t, true, s.flags(), "true")
	cmd.Env = append(cmd.Env, "API_KEY="+canary)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "user "+ordinaryID+" may not attach to the Caddy of user 0") {
		t.Errorf("the user at root's Caddy: got %s (%v), want a refusal", out, err)
	}
	shell(t, `chmod 700 "$1"`, s.data)
	if out, err := w.run(t, true, []string{"--attach", "--data-dir", s.data}, "true").CombinedOutput(); err == nil || !strings.Contains(string(out), "another user") {
		t.Errorf("the user at a closed folder: got %s (%v), want what to do", out, err)
	}
	users := w.attachable(t, true, "")
	root := w.run(t, false, users.flags(), "sh", "-c", askAPI)
	root.Env = append(root.Env, "API_KEY="+canary)
	if out, log := output(t, root); out != "200\n" {
		t.Errorf("root at the user's Caddy: got %s%s, want 200", out, log)
	}
	stop(t, s.Cmd)
	stop(t, users.Cmd)
}

// testAttachedByEnvironment leads a command by variables, with credentials that end
// with it.
func (w *world) testAttachedByEnvironment(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("unknown"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s := w.attachable(t, false, "proxy_auth operator "+string(hash))
	h := s.hold(t, "--isolation", "env")
	proxy := h.do(t, `echo "$HTTPS_PROXY"`)
	const through = `curl -q -sS -o /dev/null -w '%{http_code}\n' -H "X-Key: $API_KEY" https://` + apiName + `/`
	if got := h.do(t, through); got != "200" || w.api.Last(t).Header.Get("X-Key") != canary {
		t.Errorf("got %q through %s, want 200 and the value", got, proxy)
	}
	if got := h.do(t, strings.ReplaceAll(through, "http_code", "http_connect")+` -x http://`+s.site); !strings.Contains(got, "407") {
		t.Errorf("without credentials: got %q, want 407", got)
	}
	h.in.Close()
	_ = h.Wait()
	s.awaitCommands(t, 0)
	out, err := exec.Command("curl", "-q", "-sS", "-x", proxy, "https://"+apiName+"/").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "407") {
		t.Errorf("credentials of a command that ended: got %s (%v), want 407", out, err)
	}
	stop(t, s.Cmd)
}

// BenchmarkAttach tells what `run --attach` costs more than `run` with a proxy of
// its own, both sealed, in milliseconds: the median of all rounds. Use -benchtime
// 20x.
func BenchmarkAttach(b *testing.B) {
	w := newWorld(b)
	s := w.attachable(b, false, "")
	var own, attached []time.Duration
	for b.Loop() {
		own = append(own, timed(b, w.run(b, false, []string{"--isolation", "sealed"}, "true")))
		attached = append(attached, timed(b, s.run(b, s.flags("--isolation", "sealed"), "true")))
	}
	b.ReportMetric(milliseconds(median(own)), "ms/own")
	b.ReportMetric(milliseconds(median(attached)), "ms/attached")
	b.ReportMetric(0, "ns/op")
}
