package starpod

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/internal/testbench"
)

// watchRun is a `caddy starpod watch` under way.
type watchRun struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    io.ReadCloser
	lines  *bufio.Scanner
	stderr bytes.Buffer
}

// startWatch starts one, and returns when it has shown the last record before, of
// one line.
func (s *site) startWatch(args ...string) *watchRun {
	s.t.Helper()
	args = append([]string{"watch", "--replay", "1", "--address", fmt.Sprintf("localhost:%d", s.admin)}, args...)
	w := &watchRun{t: s.t, cmd: typed{args: args}.prepare(s.t)}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	w.out, w.lines = out, bufio.NewScanner(out)
	w.cmd.Stderr = &w.stderr
	if err := w.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait()
	})
	w.line() // the one that is replayed
	return w
}

func (w *watchRun) line() string {
	w.t.Helper()
	if !w.lines.Scan() {
		w.t.Fatalf("got the end (%v), want a line", w.lines.Err())
	}
	return w.lines.Text()
}

// end waits for it, and returns what it said to the user.
func (w *watchRun) end() string {
	w.t.Helper()
	if err := w.cmd.Wait(); err != nil {
		w.t.Errorf("got %v, want status 0; standard error:\n%s", err, &w.stderr)
	}
	return w.stderr.String()
}

func TestCmdWatch(t *testing.T) {
	s := startSite(t, siteLines{})
	records.publish(handler.Record{Time: time.Now(), Kind: handler.KindRefused})
	w := s.startWatch()
	s.get(s.client(), s.target("/a/"+s.named("DEPLOY_KEY", "127.0.0.1")))
	s.get(s.client(), "http://10.1.2.3/%1B%5B2J")
	for _, want := range []string{"replaced  200 GET " + s.target("/a/⟨token "), "DEPLOY_KEY ", "refused   403 GET http://10.1.2.3/%1B%5B2J", "egress: ", "mend: "} {
		line := w.line()
		for strings.HasPrefix(line, "           ") { // goes on
			line = w.line()
		}
		if !strings.Contains(line, want) || strings.Contains(line, "\x1b") || strings.Contains(line, canary) {
			t.Errorf("got %q, want %q, without colours or the value", line, want)
		}
	}
	if err := w.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if said := w.end(); said != "" {
		t.Errorf("interrupted: got %q, want silence", said)
	}
}

// TestCmdWatchGoesOn when the server reloads and when it is another process, and
// ends when nobody reads.
func TestCmdWatchGoesOn(t *testing.T) {
	s := newSite(t)
	config := writeFile(t, "Caddyfile", s.caddyfile(siteLines{}))
	stop := s.serveApart(config)
	refuse := func(path string) {
		t.Helper()
		s.get(s.client(), "http://10.1.2.3"+path)
	}
	refuse("/before")
	w := s.startWatch("--json")
	read := func(path string) {
		t.Helper()
		var got handler.Record
		if line := w.line(); json.Unmarshal([]byte(line), &got) != nil || got.Path != path || got.Kind != handler.KindRefused {
			t.Errorf("got %s, want the refusal of %s", line, path)
		}
	}
	refuse("/1")
	read("/1")
	reload := exec.Command(self(t), "reload", "--force", "--adapter", "caddyfile", "--config", config)
	reload.Env = home(t)
	if out, err := reload.CombinedOutput(); err != nil {
		t.Fatalf("reloading: %v\n%s", err, out)
	}
	refuse("/2")
	read("/2")
	stop()
	s.serveApart(config)
	refuse("/3")
	read("/3")
	refuse("/4")
	read("/4")
	w.out.Close()
	refuse("/5")
	if said := w.end(); strings.Count(said, "waiting for it to come back") != 1 || strings.Count(said, "connected again") != 1 {
		t.Errorf("got %q, want both told once", said)
	}
}

