package starpod

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// adminTimeout is how long the admin API may take to answer; it is on this machine.
const adminTimeout = 2 * time.Second

// running is what the admin API tells of the Caddy that runs.
type running struct {
	address string // of the admin API, "" where there is none to ask
	named   bool   // whether the user named it
	status  *Status
	listen  []netip.AddrPort // of all its sites
	err     error
}

// askRunning asks the admin API that is named, else that of the configuration.
func askRunning(ctx context.Context, f adminFlags, p plan) running {
	r := running{address: f.address, named: f.address != ""}
	if !r.named {
		r.address = p.admin
		if p.file == "" || p.err != nil {
			r.address, _ = caddycmd.DetermineAdminAPIAddress("", nil, "", "")
		}
	}
	if r.address == "" {
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	answer := make(chan running, 1)
	go func() { answer <- r.ask() }()
	select {
	case r = <-answer:
	case <-ctx.Done():
		r.err = fmt.Errorf("the admin API at %s does not answer", r.address)
	}
	return r
}

func (r running) ask() running {
	status, err := (&adminFlags{address: r.address}).status()
	if err != nil {
		r.err = err
		return r
	}
	r.status = &status
	// Only where sites listen is read of it.
	var servers map[string]struct {
		Listen []string `json:"listen"`
	}
	resp, err := caddycmd.AdminAPIRequest(r.address, http.MethodGet, "/config/apps/http/servers", nil, nil)
	if err == nil {
		defer resp.Body.Close()
		err = json.NewDecoder(resp.Body).Decode(&servers)
	}
	if err != nil {
		r.err = err
		return r
	}
	for _, server := range servers {
		for _, listen := range server.Listen {
			r.listen = append(r.listen, tcpAddresses(listen)...)
		}
	}
	r.listen = append(r.listen, tcpAddresses(r.address)...)
	return r
}

// holds reports whether the running Caddy listens at an address.
func (r running) holds(addr netip.AddrPort) bool {
	for _, own := range r.listen {
		if own.Port() == addr.Port() && (own.Addr() == addr.Addr() || own.Addr().IsUnspecified() || addr.Addr().IsUnspecified()) {
			return true
		}
	}
	return false
}

// proxies are where the running proxies listen.
func (r running) proxies() []string {
	if r.status == nil {
		return nil
	}
	var all []string
	for _, p := range r.status.Proxies {
		for _, listen := range p.Listen {
			all = append(all, reachable(listen))
		}
	}
	return all
}

func (d *doctor) checkRunning(context.Context) []finding {
	r := d.running
	switch {
	case r.address == "":
		return []finding{absent("", "the configuration has no admin API to ask", "")}
	case r.status == nil && !r.named:
		return []finding{absent("", "none that answers at "+r.address, "")}
	case r.err != nil:
		return []finding{brokenBy(r.address, r.err, "name the admin API of a Caddy with starpod_secrets with --address")}
	}
	return []finding{good("", fmt.Sprintf("%s, tier %d, %s", strings.Join(r.proxies(), ", "), r.status.Tier.Level, r.status.Tier.Driver))}
}
