package starpod

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/starpod/caddy-starpod/handler"
)

const (
	publicHost = "api.github.com" // a typical host of a token
	lookupName = "example.com"    // RFC 2606: whom it is asked of learns nothing

	lookupTimeout   = 1500 * time.Millisecond
	upstreamTimeout = time.Second
)

// publicAddress stands for any address of the internet, metadataAddress for what
// clouds tell credentials at.
var (
	publicAddress   = netip.MustParseAddr("140.82.112.3")
	metadataAddress = netip.MustParseAddr("169.254.169.254")
)

func (d *doctor) checkEgress(ctx context.Context) []finding {
	egresses := []*handler.Egress{}
	for _, h := range d.plan.handlers {
		egresses = append(egresses, h.Egress)
	}
	if len(egresses) == 0 {
		egresses = append(egresses, nil) // the defaults
	}
	var found []finding
	upstream := false
	for _, egress := range egresses {
		found = append(found, judgeRules(egress)...)
		if egress != nil && egress.Upstream != "" {
			upstream = true
			found = append(found, d.checkUpstream(ctx, egress.Upstream))
		}
	}
	return append(found, d.checkNames(ctx, upstream))
}

// judgeRules asks the guard of a typical host.
func judgeRules(egress *handler.Egress) []finding {
	rules, err := egress.ParseRules()
	if err != nil {
		return []finding{broken("", err.Error(), "correct it in the block `egress`")}
	}
	guard := &handler.Guard{Rules: rules}
	var found []finding
	reach := handler.Destination{Scheme: "https", Host: publicHost, Port: 443}
	decided, err := guard.CheckName(reach)
	if err == nil && !decided {
		reach.Host = publicAddress.String()
		_, err = guard.CheckName(reach)
	}
	if err != nil {
		found = append(found, absent(publicHost, "the rules close it: "+err.Error(), "if that is not meant: `allow "+publicHost+"` in front of the others in `egress`"))
	} else {
		found = append(found, good(publicHost, "the rules open it"))
	}
	metadata := handler.Destination{Scheme: "http", Host: metadataAddress.String(), Port: 80}
	if _, err := guard.CheckName(metadata); err == nil {
		found = append(found, doubtful(metadataAddress.String(), "the rules open it: programs may ask a cloud for this machine's credentials",
			"deny "+metadataAddress.String()+" in front of the others in `egress`"))
	}
	return found
}

// checkUpstream connects to the proxy of the configuration. Its URL may hold a
// password, so only host and port are told.
func (d *doctor) checkUpstream(ctx context.Context, text string) finding {
	u, err := handler.ParseUpstream(caddy.NewReplacer().ReplaceKnown(text, ""))
	if err != nil {
		return broken("upstream", err.Error(), "write it like http://proxy.example.com:3128")
	}
	address := hostPort(u)
	if err := dial(ctx, address, upstreamTimeout); err != nil {
		const mend = "start it, or correct `upstream` in `egress`"
		if dns := (*net.DNSError)(nil); errors.As(err, &dns) && !d.online() {
			return doubtful("upstream "+address, "this machine is offline", "connect it to a network")
		}
		return broken("upstream "+address, "cannot be reached: "+err.Error(), mend)
	}
	return good("upstream "+address, "listens")
}

// hostPort is where the server of a URL is.
func hostPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port == "" && u.Scheme == "https":
		port = "443"
	case port == "":
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func dial(ctx context.Context, address string, timeout time.Duration) error {
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// checkNames looks a public name up. That it fails is no fault of a machine that
// is offline, and everything else works there.
func (d *doctor) checkNames(ctx context.Context, upstream bool) finding {
	if upstream {
		return absent("names", "the upstream proxy resolves them", "")
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	err := d.lookup(ctx, lookupName)
	switch {
	case err == nil:
		return good("names", "are resolved")
	case !d.online():
		return doubtful("names", "cannot be resolved: this machine is offline", "connect it to a network")
	}
	return doubtful("names", "cannot be resolved: "+err.Error(),
		"see the name servers in /etc/resolv.conf; where only a proxy leads out of this network, name it with `upstream` in `egress`")
}