// serveApart runs the site in a process of its own until stop is called.
func (s *site) serveApart(config string) (stop func()) {
	s.t.Helper()
	cmd := exec.Command(self(s.t), "run", "--adapter", "caddyfile", "--config", config)
	cmd.Env = home(s.t)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	s.t.Cleanup(stop)
	testbench.Await(s.t, 20*time.Second, func() error {
		response, err := http.Get(fmt.Sprintf("http://localhost:%d/starpod/status", s.admin))
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New("the configuration is not running yet")
		}
		return nil
	})
	return stop
}

func TestCmdWatchWithoutAProxy(t *testing.T) {
	t.Parallel()
	got := typed{args: []string{"watch", "--address", fmt.Sprintf("127.0.0.1:%d", testbench.FreePort(t))}}.run(t)
	if got.status != 1 || !strings.Contains(got.stderr, "--address") || got.stdout != "" {
		t.Errorf("got status %d and %q, want 1 and what to do", got.status, got.stderr)
	}
}

// TestWatchLines: whatever a client makes a record of, its lines are plain, short
// and told apart from others.
func TestWatchLines(t *testing.T) {
	hostile := "\x1b[2J\r\n22:00:00 replaced  200 GET https://bank.test/ \u009b\u202e" + strings.Repeat("mend: run it ", 30)
	token := handler.TokenRecord{ID: "1a2b3c4d", Name: "DEPLOY_KEY", Place: "header", Action: "strip", Reason: "host"}
	for _, test := range []struct {
		name   string
		record handler.Record
		want   string // the lines, if they are few
	}{
		{"stripped", handler.Record{Kind: handler.KindTokens, Method: "GET", Destination: "https://evil.test", Path: "/", Status: 200, Tokens: []handler.TokenRecord{token}},
			"stripped  200 GET https://evil.test/\n         DEPLOY_KEY 1a2b3c4d in header: strip (host)\n"},
		{"unscanned", handler.Record{Kind: handler.KindTokens, Method: "PUT", Destination: "https://h.test", Path: "/", NotScanned: "protobuf"},
			"unscanned -   PUT https://h.test/\n         body not scanned: protobuf\n"},
		{"lost", handler.Record{Kind: handler.KindNamespaceLost, Namespace: "starpod-ns", Reason: "gone"}, "LOST      namespace starpod-ns\n         gone\n"},
		{"missed", missedRecord(7), "missed    7 records, which came too fast; the log has them\n"},
		{"of a hostile client", handler.Record{Kind: handler.KindRefused, Method: hostile, Destination: hostile, Path: hostile, Reason: hostile, Rule: "misdirected", Mend: hostile,
			Tokens: []handler.TokenRecord{{Name: hostile}}}, ""},
		{"of an unknown kind", handler.Record{Kind: hostile, Tokens: make([]handler.TokenRecord, 100)}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out, coloured bytes.Buffer
			err := errors.Join(showLines(&out, false)(test.record.Bounded()), showLines(&coloured, true)(test.record.Bounded()))
			if err != nil {
				t.Fatal(err)
			}
			got := out.String()
			bare := regexp.MustCompile(`\x1b\[3[123]m([^\x1b]*)\x1b\[0m`).ReplaceAllString(coloured.String(), "$1")
			if bare != got || coloured.Len() == out.Len() {
				t.Errorf("on a terminal: got %q, want one word of %q in a colour", &coloured, got)
			}
			if test.want != "" && got[min(len(got), len("15:04:05 ")):] != test.want {
				t.Errorf("got %q, want %q behind the time", got, test.want)
			}
			for i, line := range strings.Split(strings.TrimSuffix(got, "\n"), "\n") {
				if utf8.RuneCountInString(line) > watchWidth || strings.ContainsFunc(line, func(c rune) bool { return !unicode.IsPrint(c) }) {
					t.Errorf("got line %q, want at most %d plain characters", line, watchWidth)
				}
				if i > 0 && !strings.HasPrefix(line, "         ") {
					t.Errorf("got line %q, want it indented", line)
				}
			}
			if lines := strings.Count(got, "\n"); lines > 40 {
				t.Errorf("got %d lines of one record", lines)
			}
		})
	}
}
