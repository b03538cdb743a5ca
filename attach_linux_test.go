package starpod

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/internal/testbench"
	"github.com/starpod/caddy-starpod/netns"
	"github.com/starpod/caddy-starpod/tokens"
)

// newDockedApp is an app with a site at each address, and its dock.
func newDockedApp(t *testing.T, listen ...string) (*App, *dock) {
	t.Helper()
	key, _ := tokens.GenerateKey()
	app := &App{logger: zap.NewNop(), dir: t.TempDir()}
	for _, address := range listen {
		self := func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(address)} }
		proxy := &handler.Proxy{
			Keys:         func() (*tokens.Keyring, error) { return tokens.NewKeyring(key), nil },
			Guard:        &handler.Guard{Self: self},
			Authenticate: func(*http.Request, string, string) bool { return false },
		}
		site := handler.Site{Server: new(caddyhttp.Server), KeyFiles: []string{"/etc/key"}}
		app.proxies = append(app.proxies, attached{proxy, self, site})
	}
	d, err := newDock(filepath.Join(app.dir, attachFile), func() *App { return app }, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Destruct(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	g, err := d.join(app)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.leave(g) })
	return app, d
}

func dialWire(t *testing.T, d *dock) *remote {
	t.Helper()
	r, err := dialDock(d.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.wire.conn.Close() })
	return r
}

// part is one write of a hostile client.
type part struct {
	text  string
	files func(t *testing.T) []*os.File
}

func message(text string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(text)))) + text
}

const greeting = `{"hello":{"version":1}}`

func serveList(sockets ...netns.Socket) string {
	text, _ := json.Marshal(attachRequest{Serve: &attachServe{Sockets: sockets}})
	return message(string(text))
}

// TestHostileAttachment says what each is told, that nothing stays open, and that
// the next command can attach.
func TestHostileAttachment(t *testing.T) {
	_, d := newDockedApp(t, "127.0.0.1:8080")
	tcp := func(role netns.Role) netns.Socket { return netns.Socket{Role: role, Network: "tcp"} }
	udp := netns.Socket{Role: "names", Network: "udp"}
	for _, test := range []struct {
		name  string
		parts []part
		want  string
	}{
		{"another version", []part{{text: message(`{"hello":{"version":7}}`)}}, "use the same build of caddy for both"},
		{"a secret before the greeting", []part{{text: message(`{"seal":{"name":"A","value":"c2s=","hosts":[]}}`)}}, "malformed"},
		{"two greetings", []part{{text: message(greeting)}, {text: message(greeting)}}, "malformed"},
		{"a message that is too long", []part{{text: "\xff\xff\xff\xff"}}, "is the most"},
		{"a message that is cut", []part{{text: message(greeting)[:9]}}, "unexpected EOF"},
		{"another site", []part{{text: message(`{"hello":{"version":1,"site":":9"}}`)}}, "choose one of 127.0.0.1:8080 with --site"},
		{"a host that is none", []part{{text: message(greeting)}, {text: message(`{"seal":{"name":"A","value":"c2s=","hosts":["http://h"]}}`)}}, "host"},
		{"descriptors with a greeting", []part{{message(greeting), listeners(1)}}, "malformed"},
		{"descriptors without a list", []part{{text: message(greeting)}, {serveList(), listeners(3)}}, "3 descriptors came for 0 sockets"},
		{"a list without descriptors", []part{{text: message(greeting)}, {text: serveList(tcp("proxy"))}}, "0 descriptors came for 1 sockets"},
		{"too many descriptors", []part{{text: message(greeting)}, {serveList(tcp("proxy")), listeners(maxAttachSockets + 1)}}, "more than 32 descriptors"},
		{"too many descriptors in two parts", []part{{text: message(greeting)}, {serveList(tcp("proxy"))[:9], listeners(20)}, {serveList(tcp("proxy"))[9:], listeners(20)}}, "more than 32 descriptors"},
		{"a file", []part{{text: message(greeting)}, {serveList(tcp("proxy")), openFile("/dev/null")}}, "it is no internet socket"},
		{"a unix socket", []part{{text: message(greeting)}, {serveList(tcp("proxy")), unixSocketFile}}, "it is no internet socket"},
		{"a TCP socket that does not listen", []part{{text: message(greeting)}, {serveList(tcp("proxy")), socketFile(unix.SOCK_STREAM)}}, "it is no listening TCP socket"},
		{"a UDP socket in the place of TCP", []part{{text: message(greeting)}, {serveList(tcp("proxy")), socketFile(unix.SOCK_DGRAM)}}, "it is no listening TCP socket"},
		{"a listener in the place of UDP", []part{{text: message(greeting)}, {serveList(udp), listeners(1)}}, "it is no UDP socket"},
		{"a UDP socket that is not bound", []part{{text: message(greeting)}, {serveList(udp), socketFile(unix.SOCK_DGRAM)}}, "it is no UDP socket"},
		{"an unknown role", []part{{text: message(greeting)}, {serveList(tcp("admin")), listeners(1)}}, `nobody serves "tcp" for "admin"`},
		{"UDP for the proxy", []part{{text: message(greeting)}, {serveList(netns.Socket{Role: "proxy", Network: "udp"}), listeners(1)}}, `nobody serves "udp" for "proxy"`},
		{"a listener of this machine", []part{{text: message(greeting)}, {serveList(tcp("proxy")), listeners(1)}}, "the socket is not in a namespace of its own"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := testbench.ReadUsage(t, os.Getpid()).FDs
			r, err := dialDock(d.path)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range test.parts {
				var files []*os.File
				if p.files != nil {
					files = p.files(t)
				}
				_ = netns.SendFiles(r.wire.conn, []byte(p.text), files) // it may have been refused by now
				closeFiles(files)
			}
			_ = r.wire.conn.CloseWrite()
			if got := lastAnswer(r); !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			r.wire.conn.Close()
			testbench.Await(t, 10*time.Second, func() error {
				if now := testbench.ReadUsage(t, os.Getpid()).FDs; now > before {
					return errors.New("descriptors are left open")
				}
				return nil
			})
		})
	}
	if _, err := dialWire(t, d).ask(attachRequest{Hello: &attachHello{Version: attachVersion}}, nil); err != nil {
		t.Errorf("a good command after all these: got %v, want no error", err)
	}
}

