package starpod

import (
	"net"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/netns"
)

// Transparent is a listener wrapper for connections that a firewall rule of the
// operator's (REDIRECT, DNAT) has led to the proxy: they are served as if their
// clients knew it. It belongs in front of the tls wrapper, on a site without TLS.
// Redirected connections need no proxy credentials; the others are as ever.
type Transparent struct{ log *zap.Logger }

// CaddyModule returns the Caddy module information.
func (*Transparent) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.starpod_transparent", New: func() caddy.Module { return new(Transparent) }}
}

// Provision implements caddy.Provisioner.
func (t *Transparent) Provision(ctx caddy.Context) error {
	t.log = ctx.Logger()
	return nil
}

// UnmarshalCaddyfile sets up the wrapper from Caddyfile tokens. Syntax:
//
//	starpod_transparent
func (*Transparent) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() || d.NextBlock(d.Nesting()) {
		return d.Err("starpod_transparent takes no options")
	}
	return nil
}

// WrapListener implements caddy.ListenerWrapper.
func (t *Transparent) WrapListener(l net.Listener) net.Listener {
	return &handler.TransparentListener{Listener: l, Original: netns.OriginalDst, Log: t.log}
}

// Interface guards
var (
	_ caddy.ListenerWrapper = (*Transparent)(nil)
	_ caddy.Provisioner     = (*Transparent)(nil)
	_ caddyfile.Unmarshaler = (*Transparent)(nil)
)
