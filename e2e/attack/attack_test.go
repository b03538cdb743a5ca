//go:build linux

package attack

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

var testTime = time.Unix(1_700_000_000, 0)

// fewest is how many inputs there are at least.
const fewest = 150

// TestAttacks makes every input and looks for the value, then looks through all
// that the proxy has written or shows to others.
func TestAttacks(t *testing.T) {
	r := newRig(t, "")
	r.script()
	inputs := slices.Concat(connects(), absolutes(), insides(), framings(), places(t, r), damages(t, r), bombs(r), answers(), names())
	if len(inputs) < fewest {
		t.Errorf("inputs: got %d, want %d or more", len(inputs), fewest)
	}
	t.Logf("%d inputs", len(inputs))
	for _, in := range inputs {
		t.Run(in.class+"/"+in.name, func(t *testing.T) { r.shoot(t, in) })
	}
	t.Run("HTTP-2", func(t *testing.T) { r.overHTTP2(t) })
	t.Run("answer over HTTP-2", func(t *testing.T) { r.answersOverHTTP2(t) })
	t.Run("WebSocket", func(t *testing.T) { r.overWebSocket(t) })
	t.Run("two tools", func(t *testing.T) { r.twoTools(t) })
	t.Run("poisoned connection", func(t *testing.T) { r.poisoned(t) })
	t.Run("spool", func(t *testing.T) { r.spooled(t) })
	t.Run("everywhere", func(t *testing.T) { r.lookEverywhere(t) })
	// Last, since the access log has the names of fields.
	hidden := answer("not covered: in a field's name", "/in/name", "200 api=value", "hex")
	t.Run(hidden.class+"/"+hidden.name, func(t *testing.T) { r.shoot(t, hidden) })
}

// TestTheSearchFindsTheValue is the control: what does not hide the value is
// seen, in the answer, and in the log of a handler that is given values.
func TestTheSearchFindsTheValue(t *testing.T) {
	r := newRig(t, "mask_responses off")
	r.script()
	for name, forms := range map[string]string{
		"/as/plain": "raw", "/in/header": "raw", "/in/gzip": "raw in gzip", "/as/reversed": "reversed",
		"/as/hex": "hex", "/as/utf16": "UTF-16", "/in/trailer": "raw", "/in/hints": "raw",
	} {
		answer := r.exchange(tunnel, r.words.Replace("GET "+name+" HTTP/1.1\r\nHost: {api}\r\nX-Key: {token}\r\nTE: trailers\r\nConnection: close\r\n\r\n"))
		if got := find(answer, canary); !slices.Contains(got, forms) {
			t.Errorf("%s: found %v, want %s in it:\n%.300s", name, got, forms, answer)
		}
	}
	// What stands for a log in which a value has been written.
	write := filepath.Join(r.proxy.Dir, "storage", "planted")
	if err := os.MkdirAll(filepath.Dir(write), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(write, []byte(pack("x"+canary)), 0o600); err != nil {
		t.Fatal(err)
	}
	if places := r.search(t, canary); !slices.Contains(places, write) || !slices.Contains(places, filepath.Join(r.proxy.Dir, "home/access.log")) {
		t.Errorf("found in %v, want %s and the access log, which has what answers repeat", places, write)
	}
}

// lookEverywhere wants neither values nor the key in anything that others see.
func (r *rig) lookEverywhere(t *testing.T) {
	t.Helper()
	for name, secret := range map[string]string{"the value": canary, "the other value": otherCanary, "the key": string(r.proxy.Key)} {
		for _, place := range r.search(t, secret) {
			if name != "the key" || place != r.proxy.Path("key") {
				t.Errorf("%s is in %s", name, place)
			}
		}
	}
	log := string(r.log.Bytes())
	for _, want := range []string{`"level":"debug"`, `http.handlers.starpod_secrets.audit`, `tokens not replaced`, `request refused`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s: it was not at DEBUG, or nothing was sent", want)
		}
	}
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, `{"level":"error","msg":"forged"`) || strings.ContainsRune(line, 0x1b) {
			t.Errorf("the log has a line that a client wrote: %.200q", line)
		}
	}
	for _, report := range []string{"panic:", "DATA RACE", "http: panic serving"} {
		if _, text, found := strings.Cut(log, report); found {
			t.Errorf("the proxy failed: %s%.2000s", report, text)
		}
	}
}

// search returns where a secret can be found: in logs, files, the admin API and
// what /proc shows of the process.
func (r *rig) search(t *testing.T, secret string) (places []string) {
	t.Helper()
	look := func(place string, text []byte) {
		if forms := find(text, secret); len(forms) > 0 {
			places = append(places, place)
			t.Logf("found in %s as %v", place, forms)
		}
	}
	look("the log", r.log.Bytes())
	for _, path := range []string{"/config/", "/metrics", "/starpod/status", "/debug/vars", "/debug/pprof/cmdline",
		"/debug/pprof/goroutine?debug=2", "/pki/ca/local", "/reverse_proxy/upstreams"} {
		text, err := r.proxy.Get(path)
		if err != nil {
			t.Fatal(err)
		}
		look("GET "+path, text)
	}
	seen := map[string]bool{}
	err := filepath.WalkDir(r.proxy.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		seen[entry.Name()] = len(text) > 0
		look(path, text)
		return err
	})
	if err != nil || !seen["access.log"] || !seen["autosave.json"] || !seen["proxy-ca.pem"] {
		t.Errorf("looked through %v (%v), want an access log, autosave.json and the authority among them", seen, err)
	}
	for _, name := range []string{"environ", "cmdline", "maps", "status", "stat", "comm"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", r.proxy.Pid, name))
		if err != nil {
			t.Fatal(err)
		}
		look("/proc/PID/"+name, text)
	}
	look("descriptors", []byte(strings.Join(r.descriptors(t, nil), "\n")))
	return places
}

// descriptors returns the names of the proxy's descriptors, and gives the content
// of files without a name to use.
func (r *rig) descriptors(t *testing.T, use func(content []byte)) (names []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", r.proxy.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		name, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		names = append(names, name)
		if strings.HasSuffix(name, "(deleted)") && use != nil {
			if content, err := os.ReadFile(filepath.Join(dir, entry.Name())); err == nil {
				use(content)
			}
		}
	}
	return names
}

// spooled looks into the files of a body that is under way.
func (r *rig) spooled(t *testing.T) {
	r.api.Forget()
	r.evil.Forget()
	conn, refused := r.open(tunnel)
	if conn == nil {
		t.Fatalf("no tunnel: %s", refused)
	}
	defer conn.Close()
	const size = 4 << 20
	fmt.Fprintf(conn, "PUT /sink HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", r.words.Replace("{api}"), size)
	conn.Write([]byte(r.token))
	conn.Write(bytes.Repeat([]byte{'x'}, size-len(r.token)-1))
	testbench.Await(t, patience, func() error {
		var tokens, values int
		r.descriptors(t, func(content []byte) {
			tokens += bytes.Count(content, []byte(r.token))
			values += len(find(content, canary))
		})
		if values > 0 {
			t.Fatalf("a temporary file holds the value")
		}
		if tokens == 0 {
			return fmt.Errorf("no temporary file with the token")
		}
		return nil
	})
	conn.Write([]byte{'x'})
	answer := make([]byte, 1<<10)
	n, _ := conn.Read(answer)
	if got := r.outcome(answer[:n]); got != "200 api=value" {
		t.Errorf("outcome: got %q, want %q", got, "200 api=value")
	}
}
