package starpod

import (
	"context"
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
			NotAfter:    authority.Roots()[0].NotAfter.UTC().Format(time.RFC3339),
			Bundle:      a.bundle.Path,
			SystemRoots: a.bundle.SystemRoots,
		},
		Counts: a.stats.Counts(),
	}
	if s := a.space; s != nil {
		status.Namespace = &NamespaceStatus{Name: s.Name(), Path: s.Path(), Host: s.HostAddr().String(), ResolvConf: s.ResolvConf(), Lost: s.lostReason()}
	}
	for _, p := range a.proxies {
		proxy := ProxyStatus{Intercept: p.Authority != nil, Listen: []string{}}
		for _, addr := range p.self() {
			if !slices.Contains(a.Listeners(), addr) {
				proxy.Listen = append(proxy.Listen, addr.String())
			}
		}
		if keys, err := p.Keys(); err == nil {
			proxy.Keys = keys.Len()
		}
		status.Proxies = append(status.Proxies, proxy)
	}
	return status, nil
}
