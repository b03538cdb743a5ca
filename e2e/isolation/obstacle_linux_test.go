package isolation

import (
	"encoding/binary"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// withoutUserNamespaces runs its arguments in a chroot, where the kernel makes none.
const withoutUserNamespaces = `exec chroot /run/slash env --chdir="$PWD" "$@"`

func makeChroot(t *testing.T) {
	t.Helper()
	// ip netns shares its mounts with copies, which must not go with the copy.
	shell(t, `mkdir /run/slash; mount --rbind / /run/slash; mount --make-rprivate /run/slash`)
	t.Cleanup(func() { shell(t, "umount -l /run/slash") })
}

// TestObstacles runs on hosts that lack something or have firewalls of their own.
func TestObstacles(t *testing.T) {
	w := newWorld(t)
	makeChroot(t)
	shell(t, `mkdir "$1/no-iptables"; for f in /usr/bin/*; do
		case $f in *tables*) ;; *) ln -s "$f" "$1/no-iptables/" ;; esac; done`, w.dir)
	const (
		asUser      = `chroot --userspec=` + ordinaryID + `:` + ordinaryID + ` /run/slash env "$@"`
		noNetAdmin  = `exec chroot /run/slash setpriv --bounding-set=-net_admin --inh-caps=-net_admin env "$@"`
		noIPTables  = `chroot /run/slash env PATH="$DIR/no-iptables" "$@"`
		docker      = `iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER; iptables -A DOCKER-USER -j RETURN`
		endDocker   = `iptables -P FORWARD ACCEPT; iptables -F FORWARD; iptables -F DOCKER-USER; iptables -X DOCKER-USER`
		foreign     = `nft 'table inet foreign { chain forward { type filter hook forward priority 0; policy drop; }; chain output { type filter hook output priority 0; counter; }; }'`
		closed      = `nft 'table inet foreign { chain input { type filter hook input priority 0; policy drop; iif lo accept; }; }'`
		endForeign  = `nft delete table inet foreign`
		allow       = `; nft insert rule inet foreign input iifname "sp-veth*" accept; nft insert rule inet foreign input ct state established accept`
		unreachable = "if another firewall drops it, allow what comes from sp-veth"
	)
	for _, test := range []struct {
		name, isolation string
		enter           string // a script that runs its arguments
		setUp, tearDown string
		status          string // the line that run prints
		flags           []string
		device          string // or what the command finds as its last network device
		refusal         string // or the error
	}{
		{name: "an ordinary user without user namespaces", isolation: "auto", enter: asUser, status: "proxy: env var mode (missing CAP_NET_ADMIN)"},
		{name: "the same, asked for sealed", isolation: "sealed", enter: asUser, refusal: "isolation sealed: "},
		{name: "the same, asked for veth", isolation: "veth", enter: asUser, refusal: "isolation veth: missing CAP_NET_ADMIN"},
		{name: "root without the capability", isolation: "auto", enter: noNetAdmin, status: "proxy: env var mode (missing CAP_NET_ADMIN)"},
		{name: "without iptables", isolation: "auto", enter: noIPTables, status: "proxy: env var mode (iptables not found)"},
		{name: "without iptables, asked for veth", isolation: "veth", enter: noIPTables, refusal: "iptables not found: "},
		{name: "a umask that lets nobody read", isolation: "sealed", enter: `umask 077; exec "$@"`, device: "lo"},
		{name: "the same, as another user", isolation: "veth", flags: []string{"--user", ordinaryID}, enter: `umask 077; exec "$@"`, device: "sp-veth"},
		{name: "root without user namespaces", isolation: "auto", enter: withoutUserNamespaces, device: "sp-veth"},
		{name: "beside Docker", isolation: "veth", enter: `"$@"`, setUp: docker, tearDown: endDocker, device: "sp-veth"},
		{name: "beside rules of nftables", isolation: "veth", enter: `"$@"`, setUp: foreign, tearDown: endForeign, device: "sp-veth"},
		{name: "behind a firewall that drops", isolation: "veth", enter: `"$@"`, setUp: closed, tearDown: endForeign, refusal: unreachable},
		{name: "behind one, sealed", isolation: "auto", enter: `"$@"`, setUp: closed, tearDown: endForeign, device: "lo"},
		{name: "behind one that allows as the error says", isolation: "veth", enter: `"$@"`, setUp: closed + allow, tearDown: endForeign, device: "sp-veth"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.setUp != "" {
				shell(t, test.setUp)
				defer shell(t, test.tearDown)
			}
			before := w.snapshot(t)
			run := w.run(t, false, append([]string{"--isolation", test.isolation}, test.flags...), "sh", "-c", `echo ran; tail -n 1 /proc/net/dev`)
			cmd := exec.Command("sh", append([]string{"-c", test.enter, "sh"}, run.Args...)...)
			cmd.Dir, cmd.Env = run.Dir, append(run.Env, "DIR="+w.dir, "TMPDIR="+filepath.Join(w.dir, "tmp"))
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			if want := test.refusal; want != "" && (err == nil || !strings.Contains(stderr.String(), want) || stdout.Len() > 0) {
				t.Errorf("got %v\n%s\n%s\nwant %q", err, &stdout, &stderr, want)
			}
			if want := test.status; want != "" && (!strings.Contains(stderr.String(), want) || !strings.Contains(stdout.String(), "ran")) {
				t.Errorf("got %v\n%s\n%s\nwant %q", err, &stdout, &stderr, want)
			}
			if _, device, _ := strings.Cut(stdout.String(), "ran\n"); test.device != "" && !strings.HasPrefix(strings.TrimSpace(device), test.device) {
				t.Errorf("got %v\n%s\n%s\nwant a device %s", err, &stdout, &stderr, test.device)
			}
			w.compare(t, before)
		})
	}
}

// TestCapableBinary runs a binary that may listen at low ports, as packages and
// `setcap cap_net_bind_service=+ep` make it, as an ordinary user.
func TestCapableBinary(t *testing.T) {
	w := newWorld(t)
	capable := filepath.Join(w.dir, "caddy-capable")
	shell(t, `cp "$1" "$2"; chmod 755 "$2"`, w.caddy, capable)
	const version2, effective = 0x02000000, 1 // capabilities(7), struct vfs_cap_data
	data := binary.LittleEndian.AppendUint32(nil, version2|effective)
	data = binary.LittleEndian.AppendUint32(data, 1<<unix.CAP_NET_BIND_SERVICE)
	data = append(data, make([]byte, 12)...)
	if err := unix.Setxattr(capable, "security.capability", data, 0); err != nil {
		t.Fatal(err)
	}
	w.caddy = capable
	out, _ := output(t, w.run(t, true, []string{"--isolation", "sealed"}, "sh", "-c", `cat /proc/net/dev; grep Cap /proc/self/status; cat /proc/$PPID/environ || echo hidden`))
	if strings.Count(out, ":") != 1+5 || !strings.Contains(out, "lo:") || strings.Count(out, "0000000000000000") != 5 || !strings.Contains(out, "hidden") {
		t.Errorf("got %s, want lo alone, no capability, and a parent whose environment is hidden", out)
	}
}
