package isolation

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netns"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

const (
	ordinaryID   = "12345" // of a user that nobody is
	abstractName = "starpod-test-service"
	apiName      = "api.example.test" // outside4
	evilName     = "evil.example.test"
	canary       = "sk-canary-0123456789abcdef"
)

// modelHosts are the APIs of coding agents, registries those of packages. The
// internet's server can be them.
var (
	modelHosts = []string{"api.anthropic.com", "api.openai.com", "generativelanguage.googleapis.com"}
	registries = []string{"registry.npmjs.org", "pypi.example.com"}
)

// world is the disposable host, and a network namespace behind it that plays the
// internet:
//
//	host                                        internet
//	  10.77.0.1, 2001:db8:1::1  --- out0 ---      10.77.0.2, 2001:db8:1::2
//	  127.0.0.1:53 name server                    203.0.113.1, 2001:db8::1 on lo
//
// Both have servers at many ports that tell where they are.
type world struct {
	dir, openDir       string // openDir is readable for everybody
	caddy, attacker    string
	hiddenFile         string
	bystander          string // process id
	hiddenLink, setuid string
	resolver           *nameServer
	pki                *testbench.PKI
	api                *testbench.Upstream
}

func newWorld(t testing.TB) *world {
	t.Helper()
	onDisposableHost(t)
	w := new(world)
	w.makeFolders(t)
	makeNetworks(t)
	w.resolver = newNameServer(t, map[string]string{apiName: outside4, evilName: outside4})
	for _, port := range []int{9999, 2019} {
		answer(t, "host", listen(t, "tcp", fmt.Sprint(":", port)))
	}
	answer(t, "host", listen(t, "unix", "@"+abstractName))
	answerPackets(t, "host", listenPackets(t, host4+":9998"))
	w.makeInternet(t)
	return w
}

// makeFolders makes files for root and for the ordinary user. t.TempDir is in a
// folder that only its owner may enter.
func (w *world) makeFolders(t testing.TB) {
	t.Helper()
	dir, err := os.MkdirTemp("", "starpod-isolation-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w.dir, w.openDir = dir, filepath.Join(dir, "open")
	w.hiddenFile = filepath.Join(dir, ".env")
	w.hiddenLink, w.setuid = filepath.Join(dir, "env-link"), filepath.Join(dir, "id")
	w.attacker, w.caddy = filepath.Join(dir, "attacker"), caddyBinary(t)
	shell(t, `chmod 755 "$1"; mkdir "$1/open" "$1/tmp"; mkdir -m 700 "$1/data-true" "$1/data-false"; chmod 1777 "$1/open" "$1/tmp"
		printf '# hosts: `+apiName+`\nAPI_KEY=`+canary+`\n' >"$1/.env"; ln -s .env "$1/env-link";
		chmod 600 "$1/.env"; chown `+ordinaryID+` "$1/.env" "$1/data-true"
		cp /usr/bin/id "$1/id"; chmod 4755 "$1/id"; cp /proc/$PPID/exe "$1/attacker"; chmod 755 "$1/attacker"`, dir)
}

// dataDir is hidden, and belongs to root or to the ordinary user.
func (w *world) dataDir(user bool) string { return filepath.Join(w.dir, fmt.Sprint("data-", user)) }

// caddyBinary is the binary under test, built once for all tests.
func caddyBinary(t testing.TB) string {
	t.Helper()
	path, err := buildCaddy()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func buildDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("starpod-isolation-%d", os.Getpid()))
}

var buildCaddy = sync.OnceValues(func() (string, error) {
	if err := os.Mkdir(buildDir(), 0o755); err != nil { // for every user to run
		return "", err
	}
	return testbench.BuildCaddy(buildDir())
})