// lastAnswer is the error of the last answer.
func lastAnswer(r *remote) (text string) {
	for {
		message, files, err := r.wire.receive()
		closeFiles(files)
		if err != nil {
			return text
		}
		var answer attachAnswer
		if json.Unmarshal(message, &answer) == nil {
			text = answer.Error
		}
	}
}

func listeners(n int) func(*testing.T) []*os.File {
	return func(t *testing.T) (files []*os.File) {
		t.Helper()
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		for range n {
			file, err := listener.(*net.TCPListener).File()
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
		return files
	}
}

func openFile(path string) func(*testing.T) []*os.File {
	return func(t *testing.T) []*os.File {
		t.Helper()
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return []*os.File{file}
	}
}

func socketFile(kind int) func(*testing.T) []*os.File {
	return func(t *testing.T) []*os.File {
		t.Helper()
		fd, err := unix.Socket(unix.AF_INET, kind, 0)
		if err != nil {
			t.Fatal(err)
		}
		return []*os.File{os.NewFile(uintptr(fd), "socket")}
	}
}

func unixSocketFile(t *testing.T) []*os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	return []*os.File{os.NewFile(uintptr(fd), "socket")}
}

// TestOutletOfTwoNamespaces passes good sockets that do not belong together.
func TestOutletOfTwoNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	elsewhere := func() *os.File {
		made := make(chan *os.File)
		go func() {
			runtime.LockOSThread() // the thread ends with the goroutine
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Error(err)
			}
			made <- listeners(1)(t)[0]
		}()
		return <-made
	}
	first, second := elsewhere(), elsewhere()
	defer closeFiles([]*os.File{first, second})
	sockets := []netns.Socket{{Role: "wildcard", Network: "tcp"}, {Role: "proxy", Network: "tcp"}}
	for _, test := range []struct {
		name  string
		files []*os.File
		want  string
	}{
		{"two namespaces", []*os.File{first, second}, "another namespace than the others"},
		{"one namespace", []*os.File{first, first}, ""},
	} {
		outlet, err := netns.TakeOutlet(sockets, test.files)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
		if err == nil {
			outlet.Close()
		}
	}
	if _, err := netns.TakeOutlet(sockets[:1], []*os.File{first}); err == nil {
		t.Error("without a socket for the proxy: got no error")
	}
}

