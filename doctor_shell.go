package starpod

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/tokens"
)

// shellTimeout is how long the proxy of the shell may take to be connected to.
const shellTimeout = time.Second

const shellMend = `eval "$(caddy starpod env)"`

// checkShell looks at the variables that doctor was started with, as those of a
// client. Proxy URLs may hold passwords, so only host and port are told.
func (d *doctor) checkShell(ctx context.Context) []finding {
	name, proxy := d.variable("HTTPS_PROXY")
	if proxy == "" {
		return []finding{absent("", "its programs are not led to a proxy", shellMend)}
	}
	u, err := url.Parse(proxy)
	if err != nil || u.Hostname() == "" {
		return []finding{broken(name, "is no URL", shellMend)}
	}
	address := hostPort(u)
	var found []finding
	known := d.isOurs(address)
	switch err := dial(ctx, address, shellTimeout); {
	case err != nil:
		found = append(found, broken(name, "points to "+address+", where nobody listens", "start the proxy, or: unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy"))
	case !known && len(d.running.proxies()) > 0:
		found = append(found, doubtful(name, "points to "+address+", but the proxy that runs is at "+strings.Join(d.running.proxies(), ", "), shellMend))
	default:
		found = append(found, good(name, "points to "+address+", which listens"))
	}
	if other, set := d.env(swapCase(name)); set && other != proxy {
		found = append(found, broken(swapCase(name), "differs from "+name+": programs read one or the other", shellMend))
	}
	found = append(found, d.checkTrust(known)...)
	return append(found, d.checkNoProxy(proxy)...)
}

// variable returns a variable that programs read in either case, and its name.
func (d *doctor) variable(upper string) (name, value string) {
	for _, name := range []string{upper, strings.ToLower(upper)} {
		if value, _ := d.env(name); value != "" {
			return name, value
		}
	}
	return upper, ""
}

func swapCase(name string) string {
	if upper := strings.ToUpper(name); upper != name {
		return upper
	}
	return strings.ToLower(name)
}

// isOurs reports whether a proxy is one that runs, or that the configuration
// would start.
func (d *doctor) isOurs(address string) bool {
	if slices.Contains(d.running.proxies(), address) {
		return true
	}
	for _, listen := range d.plan.listen {
		for _, addr := range tcpAddresses(listen) {
			if reachable(addr.String()) == address {
				return len(d.plan.handlers) > 0
			}
		}
	}
	return false
}

// checkTrust looks at the files that variables name. Where the proxy is one that
// is known, its root has to be in them.
func (d *doctor) checkTrust(known bool) []finding {
	var found []finding
	files := map[string]string{} // what is wrong, by file
	whole := 0
	for _, name := range bundleVariables {
		file, _ := d.env(name)
		if file == "" {
			continue
		}
		why, seen := files[file]
		if !seen {
			why = d.untrusting(file, known)
			files[file] = why
		}
		if why != "" {
			found = append(found, broken(name, "names "+file+", which "+why, shellMend))
			continue
		}
		whole++
	}
	switch {
	case len(found) == 0 && whole == 0 && known:
		return []finding{broken("SSL_CERT_FILE", "is not set, nor is another variable that names the proxy's certificates", shellMend)}
	case len(found) == 0 && whole == 0:
		return []finding{absent("SSL_CERT_FILE", "no variable names certificates", "")}
	case len(found) == 0:
		return []finding{good("certificates", "all variables that name files name good ones")}
	}
	return found
}

// untrusting says why clients with this file do not trust the proxy.
func (d *doctor) untrusting(file string, known bool) string {
	roots := d.authorityRoots()
	content, err := ca.ReadBundle(file, roots)
	switch {
	case err != nil:
		return "cannot be used: " + err.Error()
	case !known:
		return ""
	case len(roots) > 0 && len(content.Lacks) == 0:
		return ""
	case d.running.status != nil:
		for _, cert := range content.Certificates {
			if ca.Fingerprint(cert) == d.running.status.CA.Fingerprint {
				return ""
			}
		}
	case len(roots) == 0:
		return ""
	}
	return "lacks the proxy's root"
}

// checkNoProxy looks for hosts of tokens that would be reached past the proxy.
func (d *doctor) checkNoProxy(proxy string) []finding {
	name, value := d.variable("NO_PROXY")
	if value == "" {
		return nil
	}
	choose := (&httpproxy.Config{HTTPSProxy: proxy, NoProxy: value}).ProxyFunc()
	var passed []string
	for _, secret := range []string{"GITHUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "SLACK_TOKEN", "STRIPE_API_KEY"} {
		for _, host := range tokens.KnownHosts(secret) {
			if u, err := choose(&url.URL{Scheme: "https", Host: host}); err == nil && u == nil {
				passed = append(passed, host)
			}
		}
	}
	if len(passed) > 0 {
		return []finding{broken(name, "leads past the proxy, where tokens stay tokens: "+strings.Join(passed, ", "),
			"export NO_PROXY="+noProxy+" no_proxy="+noProxy)}
	}
	return []finding{good(name, "keeps no known host from the proxy")}
}
