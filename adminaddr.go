package starpod

import (
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// adminListen returns where the configuration that ctx belongs to has its admin
// endpoints, the local one and the remote one. Caddy does not tell modules, so the
// field behind the context is read; where it is not to be had, the defaults count.
func adminListen(ctx caddy.Context) []string {
	return adminEndpoints(field(reflect.ValueOf(ctx), "cfg"))
}

func adminEndpoints(config reflect.Value) []string {
	admin := field(config, "Admin")
	if !admin.IsValid() {
		return []string{caddy.DefaultAdminListen}
	}
	var all []string
	if disabled := admin.FieldByName("Disabled"); !disabled.IsValid() || !disabled.Bool() {
		all = append(all, listenOf(admin, caddy.DefaultAdminListen))
	}
	if remote := field(admin, "Remote"); remote.IsValid() {
		all = append(all, listenOf(remote, caddy.DefaultRemoteAdminListen))
	}
	return all
}

// field returns what a pointer in a struct points to, not valid if there is none.
func field(of reflect.Value, name string) reflect.Value {
	if !of.IsValid() {
		return of
	}
	pointer := of.FieldByName(name)
	if !pointer.IsValid() || pointer.Kind() != reflect.Pointer || pointer.IsNil() {
		return reflect.Value{}
	}
	return pointer.Elem()
}

func listenOf(endpoint reflect.Value, standard string) string {
	if listen := endpoint.FieldByName("Listen"); listen.IsValid() && listen.String() != "" {
		return listen.String()
	}
	return standard
}

// tcpAddresses returns what a listener address of Caddy stands for; nothing for
// a socket that is not TCP.
func tcpAddresses(listen string) []netip.AddrPort {
	address, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceKnown(listen, ""))
	if err != nil || listen == "" || address.IsUnixNetwork() {
		return nil
	}
	ips := []net.IP{net.IPv6unspecified}
	if address.Host != "" {
		if ips, err = net.LookupIP(address.Host); err != nil {
			ips = []net.IP{net.IPv6unspecified} // when in doubt, every local address
		}
	}
	var found []netip.AddrPort
	for _, ip := range ips {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			for port := address.StartPort; port <= address.EndPort; port++ {
				found = append(found, netip.AddrPortFrom(addr.Unmap(), uint16(port)))
			}
		}
	}
	return found
}

// unixAddress returns the file of a listener address that is a unix socket; nothing
// for another.
func unixAddress(listen string) []string {
	address, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceKnown(listen, ""))
	if err != nil || listen == "" || !address.IsUnixNetwork() {
		return nil
	}
	path, _, _ := strings.Cut(address.Host, "|") // the mode
	if path, err = filepath.Abs(path); err != nil {
		return nil
	}
	return []string{path}
}