// TestAttachedCredentials are known for as long as the command is attached.
func TestAttachedCredentials(t *testing.T) {
	_, d := newDockedApp(t, "127.0.0.1:8080")
	r := dialWire(t, d)
	greeting, err := r.ask(attachRequest{Hello: &attachHello{Version: attachVersion}}, nil)
	if err != nil || !strings.Contains(strings.Join(greeting.Hide, " "), "/etc/key") {
		t.Fatalf("got %v (%v), want the key file among what is hidden", greeting.Hide, err)
	}
	if token, err := r.seal(tokens.Secret{Name: "A", Value: "sk", Hosts: []string{"h.test"}}); err != nil || !strings.HasPrefix(token, tokenPrefix) {
		t.Errorf("got %q (%v), want a token", token, err)
	}
	answer, err := r.ask(attachRequest{Serve: new(attachServe)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	account, address, _ := strings.Cut(strings.TrimPrefix(answer.Proxy, "http://"), "@")
	user, password, _ := strings.Cut(account, ":")
	if address != "127.0.0.1:8080" || !d.knows(user, password) || d.knows(user, "") || d.knows("", "") {
		t.Errorf("got %q, want an account of its own at the site's address", answer.Proxy)
	}
	if got := d.count(); got != 1 {
		t.Errorf("got %d attached commands, want 1", got)
	}
	r.wire.conn.Close()
	testbench.Await(t, 10*time.Second, func() error {
		if d.count() != 0 || d.knows(user, password) {
			return errors.New("the account is known after the end")
		}
		return nil
	})
}

// TestAttachSites finds a site by the ways to write its address.
func TestAttachSites(t *testing.T) {
	_, one := newDockedApp(t, "[::]:8080")
	_, two := newDockedApp(t, "127.0.0.1:8080", "10.0.0.1:9090")
	for _, test := range []struct {
		name string
		dock *dock
		site string
		want string // an error; "" for none
	}{
		{"the only one", one, "", ""},
		{"the only one by its port", one, ":8080", ""},
		{"the only one by an address to reach it", one, "[::1]:8080", ""},
		{"one that is not there", one, ":9090", "no site with starpod_secrets listens on :9090: choose one of [::]:8080"},
		{"none of two", two, "", "several sites have starpod_secrets: choose one of 127.0.0.1:8080, 10.0.0.1:9090 with --site"},
		{"one of two", two, "10.0.0.1:9090", ""},
		{"one of two by URL", two, "http://10.0.0.1:9090/", ""},
		{"one of two by name", two, "localhost:8080", ""},
		{"an address of another", two, "10.0.0.1:8080", "no site"},
	} {
		_, err := test.dock.site(test.site)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
	one.active = func() *App { return nil }
	if _, err := one.site(""); !errors.Is(err, errNoSite) {
		t.Errorf("with another configuration: got %v, want %v", err, errNoSite)
	}
}

// TestDockSocket is about the file.
func TestDockSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long-", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, attachFile)
	old := unix.Umask(0)
	first, err := newDock(path, activeApp, zap.NewNop())
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("got %v (%v), want a socket with mode 0600", info, err)
	}
	if _, err := newDock(path, activeApp, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "give each Caddy a data_dir of its own") {
		t.Errorf("beside another: got %v, want what to do", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := newDock(path, activeApp, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Destruct(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("after the end of the first: got %v, want the socket of the second", err)
	}
	// As after a kill: the file is there, and nobody listens.
	if err := second.listener.Close(); err != nil {
		t.Fatal(err)
	}
	if second, err = newDock(path, activeApp, zap.NewNop()); err != nil {
		t.Fatalf("in the place of a dead one: %v", err)
	}
	if err := second.Destruct(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the end: got %v, want no file", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dialDock(path); err == nil || !strings.Contains(err.Error(), "no Caddy listens at") {
		t.Errorf("dialling a file: got %v, want what to do", err)
	}
}

// TestTooManyAttached turns the next one away, until one has ended.
func TestTooManyAttached(t *testing.T) {
	_, d := newDockedApp(t, "127.0.0.1:8080")
	var held []*remote
	for range maxAttached {
		r := dialWire(t, d)
		if _, err := r.ask(attachRequest{Hello: &attachHello{Version: attachVersion}}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := r.ask(attachRequest{Serve: new(attachServe)}, nil); err != nil {
			t.Fatal(err)
		}
		held = append(held, r)
	}
	hello := attachRequest{Hello: &attachHello{Version: attachVersion}}
	if _, err := dialWire(t, d).ask(hello, nil); err == nil || !strings.Contains(err.Error(), "256 commands are attached already") {
		t.Errorf("got %v, want a refusal", err)
	}
	held[0].wire.conn.Close()
	testbench.Await(t, 10*time.Second, func() error {
		_, err := dialWire(t, d).ask(hello, nil)
		return err
	})
}

// TestAttachedConnsEnd closes what is open, and what comes late.
func TestAttachedConnsEnd(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conns := newAttachedConns()
	wrapped := conns.wrap(listener)
	dial := func() (client, server net.Conn) {
		client, err := new(net.Dialer).DialContext(t.Context(), "tcp4", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		if server, err = wrapped.Accept(); err != nil {
			t.Fatal(err)
		}
		return client, server
	}
	_, done := dial()
	_ = done.Close()
	_ = done.Close() // again: it gives its place up once
	open, server := dial()
	if got := len(conns.slots); got != 1 {
		t.Errorf("got %d places taken, want 1", got)
	}
	if got := server.RemoteAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.1" {
		t.Errorf("got %s as the client's address, want a local one", got)
	}
	conns.close()
	if _, err := io.ReadAll(open); err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("reading: got %v, want the end", err)
	}
	late, err := new(net.Dialer).DialContext(t.Context(), "tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if server, err := wrapped.Accept(); err == nil {
		defer server.Close()
	}
	if n, _ := late.Read(make([]byte, 1)); n != 0 {
		t.Error("got something on a connection that came late, want the end")
	}
}
