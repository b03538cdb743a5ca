package testbench

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BuildCaddy builds the binary of this module into the folder, as the image of
// examples/docker and xcaddy build it, and returns its path. STARPOD_TEST_BINARY_PLAIN
// names one to use instead.
func BuildCaddy(dir string) (string, error) {
	return buildCaddy("STARPOD_TEST_BINARY_PLAIN", filepath.Join(dir, "caddy"), "CGO_ENABLED=0", "-trimpath", "-ldflags=-s")
}

// BuildRaceCaddy builds one with the race detector. STARPOD_TEST_BINARY names one to
// use instead.
func BuildRaceCaddy(dir string) (string, error) {
	return buildCaddy("STARPOD_TEST_BINARY", filepath.Join(dir, "caddy-race"), "CGO_ENABLED=1", "-race")
}

func buildCaddy(instead, output, setting string, flags ...string) (string, error) {
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	// `go test` caches results by the files that the test itself has looked at, and
	// the compiler is another process.
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if path := os.Getenv(instead); path != "" {
		return filepath.Abs(path)
	}
	cmd := exec.Command("go", append(append([]string{"build", "-o", output}, flags...), "./cmd/caddy")...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), setting)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the binary: %w\n%s", err, out)
	}
	return output, nil
}

// Setup says what a [Caddy] is to be like.
type Setup struct {
	Binary  string
	Hosts   []string  // names that it finds at 127.0.0.1
	Options string    // lines for the global options
	Site    string    // lines for the site, beside the proxy
	Proxy   string    // lines for starpod_secrets
	Log     io.Writer // takes standard output and standard error
	Env     []string  // added to its environment
	// Activated has it take its listener from us, as from a systemd socket unit.
	// On sockets of its own Caddy loses connections that nobody has accepted yet
	// when a configuration is replaced (SO_REUSEPORT, socket(7)).
	Activated bool
}

// Caddy is a running `caddy run` with a Caddyfile whose one site is the proxy.
// All that it writes is in Dir, and its admin endpoint is a unix socket there.
type Caddy struct {
	Dir   string
	Key   []byte // the master key
	URL   *url.URL
	Admin *http.Client
	Pid   int

	setup Setup
	cmd   *exec.Cmd
	done  chan struct{}
}

const caddyfile = `{
	%[3]s
	admin unix/%[1]s/admin.sock
	storage file_system %[1]s/storage
	auto_https off
	skip_install_trust
	starpod {
		data_dir %[1]s/starpod
		isolation env
	}
}
:%[2]d {
	bind %[6]s
	%[4]s
	starpod_secrets {
		master_key_file %[1]s/key
		%[5]s
		egress {
			allow 127.0.0.0/8
			trust %[1]s/upstream.pem
		}
	}
}
`

// StartCaddy runs the binary until the test ends.
func StartCaddy(tb testing.TB, pki *PKI, setup Setup) *Caddy {
	tb.Helper()
	c := PrepareCaddy(tb, setup)
	bind := "127.0.0.1"
	if setup.Activated {
		bind = "fd/3"
	}
	for name, content := range map[string][]byte{
		"key": c.Key, "upstream.pem": pki.RootPEM,
		"Caddyfile": fmt.Appendf(nil, caddyfile, c.Dir, c.port(), setup.Options, setup.Site, setup.Proxy, bind),
	} {
		if err := os.WriteFile(c.Path(name), content, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	c.Start(tb)
	return c
}

// PrepareCaddy makes the folder and finds a port, for a Caddyfile that the caller
// writes into Dir. It is to listen at URL, and its admin endpoint at admin.sock in Dir.
func PrepareCaddy(tb testing.TB, setup Setup) *Caddy {
	tb.Helper()
	c := &Caddy{Dir: ShortDir(tb), Key: make([]byte, 32), setup: setup}
	rand.Read(c.Key)
	c.URL = &url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(tb)))}
	c.Admin = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Path("admin.sock"))
		},
		DisableKeepAlives: true,
	}}
	return c
}

// ShortDir is a temporary folder with a path short enough for a unix socket in it (108
// bytes, unix(7)), which those of tb.TempDir are not.
func ShortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "sp-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (c *Caddy) port() int {
	port, _ := strconv.Atoi(c.URL.Port())
	return port
}

// Path is the path of a file in Dir.
func (c *Caddy) Path(name string) string { return filepath.Join(c.Dir, name) }

// Start starts the process, also one that has ended, and waits until it listens.
func (c *Caddy) Start(tb testing.TB) {
	tb.Helper()
	c.Launch(tb)
	c.AwaitListening(tb)
}

