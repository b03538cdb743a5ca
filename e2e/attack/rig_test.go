//go:build linux

// Package attack throws hostile inputs at the built binary, from outside, and
// looks for the secret value in all that a child, another host or a reader of
// logs could see. Each input says what is to become of it, so that none passes
// because it did not run. `make attack` tells of each.
package attack

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// canary is the value that must not be found. Encoders write it in different
// ways, and it is no part of anything else.
const canary = `sk-canary/7Qw9+"Xz&<Kp>%4=mV2`

// otherCanary belongs to another tool, for the other host.
const otherCanary = `sk-second/1Lr8+"Nd&<Wy>%6=hT5`

// patience is how long an answer may take.
const patience = 5 * time.Second

var (
	buildDir string
	build    = sync.OnceValues(func() (string, error) { return testbench.BuildCaddy(buildDir) })
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "starpod-attack-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
	buildDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// rig is a proxy, a host that may have the value, and one that may not.
type rig struct {
	t         *testing.T
	proxy     *testbench.Caddy
	log       *lockedBuffer
	api, evil *testbench.Upstream
	token     string // of the canary, for the API alone
	tls       *tls.Config
	words     *strings.Replacer // of inputs
}

// newRig starts all of it. The lines stand in starpod_secrets.
func newRig(t *testing.T, lines string) *rig {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	pki := testbench.NewPKI(t)
	r := &rig{t: t, log: new(lockedBuffer), api: testbench.NewUpstream(t, pki), evil: testbench.NewUpstream(t, pki)}
	r.proxy = testbench.StartCaddy(t, pki, testbench.Setup{
		Binary: binary, Log: r.log, Proxy: lines, Options: "debug\n\tmetrics",
		Hosts: []string{testbench.APIHost, testbench.EvilHost, "rebound.starpod.test",
			"10.9.9.9 private.starpod.test", "169.254.169.254 metadata.starpod.test", "::1 six.starpod.test"},
		Site: "log {\n\t\toutput file {$HOME}/access.log\n\t\tformat json\n\t}\n\thandle_errors {\n\t\trespond \"refused: {http.error.message}\" {http.error.status_code}\n\t}",
	})
	r.token = testbench.Seal(t, r.proxy.Key, canary, testbench.APIHost)
	r.tls = &tls.Config{RootCAs: r.proxy.Roots(t)}
	r.words = strings.NewReplacer(
		"{token}", r.token,
		"{api}", fmt.Sprintf("%s:%d", testbench.APIHost, r.api.Port()),
		"{evil}", fmt.Sprintf("%s:%d", testbench.EvilHost, r.evil.Port()),
		"{plain}", fmt.Sprintf("%s:%d", testbench.APIHost, r.api.PlainPort()),
		"{plainevil}", fmt.Sprintf("%s:%d", testbench.EvilHost, r.evil.PlainPort()),
		"{apiport}", fmt.Sprint(r.api.Port()), "{evilport}", fmt.Sprint(r.evil.Port()),
		"{plainport}", fmt.Sprint(r.api.PlainPort()),
		"{proxy}", r.proxy.URL.Host, "{proxyport}", r.proxy.URL.Port(),
	)
	return r
}

// Ways to the proxy.
const (
	direct = ""       // bytes to the proxy itself
	tunnel = "{api}"  // bytes inside an intercepted tunnel to the API
	astray = "{evil}" // inside one to the other host
)

// input is one hostile input.
type input struct {
	class, name string
	via         string
	send        string // with the words of the rig in braces
	want        string // see outcome; several with "|" where it depends on who is faster
	forms       string // in which the value comes back: what is known not to be covered
}

// shoot makes the input and compares what came of it.
func (r *rig) shoot(t *testing.T, in input) {
	t.Helper()
	r.api.Forget()
	r.evil.Forget()
	answer := r.exchange(in.via, r.words.Replace(in.send))
	if got := r.outcome(answer); !slices.Contains(strings.Split(in.want, "|"), got) {
		t.Errorf("outcome: got %q, want %q; the answer:\n%.600s", got, in.want, answer)
	}
	if got := strings.Join(find(answer, canary), ","); got != in.forms {
		t.Errorf("the answer holds the value as %q, want %q:\n%.600s", got, in.forms, answer)
	}
	r.evilGotNothing(t)
}

func (r *rig) evilGotNothing(t *testing.T) {
	t.Helper()
	if forms := find(r.evil.Dump(), canary); len(forms) > 0 {
		t.Errorf("the other host got the value as %v", forms)
	}
}

// outcome is the status of the last answer and, where the proxy refused, the rule;
// else who got what: "200 api=value", "200 evil=nothing", "403 egress", "closed".
func (r *rig) outcome(answer []byte) string {
	status := "closed"
	if i := bytes.LastIndex(answer, []byte("HTTP/1.")); i >= 0 && len(answer) >= i+12 {
		status = string(answer[i+9 : i+12])
	}
	if i := bytes.Index(answer, []byte(`refused: `)); i >= 0 {
		rule, _, _ := strings.Cut(string(answer[i+9:]), ":")
		status += " " + rule
	} else if i := bytes.IndexByte(answer, '{'); i >= 0 {
		var refusal struct{ Rule string }
		if json.NewDecoder(bytes.NewReader(answer[i:])).Decode(&refusal) == nil && refusal.Rule != "" {
			status += " " + refusal.Rule
		}
	}
	for _, host := range []struct {
		name string
		up   *testbench.Upstream
	}{{"api", r.api}, {"evil", r.evil}} {
		if dump := host.up.Dump(); len(bytes.TrimSpace(dump)) > 0 {
			status += " " + host.name + "=" + holds(dump)
		}
	}
	return status
}

func holds(text []byte) string {
	switch {
	case len(find(text, canary)) > 0:
		return "value"
	case bytes.Contains(text, []byte("starpod:")), bytes.Contains(text, []byte("starpod%")):
		return "token"
	}
	return "nothing"
}

// exchange sends bytes and returns all that comes back.
func (r *rig) exchange(via, text string) []byte {
	r.t.Helper()
	conn, refused := r.open(via)
	if conn == nil {
		return refused
	}
	defer conn.Close()
	io.WriteString(conn, text)
	first := make([]byte, 1<<10)
	if half, ok := conn.(*net.TCPConn); ok {
		// Ends a tunnel that the input has opened, and what waits for more.
		defer time.AfterFunc(500*time.Millisecond, func() { half.CloseWrite() }).Stop()
		n, _ := half.Read(first)
		first = first[:n]
		half.CloseWrite()
	} else {
		first = nil
	}
	rest, _ := io.ReadAll(io.LimitReader(conn, 8<<20)) // until it is closed, or patience ends
	return append(first, rest...)
}

// open opens a tunnel to a host, or a connection to the proxy itself. Without a
// connection the bytes are the refusal.
func (r *rig) open(via string) (net.Conn, []byte) {
	r.t.Helper()
	return r.openAs(via, via)
}

func (r *rig) openAs(authority, serverName string) (net.Conn, []byte) {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.proxy.URL.Host)
	if err != nil {
		r.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	if authority == direct {
		return conn, nil
	}
	authority = r.words.Replace(authority)
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	const established = "HTTP/1.1 200 Connection Established\r\n\r\n"
	head := make([]byte, len(established))
	if n, _ := io.ReadFull(conn, head); string(head[:n]) != established {
		rest, _ := io.ReadAll(conn)
		conn.Close()
		return nil, append(head[:n], rest...)
	}
	config := r.tls.Clone()
	config.ServerName, _, _ = strings.Cut(r.words.Replace(serverName), ":")
	secured := tls.Client(conn, config)
	if err := secured.Handshake(); err != nil {
		conn.Close()
		return nil, []byte(err.Error())
	}
	return secured, nil
}

// find tells the forms in which a value is in a text, also in what the text holds
// in gzip or UTF-16.
func find(text []byte, value string) []string {
	found := testbench.FindSecret(text, value)
	for name, form := range wide(value) {
		if bytes.Contains(text, form) {
			found = append(found, name)
		}
	}
	for rest := text; ; {
		i := bytes.Index(rest, []byte{0x1f, 0x8b, 8})
		if i < 0 {
			break
		}
		rest = rest[i:]
		if reader, err := gzip.NewReader(bytes.NewReader(rest)); err == nil {
			plain, _ := io.ReadAll(io.LimitReader(reader, 8<<20))
			for _, form := range testbench.FindSecret(plain, value) {
				found = append(found, form+" in gzip")
			}
		}
		rest = rest[3:]
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// wide returns the value in UTF-16, in both orders.
func wide(value string) map[string][]byte {
	little, big := make([]byte, 0, 2*len(value)), make([]byte, 0, 2*len(value))
	for i := range len(value) {
		little, big = append(little, value[i], 0), append(big, 0, value[i])
	}
	return map[string][]byte{"UTF-16": little, "UTF-16BE": big}
}

// lockedBuffer collects the output of a process while a test reads it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}
