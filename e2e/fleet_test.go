//go:build linux

package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/internal/testbench"
)

// fleetSize is how many instances there are.
const fleetSize = 3

// TestFleet runs instances with examples/fleet.Caddyfile behind a balancer, as
// docs/scaling.md tells to: one authority, keys that change and instances that are
// restarted under load, and one that is killed and comes back.
func TestFleet(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	upstream.HandleStream("/hash", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, hashOf(r.Header.Get("X-Key")))
	}))
	f := newFleet(t, pki, raceBinary(t))
	f.startTogether(t)
	balancer := f.balance(t)

	value := newValue()
	token := testbench.Seal(t, f.key, value, testbench.APIHost)
	f.checkEach(t, upstream, token, value)
	f.checkOneAuthority(t)
	f.checkCurl(t, balancer, upstream, token, value)

	load := f.load(t, balancer, upstream, token, value)
	load.awaitMore(t, 100)
	f.changeKeys(t, upstream, token, value)
	f.restartEach(t, balancer, load)
	load.awaitMore(t, 100)

	victim := f.members[1]
	lost := balancer.kill(t, 1, victim)
	load.awaitMore(t, 200)
	victim.Start(t)
	before := balancer.handed(1)
	testbench.Await(t, time.Minute, func() error {
		if n := balancer.handed(1) - before; n < 20 {
			return fmt.Errorf("got %d connections to the instance that came back, want more", n)
		}
		return nil
	})
	f.checkEach(t, upstream, token, value)
	f.checkOneAuthority(t)
	sent, cut := load.stop()
	t.Logf("%d requests, %d cut by the kill, which met %d connections; the instances were handed %d, %d and %d",
		sent, cut, lost, balancer.handed(0), balancer.handed(1), balancer.handed(2))
	if lost == 0 {
		t.Error("the kill met no connection, so it showed nothing")
	}
	for i, s := range f.members {
		if !strings.Contains(s.log.String(), `"client":"`+behindBalancer+`:`) {
			t.Errorf("instance %d does not know its clients behind the balancer", i)
		}
		for what, secret := range map[string]string{"the value": value, "the key": string(f.key)} {
			if found := testbench.FindSecret([]byte(s.log.String()), secret); len(found) > 0 {
				t.Errorf("the log of instance %d holds %s as %v", i, what, found)
			}
		}
	}
}

// TestFleetStartsTogether: of instances that start at once on a storage that is empty
// one makes the authority, and all have that one.
func TestFleetStartsTogether(t *testing.T) {
	t.Parallel()
	pki := testbench.NewPKI(t)
	upstream := testbench.NewUpstream(t, pki)
	upstream.HandleStream("/hash", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, hashOf(r.Header.Get("X-Key")))
	}))
	for round := range 4 {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			f := newFleet(t, pki, plainBinary(t))
			f.startTogether(t)
			value := newValue()
			f.checkEach(t, upstream, testbench.Seal(t, f.key, value, testbench.APIHost), value)
			f.checkOneAuthority(t)
		})
	}
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// fleet is instances that share a storage and their keys.
type fleet struct {
	dir     string // holds what they share
	key     []byte // in all three files at first
	members []*server
}

// keySlots are the key files of the example, in their order.
var keySlots = []string{"current", "next", "old"}