// Launch starts the process, and ends it with the test.
func (c *Caddy) Launch(tb testing.TB) {
	tb.Helper()
	c.cmd = CommandKnowing(tb, c.setup.Hosts, c.setup.Binary, "run", "--config", c.Path("Caddyfile"))
	c.cmd.Env = append(c.setup.Env,
		"PATH="+os.Getenv("PATH"), "HOME="+c.Path("home"),
		"XDG_CONFIG_HOME="+c.Path("config"), "XDG_DATA_HOME="+c.Path("data"), "TMPDIR="+c.Path("tmp"),
	)
	if err := os.MkdirAll(c.Path("tmp"), 0o700); err != nil {
		tb.Fatal(err)
	}
	c.cmd.Stdout, c.cmd.Stderr = c.setup.Log, c.setup.Log
	if c.setup.Activated {
		c.cmd.ExtraFiles = []*os.File{listenFile(tb, c.URL.Host)}
	}
	if err := c.cmd.Start(); err != nil {
		tb.Fatalf("starting caddy: %v", err)
	}
	c.Pid = c.cmd.Process.Pid
	cmd, done := c.cmd, make(chan struct{})
	c.done = done
	go func() {
		cmd.Wait()
		close(done)
	}()
	tb.Cleanup(func() { c.Stop(tb) })
}

// AwaitListening waits until the server listens.
func (c *Caddy) AwaitListening(tb testing.TB) {
	tb.Helper()
	Await(tb, time.Minute, func() error {
		if !c.Running() {
			tb.Fatalf("caddy ended with %v", c.cmd.ProcessState)
		}
		conn, err := net.Dial("tcp", c.URL.Host)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// listenFile listens at an address and returns the socket.
func listenFile(tb testing.TB, address string) *os.File {
	tb.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { file.Close() })
	return file
}

// Ended is closed when the process has ended.
func (c *Caddy) Ended() <-chan struct{} { return c.done }

// Running tells whether the process has not ended.
func (c *Caddy) Running() bool {
	select {
	case <-c.Ended():
		return false
	default:
		return true
	}
}

// Stop ends the server as a service manager does and waits for its last line.
func (c *Caddy) Stop(tb testing.TB) {
	tb.Helper()
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(30 * time.Second):
		c.cmd.Process.Kill()
		<-c.done
		tb.Errorf("caddy did not end within 30 s of SIGTERM")
	}
}

// Roots is what clients of the proxy have to trust.
func (c *Caddy) Roots(tb testing.TB) *x509.CertPool {
	tb.Helper()
	pool := x509.NewCertPool()
	Await(tb, 10*time.Second, func() error {
		root, err := os.ReadFile(c.Path("starpod/proxy-ca.pem"))
		if err == nil && !pool.AppendCertsFromPEM(root) {
			err = fmt.Errorf("the proxy's root: got %q, want a certificate", root)
		}
		return err
	})
	return pool
}

// Get asks the admin endpoint and returns the body of the answer, whatever its
// status.
func (c *Caddy) Get(path string) ([]byte, error) {
	resp, err := c.Admin.Get("http://admin" + path)
	if err != nil {
		return nil, fmt.Errorf("asking the admin endpoint for %s: %w", path, err)
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// Reload loads the Caddyfile anew, though nothing in it has changed. Caddy replaces
// its admin endpoint as well, and a question that comes just then ends without an
// answer: it is asked again, as that does no harm.
func (c *Caddy) Reload() error {
	text, err := os.ReadFile(c.Path("Caddyfile"))
	if err != nil {
		return err
	}
	if err = c.load(text); errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		err = c.load(text)
	}
	return err
}

func (c *Caddy) load(text []byte) error {
	req, err := http.NewRequest(http.MethodPost, "http://admin/load", bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate")
	resp, err := c.Admin.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("reload: got %d %q (%v), want 200", resp.StatusCode, strings.TrimSpace(string(body)), err)
	}
	return nil
}

var goroutineTotal = regexp.MustCompile(`^goroutine profile: total (\d+)`)

// Goroutines is how many goroutines the server has.
func (c *Caddy) Goroutines() (int, error) {
	profile, err := c.Get("/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0, err
	}
	total := goroutineTotal.FindSubmatch(profile)
	if total == nil {
		return 0, fmt.Errorf("goroutine profile: got %.200q", profile)
	}
	return strconv.Atoi(string(total[1]))
}
