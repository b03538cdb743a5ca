package starpod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"

	"github.com/starpod/caddy-starpod/netns"
)

// checkPorts tries the addresses that the configuration wants to listen on.
func (d *doctor) checkPorts(ctx context.Context) []finding {
	wanted := slices.Clone(d.plan.listen)
	if d.plan.admin != "" {
		wanted = append(wanted, d.plan.admin)
	}
	slices.Sort(wanted)
	var found []finding
	for _, listen := range slices.Compact(wanted) {
		found = append(found, d.checkListen(ctx, listen)...)
	}
	if len(found) == 0 {
		return []finding{absent("", "no configuration that says where to listen", "")}
	}
	return found
}

func (d *doctor) checkListen(ctx context.Context, listen string) []finding {
	address, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceKnown(listen, ""))
	switch {
	case err != nil:
		return []finding{broken(listen, err.Error(), "write the site's address like :8080, or `bind 127.0.0.1` into the site")}
	case address.Network == networkName:
		return nil // in a namespace of its own
	case address.IsUnixNetwork() || address.IsFdNetwork():
		return []finding{absent(listen, "no TCP port", "")}
	}
	var found []finding
	for port := address.StartPort; port <= address.EndPort; port++ {
		found = append(found, d.checkPort(ctx, net.JoinHostPort(address.Host, fmt.Sprint(port)), port))
	}
	return found
}

func (d *doctor) checkPort(ctx context.Context, address string, port uint) finding {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	switch {
	case err == nil:
		_ = listener.Close()
		return good(address, "free")
	case slices.ContainsFunc(tcpAddresses(address), d.running.holds):
		return good(address, "held by the Caddy that runs")
	case errors.Is(err, fs.ErrPermission):
		self, _ := os.Executable()
		return broken(address, "your user may not listen there",
			"start the proxy as root, allow it with "+commandLine("sudo", "setcap", "cap_net_bind_service=+ep", self)+", or choose a port above 1023")
	case errors.Is(err, syscall.EADDRINUSE) || runtime.GOOS == "windows":
		return broken(address, "taken by another program, or by a Caddy whose admin API is elsewhere", portMend(port))
	}
	return broken(address, "cannot be listened on: "+err.Error(), "name an address of this machine with `bind`")
}

// portMend finds who has a port.
func portMend(port uint) string {
	find := map[string]string{
		"linux":   fmt.Sprintf("ss -ltnp 'sport = :%d'", port),
		"windows": fmt.Sprintf("Get-Process -Id (Get-NetTCPConnection -LocalPort %d).OwningProcess", port),
	}[runtime.GOOS]
	if find == "" {
		find = fmt.Sprintf("lsof -nP -iTCP:%d -sTCP:LISTEN", port)
	}
	return "end it, or choose another port; it is found by: " + find
}

// servesNamespace reports whether the configuration wants a namespace.
func (d *doctor) servesNamespace() bool {
	return d.plan.app.Isolation == driverVeth || d.plan.app.Isolation != driverEnv &&
		slices.ContainsFunc(d.plan.listen, func(listen string) bool { return strings.HasPrefix(listen, networkName+"/") })
}

func (d *doctor) checkNamespace(context.Context) []finding {
	if !d.servesNamespace() {
		return []finding{absent("", "the configuration serves none", "")}
	}
	config, err := d.plan.app.Namespace.veth()
	if err != nil {
		return []finding{brokenBy(d.plan.file, err, "correct it in the block `namespace`")}
	}
	if s := d.running.status; s != nil && s.Namespace != nil {
		return []finding{good(s.Namespace.Name, "served by the proxy that runs, at "+s.Namespace.Host)}
	}
	there, err := netns.Survey(config)
	switch {
	case err != nil:
		return []finding{doubtful(config.Name, err.Error(), "examine it as root: sudo caddy starpod doctor")}
	case len(there.Taken) > 0:
		return []finding{doubtful(config.Name, strings.Join(there.Taken, " and ")+" is taken by others, so the next free one will be used",
			"name others in the block `namespace`, or remove what nobody needs: ip netns list; ip link; ip route")}
	}
	return []finding{good(config.Name, "name, interface and range are free")}
}

// checkLeftovers looks for what killed instances have left.
func (d *doctor) checkLeftovers(context.Context) []finding {
	var found []finding
	there, err := netns.Survey(netns.VethConfig{})
	if err != nil {
		found = append(found, doubtful("", err.Error(), "examine it as root: sudo caddy starpod doctor"))
	}
	for _, name := range there.Dead {
		found = append(found, doubtful(name, "a namespace with firewall rules that a killed proxy has left",
			"the next start removes it: sudo caddy starpod run --isolation veth -- true"))
	}
	for _, folder := range abandoned(d.tempDir) {
		found = append(found, doubtful(folder, "a folder that a killed proxy has left",
			"the next start removes it: caddy starpod run --isolation env -- true"))
	}
	if len(found) == 0 {
		return []finding{good("", "none")}
	}
	return found
}
