package starpod

import (
	"net"
	"net/netip"
	"reflect"

	"github.com/caddyserver/caddy/v2"
)

// adminListen returns where the configuration that ctx belongs to has its admin
// endpoint, "" if it has none. Caddy does not tell modules, so the field behind
// the context is read; where it is not to be had, the default counts.
func adminListen(ctx caddy.Context) string {
	config := reflect.ValueOf(ctx).FieldByName("cfg")
	if !config.IsValid() || config.Kind() != reflect.Pointer || config.IsNil() {
		return caddy.DefaultAdminListen
	}
	admin := config.Elem().FieldByName("Admin")
	if !admin.IsValid() || admin.Kind() != reflect.Pointer || admin.IsNil() {
		return caddy.DefaultAdminListen
	}
	if disabled := admin.Elem().FieldByName("Disabled"); disabled.IsValid() && disabled.Bool() {
		return ""
	}
	if listen := admin.Elem().FieldByName("Listen"); listen.IsValid() && listen.String() != "" {
		return listen.String()
	}
	return caddy.DefaultAdminListen
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
