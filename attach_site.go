package starpod

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/handler"
)

// generation is what one configuration serves attached commands with.
type generation struct {
	app   *App
	sites []*attachSite
}

// attachSite is a server of Caddy with a proxy in its routes. What attached
// commands send is served by a server of their own whose handler is Caddy's, so
// all of the site's routes, logs and limits apply to it.
type attachSite struct {
	proxy    *handler.Proxy // the first one, whose key seals
	listen   func() []netip.AddrPort
	server   *http.Server
	listener *handedListener
}

// attachServer copies what Caddy would set up, which it does when it listens.
func attachServer(site *caddyhttp.Server, log *zap.Logger) (*http.Server, error) {
	errorLog, err := zap.NewStdLogAt(log, zap.DebugLevel)
	if err != nil {
		return nil, err
	}
	return &http.Server{
		Handler:           site,
		ReadTimeout:       time.Duration(site.ReadTimeout),
		ReadHeaderTimeout: time.Duration(site.ReadHeaderTimeout),
		WriteTimeout:      time.Duration(site.WriteTimeout),
		IdleTimeout:       time.Duration(site.IdleTimeout),
		MaxHeaderBytes:    site.MaxHeaderBytes,
		ErrorLog:          errorLog,
	}, nil
}

// join makes a configuration one that attached commands can be served with, as
// soon as it is active.
func (d *dock) join(a *App) (*generation, error) {
	g := &generation{app: a}
	for _, site := range a.sites() {
		server, err := attachServer(site.server, a.logger)
		if err != nil {
			return nil, err
		}
		site.attach.server = server
		g.sites = append(g.sites, site.attach)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.generations = append(d.generations, g)
	for _, site := range g.sites {
		site.listener = newHandedListener(attachAddr{}, func() error { return nil })
		go func() { _ = site.server.Serve(site.listener) }()
	}
	return g, nil
}

// leave undoes join. What is under way is given time to end.
func (d *dock) leave(g *generation) {
	d.mu.Lock()
	d.generations = slices.DeleteFunc(d.generations, func(other *generation) bool { return other == g })
	d.mu.Unlock()
	for _, site := range g.sites {
		_ = site.listener.Close()
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), attachDrain)
			defer cancel()
			if site.server.Shutdown(ctx) != nil {
				_ = site.server.Close()
			}
		}()
	}
}

// attachDrain is as long as the proxies of a replaced configuration let tunnels
// go on.
const attachDrain = 10 * time.Minute

// errNoSite says that the active configuration serves nobody.
var errNoSite = errors.New("the running Caddy has no proxy: add starpod_secrets to a site")

// site finds the site of the active configuration that is called so, or the only
// one.
func (d *dock) site(name string) (*attachSite, error) {
	active := d.active()
	d.mu.Lock()
	var sites []*attachSite
	for _, g := range d.generations {
		if g.app == active {
			sites = g.sites
		}
	}
	d.mu.Unlock()
	if len(sites) == 0 {
		return nil, errNoSite
	}
	if name == "" && len(sites) == 1 {
		return sites[0], nil
	}
	var all []string
	for _, s := range sites {
		for _, addr := range s.listen() {
			if name != "" && isCalled(addr, name) {
				return s, nil
			}
			all = append(all, addr.String())
		}
	}
	if name == "" {
		return nil, fmt.Errorf("several sites have starpod_secrets: choose one of %s with --site", strings.Join(all, ", "))
	}
	return nil, fmt.Errorf("no site with starpod_secrets listens on %s: choose one of %s with --site", name, strings.Join(all, ", "))
}

// isCalled compares a listener's address with one as a Caddyfile or a URL has it.
func isCalled(addr netip.AddrPort, name string) bool {
	_, rest, isURL := strings.Cut(name, "://")
	if isURL {
		name = strings.TrimSuffix(rest, "/")
	}
	port := fmt.Sprint(":", addr.Port())
	return name == addr.String() || name == port || name == reachable(addr.String()) || name == "localhost"+port && addr.Addr().IsLoopback()
}

// attachAddr is the address of a listener for attached commands.
type attachAddr struct{}

func (attachAddr) Network() string { return "attach" }
func (attachAddr) String() string  { return "attached commands" }

// appSite is a site before it serves.
type appSite struct {
	server *caddyhttp.Server
	attach *attachSite
}

// sites are the servers with proxies, each once.
func (a *App) sites() []appSite {
	var sites []appSite
	for _, p := range a.proxies {
		place := p.at
		if place.Server == nil {
			continue
		}
		if !slices.ContainsFunc(sites, func(s appSite) bool { return s.server == place.Server }) {
			listen := func() []netip.AddrPort { return a.reachableBy(p) }
			sites = append(sites, appSite{place.Server, &attachSite{proxy: p.Proxy, listen: listen}})
		}
	}
	slices.SortFunc(sites, func(a, b appSite) int { return strings.Compare(a.server.Name(), b.server.Name()) })
	return sites
}

// hidden is what a command that is attached here shall not see, whoever's file it
// is: keys, authorities, and the sockets by which this process is told what to do.
func (a *App) hidden() []string {
	hide := []string{a.dir, caddy.AppDataDir()}
	for _, listen := range adminListen(a.ctx) {
		hide = append(hide, unixAddress(listen)...)
	}
	for _, p := range a.proxies {
		for _, file := range p.at.KeyFiles {
			if path, err := filepath.Abs(file); err == nil {
				hide = append(hide, path)
			}
		}
	}
	return hide
}