// newFleet prepares instances, none of which runs yet.
func newFleet(t *testing.T, pki *testbench.PKI, binary string) *fleet {
	t.Helper()
	f := &fleet{dir: testbench.ShortDir(t), key: randomKey()}
	if err := os.Mkdir(f.path("keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, slot := range keySlots {
		write(t, f.path("keys/"+slot), f.key)
	}
	write(t, f.path("upstream.pem"), pki.RootPEM)
	for range fleetSize {
		s := newServer(t)
		s.Caddy = testbench.PrepareCaddy(t, testbench.Setup{
			Binary: binary, Log: s.log,
			Hosts: []string{testbench.APIHost},
		})
		write(t, s.Path("Caddyfile"), f.caddyfile(t, s))
		f.members = append(f.members, s)
	}
	return f
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

// caddyfile is that of the example, with the places and addresses of the test.
func (f *fleet) caddyfile(t *testing.T, s *server) []byte {
	t.Helper()
	root, err := testbench.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile(filepath.Join(root, "examples", "fleet.Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(example)
	for _, change := range [][2]string{
		{"unix//run/caddy-admin.sock", "unix/" + s.Path("admin.sock")},
		{"/srv/starpod", f.path("storage")},
		{"/var/lib/starpod", s.Path("starpod")},
		{"/etc/starpod/keys", f.path("keys")},
		{"allow 10.0.0.0/8", "allow 127.0.0.0/8"},
		{"http://:8080 {", fmt.Sprintf("http://:%s {\n\tbind 127.0.0.1", s.URL.Port())},
		{"starpod_secrets {", "starpod_secrets {\n\t\tegress {\n\t\t\tallow 127.0.0.0/8\n\t\t\ttrust " + f.path("upstream.pem") + "\n\t\t}"},
	} {
		if !strings.Contains(text, change[0]) {
			t.Fatalf("examples/fleet.Caddyfile has no %q", change[0])
		}
		text = strings.ReplaceAll(text, change[0], change[1])
	}
	return []byte(text)
}

// startTogether starts all instances before it waits for any.
func (f *fleet) startTogether(t *testing.T) {
	t.Helper()
	for _, s := range f.members {
		s.Launch(t)
	}
	for _, s := range f.members {
		s.AwaitListening(t)
	}
}

// root is the authority in the storage, which is all that clients trust.
func (f *fleet) root(t *testing.T) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(f.path("storage/pki/authorities/fleet/root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("the root in the storage: got %q, want a certificate", text)
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatalf("the root in the storage: %v", err)
	}
	return root
}

// transport is that of a client that trusts the root alone.
func (f *fleet) transport(t *testing.T, proxy *url.URL, protocols *http.Protocols) *http.Transport {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(f.root(t))
	transport := &http.Transport{
		Proxy: http.ProxyURL(proxy), Protocols: protocols, TLSClientConfig: &tls.Config{RootCAs: pool},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// ask sends one request with a token, and fails unless the upstream was given the value.
func ask(ctx context.Context, transport *http.Transport, upstream *testbench.Upstream, token, value string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, upstream.URL(testbench.APIHost)+"/hash", nil)
	if err != nil {
		return err
	}
	r.Header.Set("X-Key", token)
	response, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || string(answer) != hashOf(value) {
		return fmt.Errorf("got %d %.200s, want 200 and the hash of the value", response.StatusCode, answer)
	}
	return nil
}

// checkEach asks each instance by itself.
func (f *fleet) checkEach(t *testing.T, upstream *testbench.Upstream, token, value string) {
	t.Helper()
	for i, s := range f.members {
		for _, protocols := range []*http.Protocols{only((*http.Protocols).SetHTTP1), only((*http.Protocols).SetHTTP2)} {
			if err := ask(t.Context(), f.transport(t, s.URL, protocols), upstream, token, value); err != nil {
				t.Errorf("instance %d over %s: %v", i, protocols, err)
			}
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// checkOneAuthority compares what each instance tells its clients to trust.
func (f *fleet) checkOneAuthority(t *testing.T) {
	t.Helper()
	want := ca.Fingerprint(f.root(t))
	for i, s := range f.members {
		var status struct {
			CA struct{ Fingerprint, Bundle string }
		}
		if err := json.Unmarshal(s.get(t, "/starpod/status"), &status); err != nil {
			t.Fatal(err)
		}
		if status.CA.Fingerprint != want {
			t.Errorf("instance %d: got the authority %s, want %s", i, status.CA.Fingerprint, want)
		}
		content, err := ca.ReadBundle(status.CA.Bundle, []*x509.Certificate{f.root(t)})
		if err != nil || len(content.Lacks) > 0 {
			t.Errorf("instance %d: its bundle lacks the root (%v)", i, err)
		}
	}
}

// checkCurl has a client that takes the balancer from its environment meet every
// instance.
func (f *fleet) checkCurl(t *testing.T, b *balancer, upstream *testbench.Upstream, token, value string) {
	t.Helper()
	for range fleetSize {
		curl := testbench.Command(t, "curl", "-sS", "-H", "X-Key: "+token, upstream.URL(testbench.APIHost)+"/hash")
		curl.Env = append(cleanEnviron(t), "HTTPS_PROXY="+b.url.String(),
			"CURL_CA_BUNDLE="+f.path("storage/pki/authorities/fleet/root.crt"))
		if out, err := curl.CombinedOutput(); err != nil || string(out) != hashOf(value) {
			t.Errorf("curl: got %s (%v), want the hash of the value", out, err)
		}
	}
	for i := range f.members {
		if b.handed(i) == 0 {
			t.Errorf("the balancer has handed instance %d nothing", i)
		}
	}
}

// changeKeys replaces the key by the steps of docs/scaling.md. All the time tokens of
// the one from before are used, by whatever load there is.
func (f *fleet) changeKeys(t *testing.T, upstream *testbench.Upstream, token, value string) {
	t.Helper()
	newKey, newSecret := randomKey(), newValue()
	newToken := testbench.Seal(t, newKey, newSecret, testbench.APIHost)
	f.putKey(t, "next", newKey)
	for i, s := range f.members {
		transport := f.transport(t, s.URL, only((*http.Protocols).SetHTTP1))
		testbench.Await(t, 30*time.Second, func() error {
			if err := ask(t.Context(), transport, upstream, newToken, newSecret); err != nil {
				return fmt.Errorf("instance %d does not open tokens of the next key: %w", i, err)
			}
			return nil
		})
	}
	f.putKey(t, "old", f.key)
	f.putKey(t, "current", newKey)
	seal := testbench.Command(t, raceBinary(t), "starpod", "seal", "--key-file", f.path("keys/current"), "--host", testbench.APIHost)
	seal.Stdin = strings.NewReader(newSecret)
	sealed, err := seal.Output()
	if err != nil {
		t.Fatalf("sealing: %v", err)
	}
	for i, s := range f.members {
		testbench.Await(t, 30*time.Second, func() error {
			if n := strings.Count(s.log.String(), "their keys are in force"); n < 2 {
				return fmt.Errorf("instance %d has taken up %d changes of keys, want both", i, n)
			}
			return nil
		})
	}
	f.checkEach(t, upstream, strings.TrimSpace(string(sealed)), newSecret)
	f.checkEach(t, upstream, token, value)
}

// restartEach replaces one instance after the other, as docs/scaling.md tells to. No
// request may fail.
func (f *fleet) restartEach(t *testing.T, b *balancer, load *fleetLoad) {
	t.Helper()
	for i, s := range f.members {
		b.drain(i)
		load.awaitEach(t) // what was being set up has been used
		s.Stop(t)
		s.Start(t)
		b.admit(i)
	}
}

// putKey replaces a key file in one step.
func (f *fleet) putKey(t *testing.T, slot string, key []byte) {
	t.Helper()
	write(t, f.path("keys/."+slot), key)
	if err := os.Rename(f.path("keys/."+slot), f.path("keys/"+slot)); err != nil {
		t.Fatal(err)
	}
}

// behindBalancer is the address that the balancer says its clients have.
const behindBalancer = "192.0.2.7"

// balancer hands connections to the instances in turn. One that refuses a connection
// is left out; what has been handed over is never sent again.
type balancer struct {
	url     *url.URL
	members []*server
	turn    atomic.Uint64

	mu      sync.Mutex
	routes  map[string]*route // by the client's address
	counts  [fleetSize]int
	drained [fleetSize]bool
	victim  int       // -1 until one is killed
	dead    time.Time // when it was gone
}

// route is where a connection of a client leads.
type route struct {
	member int
	began  time.Time // before the instance was dialled
	used   bool      // as an excuse
}

func (f *fleet) balance(t *testing.T) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	b := &balancer{
		url:     &url.URL{Scheme: "http", Host: listener.Addr().String()},
		members: f.members, routes: make(map[string]*route), victim: -1,
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the test has ended
			}
			go b.serve(conn)
		}
	}()
	return b
}

func (b *balancer) serve(client net.Conn) {
	defer client.Close()
	first := b.turn.Add(1)
	for next := range uint64(fleetSize) {
		i := int((first + next) % fleetSize)
		r := b.begin(client, i)
		if r == nil {
			continue
		}
		instance, err := net.Dial("tcp", b.members[i].URL.Host)
		if err != nil {
			b.forget(client)
			continue
		}
		b.count(i)
		defer b.end(client, r)
		defer instance.Close()
		fmt.Fprintf(instance, "PROXY TCP4 %s 127.0.0.1 40000 %s\r\n", behindBalancer, b.members[i].URL.Port())
		go func() {
			io.Copy(instance, client)
			instance.Close()
		}()
		io.Copy(client, instance)
		return
	}
}

// begin notes that a connection is to lead to an instance; nil if that is left out.
func (b *balancer) begin(client net.Conn, member int) *route {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.drained[member] {
		return nil
	}
	r := &route{member: member, began: time.Now()}
	b.routes[client.RemoteAddr().String()] = r
	return r
}

// forget is told of a connection that no instance has.
func (b *balancer) forget(client net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.routes, client.RemoteAddr().String())
}

// end forgets a connection, unless it may have ended by the kill.
func (b *balancer) end(client net.Conn, r *route) {
	b.mu.Lock()
	killed := r.member == b.victim
	b.mu.Unlock()
	if !killed {
		b.forget(client)
	}
}

func (b *balancer) count(member int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts[member]++
}

// drain leaves an instance out.
func (b *balancer) drain(member int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drained[member] = true
}

// admit takes an instance in again.
func (b *balancer) admit(member int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drained[member] = false
}

// handed is how many connections an instance was given.
func (b *balancer) handed(member int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts[member]
}

// kill ends an instance without warning. lost is how many connections that met; each
// excuses one request.
func (b *balancer) kill(t *testing.T, member int, s *server) (lost int) {
	t.Helper()
	b.mu.Lock()
	b.victim = member
	b.mu.Unlock()
	if err := syscall.Kill(s.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Ended() // its sockets are closed
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = time.Now()
	for _, r := range b.routes {
		if b.met(r) {
			lost++
		}
	}
	return lost
}

// met reports whether a connection led to the instance when it was killed.
func (b *balancer) met(r *route) bool {
	return r.member == b.victim && (b.dead.IsZero() || r.began.Before(b.dead))
}

// excuse reports whether a request may fail for the connection it was on. A
// connection excuses one request.
func (b *balancer) excuse(client string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.routes[client]
	if r == nil || r.used || !b.met(r) {
		return false
	}
	r.used = true
	return true
}

// tell says where a connection leads.
func (b *balancer) tell(client string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.routes[client]
	if r == nil {
		return client + ", which has ended"
	}
	return fmt.Sprintf("%s to instance %d since %s (killed: %d, gone at %s; used %v)", client, r.member,
		r.began.Format("05.000"), b.victim, b.dead.Format("05.000"), r.used)
}

// fleetLoad is requests through the balancer until it is stopped.
type fleetLoad struct {
	sent, cut atomic.Int64
	cancel    context.CancelFunc
	workers   []*worker
	running   sync.WaitGroup
}

// load sends requests over HTTP/1.1 and HTTP/2, over connections that are kept and
// over one for each. All must be answered, but those that the balancer excuses.
func (f *fleet) load(t *testing.T, b *balancer, upstream *testbench.Upstream, token, value string) *fleetLoad {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &fleetLoad{cancel: cancel}
	t.Cleanup(func() { l.stop() })
	for _, protocols := range []*http.Protocols{only((*http.Protocols).SetHTTP1), only((*http.Protocols).SetHTTP2)} {
		for _, fresh := range []bool{false, true} {
			for range 3 {
				transport := f.transport(t, b.url, protocols)
				transport.DisableKeepAlives = fresh
				w := &worker{transport: transport}
				transport.DialContext = w.dial
				l.workers = append(l.workers, w)
				l.running.Go(func() {
					for ctx.Err() == nil && !t.Failed() {
						err := ask(w.traced(), transport, upstream, token, value)
						l.count(t, w, b, err)
						time.Sleep(5 * time.Millisecond) // enough at a time, without taking the whole machine
					}
				})
			}
		}
	}
	return l
}

// worker sends one request after the other by a transport of its own, and knows the
// connection of each: the one that the request was given, or the last that was dialled.
type worker struct {
	transport *http.Transport
	on        atomic.Value // the client's address, a string
	done      atomic.Int64
}

func (w *worker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		w.on.Store(conn.LocalAddr().String())
	}
	return conn, err
}

func (w *worker) traced() context.Context {
	return httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) { w.on.Store(got.Conn.LocalAddr().String()) },
	})
}

// count takes the outcome of a request down. One that failed without an excuse fails
// the test.
func (l *fleetLoad) count(t *testing.T, w *worker, b *balancer, err error) {
	l.sent.Add(1)
	w.done.Add(1)
	if err == nil {
		return
	}
	client, _ := w.on.Load().(string)
	// A transport may have used an older connection to HTTP/2 than it says.
	var failed *net.OpError
	if errors.As(err, &failed) && failed.Source != nil {
		client = failed.Source.String()
	}
	if b.excuse(client) {
		l.cut.Add(1)
		return
	}
	t.Errorf("%s over %s, a connection for each %v, on %s: %v",
		time.Now().Format("05.000"), w.transport.Protocols, w.transport.DisableKeepAlives, b.tell(client), err)
}

// awaitMore waits for some more requests.
func (l *fleetLoad) awaitMore(t *testing.T, n int64) {
	t.Helper()
	before := l.sent.Load()
	testbench.Await(t, time.Minute, func() error {
		if t.Failed() {
			t.FailNow()
		}
		if more := l.sent.Load() - before; more < n {
			return fmt.Errorf("got %d requests, want %d", more, n)
		}
		return nil
	})
}

// awaitEach waits until each worker is done with what it sends now.
func (l *fleetLoad) awaitEach(t *testing.T) {
	t.Helper()
	for _, w := range l.workers {
		before := w.done.Load()
		testbench.Await(t, time.Minute, func() error {
			if w.done.Load() == before && !t.Failed() {
				return errors.New("a request takes too long")
			}
			return nil
		})
	}
}

// stop ends the load. sent is how many requests there were, cut how many of them
// were excused.
func (l *fleetLoad) stop() (sent, cut int64) {
	l.cancel()
	l.running.Wait()
	return l.sent.Load(), l.cut.Load()
}
