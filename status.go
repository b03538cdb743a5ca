package starpod

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// Status describes the running app. It holds nothing secret.
func (a *App) Status(ctx context.Context) (Status, error) {
	authority, err := a.Authority(ctx)
	if err != nil {
		return Status{}, err
	}
	status := Status{
		Tier: a.currentTier(),
		CA: CAStatus{
			Fingerprint: authority.Fingerprint(),
			NotBefore:   authority.Roots()[0].NotBefore.UTC().Format(time.RFC3339),
			NotAfter:    authority.Roots()[0].NotAfter.UTC().Format(time.RFC3339),
			Bundle:      a.bundle.Path,
			SystemRoots: a.bundle.SystemRoots,
		},
		Counts: a.stats.Counts(),
	}
	if s := a.space; s != nil {
		status.Namespace = &NamespaceStatus{Name: s.Name(), Path: s.Path(), Host: s.HostAddr().String(), ResolvConf: s.ResolvConf(), Lost: s.lostReason()}
	}
	if d := a.dock.Load(); d != nil {
		status.Attach = &AttachStatus{Socket: d.path, Commands: d.count()}
	}
	for _, p := range a.proxies {
		proxy := ProxyStatus{Intercept: p.Authority != nil, Listen: []string{}}
		for _, addr := range a.listenOf(p) {
			proxy.Listen = append(proxy.Listen, addr.String())
		}
		if keys, err := p.Keys(); err == nil {
			proxy.Keys = keys.Len()
		}
		status.Proxies = append(status.Proxies, proxy)
	}
	return status, nil
}

// listenOf returns where the site of a proxy listens.
func (a *App) listenOf(p attached) []netip.AddrPort {
	other := a.Listeners()
	return slices.DeleteFunc(p.self(), func(addr netip.AddrPort) bool { return slices.Contains(other, addr) })
}

// reachableBy leaves out what only programs of the namespace reach.
func (a *App) reachableBy(p attached) []netip.AddrPort {
	return slices.DeleteFunc(a.listenOf(p), func(addr netip.AddrPort) bool { return a.space != nil && addr.Addr() == a.space.HostAddr() })
}
