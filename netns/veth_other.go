//go:build !linux

package netns

import (
	"context"
	"net/netip"
)

// Veth is a named namespace, which only Linux has.
type Veth struct{}

// OpenVeth returns an error: there are no network namespaces here.
func OpenVeth(VethConfig) (*Veth, error) { return nil, unsupported() }

// The methods are those of a Veth that never is.
func (*Veth) Name() string                { return "" }
func (*Veth) Path() string                { return "" }
func (*Veth) ResolvConf() string          { return "" }
func (*Veth) HostAddr() netip.Addr        { return netip.Addr{} }
func (*Veth) PeerAddr() netip.Addr        { return netip.Addr{} }
func (*Veth) Names() *Names               { return nil }
func (*Veth) Redirect(uint16) error       { return unsupported() }
func (*Veth) Check(context.Context) error { return unsupported() }
func (*Veth) Intact() error               { return unsupported() }
func (*Veth) Do(func() error) error       { return unsupported() }
func (*Veth) Close() error                { return nil }