// makeNetworks furnishes the host, and removes what it made.
func makeNetworks(t testing.TB) {
	t.Helper()
	shell(t, `mount -t tmpfs tmpfs /run; ip link set lo up; ip netns add internet
		ip link add out0 type veth peer name out0 netns internet; ip link set out0 addrgenmode none
		ip addr add `+host4+`/24 dev out0; ip addr add `+host6+`/64 dev out0 nodad; ip link set out0 up
		n='ip -n internet'; $n link set lo up; $n link set out0 addrgenmode none; $n addr add 10.77.0.2/24 dev out0; $n addr add 2001:db8:1::2/64 dev out0 nodad
		$n link set out0 up; $n addr add `+outside4+`/32 dev lo; $n addr add `+outside6+`/128 dev lo nodad
		ip route add default via 10.77.0.2; ip -6 route add default via 2001:db8:1::2
		sysctl -q -w net.ipv4.ping_group_range='0 2147483647' net.ipv4.ip_forward=1
		printf '127.0.0.1 localhost\n::1 localhost\n' >/run/hosts; mount --bind /run/hosts /etc/hosts
		echo 'nameserver 127.0.0.1' >/run/resolv.conf; mount --bind /run/resolv.conf /etc/resolv.conf`)
	t.Cleanup(func() {
		shell(t, `umount /etc/resolv.conf /etc/hosts; ip link del out0; ip netns del internet; umount -l /run`)
	})
}

// makeInternet opens the servers of the namespace that plays the internet.
func (w *world) makeInternet(t testing.TB) {
	t.Helper()
	inNamespace(t, "internet", func() {
		for _, port := range []int{22, 81, 8443} {
			answer(t, "internet", listen(t, "tcp", fmt.Sprint(":", port)))
		}
		for _, port := range []int{53, 443, 9998} {
			for _, address := range []string{outside4, outside6} {
				answerPackets(t, "internet", listenPackets(t, net.JoinHostPort(address, fmt.Sprint(port))))
			}
		}
		w.pki = testbench.NewPKI(t)
		certificate := w.pki.Leaf(t, slices.Concat([]string{apiName, evilName, outside4}, modelHosts, registries)...)
		w.api = testbench.NewUpstreamOn(t, listen(t, "tcp", ":443"), listen(t, "tcp", ":80"), certificate, "h2", "http/1.1")
	})
}

// inNamespace calls f on a thread in the namespace; sockets stay in it.
func inNamespace(t testing.TB, name string, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := netns.GetFromName(name)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netns.Set(here); err != nil {
			panic(err) // no test could go on
		}
	}()
	f()
}

func shell(t testing.TB, script string, args ...string) string {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

func listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(context.Background(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func listenPackets(t testing.TB, address string) net.PacketConn {
	t.Helper()
	packets, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close() })
	return packets
}

// answer tells whoever connects where the server is.
func answer(t testing.TB, place string, listener net.Listener) {
	t.Helper()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.ReadFull(conn, make([]byte, len(question)))
				_, _ = io.WriteString(conn, place+"\n")
			}()
		}
	}()
}

func answerPackets(t testing.TB, place string, packets net.PacketConn) {
	t.Helper()
	go func() {
		buffer := make([]byte, 1500)
		for {
			_, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo([]byte(place+"\n"), from)
		}
	}()
}

// nameServer is the host's, and counts what it is asked.
type nameServer struct {
	mu    sync.Mutex
	asked []string
}

func newNameServer(t testing.TB, table map[string]string) *nameServer {
	t.Helper()
	n := new(nameServer)
	server := &dns.Server{PacketConn: listenPackets(t, "127.0.0.1:53"), Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		q := query.Question[0]
		name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
		n.mu.Lock()
		n.asked = append(n.asked, name)
		n.mu.Unlock()
		reply := new(dns.Msg).SetReply(query)
		address, known := table[name]
		switch {
		case !known:
			reply.Rcode = dns.RcodeNameError
		case q.Qtype == dns.TypeA:
			header := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}
			reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: net.ParseIP(address)})
		}
		_ = w.WriteMsg(reply)
	})}
	go func() { _ = server.ActivateAndServe() }()
	return n
}

// Queries counts those for names that end in suffix.
func (n *nameServer) Queries(suffix string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, name := range n.asked {
		if strings.HasSuffix(name, suffix) {
			count++
		}
	}
	return count
}

// run prepares `caddy starpod run`, by root or by the ordinary user.
func (w *world) run(t testing.TB, user bool, flags []string, command ...string) *exec.Cmd {
	t.Helper()
	args := append([]string{w.caddy, "starpod", "run"}, flags...)
	args = append(append(args, "--"), command...)
	if user {
		args = append([]string{"setpriv", "--reuid=" + ordinaryID, "--regid=" + ordinaryID, "--clear-groups"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = w.openDir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.openDir, "TMPDIR=" + filepath.Join(w.dir, "tmp")}
	return cmd
}
