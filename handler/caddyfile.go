package handler

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/dustin/go-humanize"
)

// ParseDirective reads the starpod_secrets directive of a Caddyfile. It takes a
// named matcher or * as its first argument, as handlers do, but no path matcher:
// a path there is that of a key file.
func ParseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next()
	matched := h.NextArg() && (h.Val() == "*" || strings.HasPrefix(h.Val(), "@"))
	h.Reset()
	var matchers caddy.ModuleMap
	if matched {
		h.Next()
		var err error
		if matchers, err = h.ExtractMatcherSet(); err != nil {
			return nil, err
		}
	}
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return h.NewRoute(matchers, handler), nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	starpod_secrets [@matcher] [<key file>...] {
//		master_key_file  <file> [<older file>...]
//		generate_key
//		scan             header|path|query|body|basic ...
//		on_mismatch      strip|deny|pass
//		on_undecodable   pass|strip|deny
//		plaintext_http   replace|strip|deny
//		intercept        on|off
//		tunnel           <host>...
//		mask_responses   on|off
//		body_buffer      <size>
//		max_spool        <size>
//		max_decoded      <size>
//		proxy_auth       <user> <bcrypt hash>
//		limits {
//			...          (see Limits)
//		}
//		egress {
//			allow        <cidr|host|private_ranges>...
//			deny         <cidr|host>...
//			trust        <pem file>...
//			upstream     <proxy url>
//			dial_timeout <duration>
//			next
//		}
//	}
//
// Key files, tunnel, allow, deny and trust may be repeated; anything else that
// stands twice is an error.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	h.MasterKeyFiles = append(h.MasterKeyFiles, d.RemainingArgs()...)
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] && name != "master_key_file" && name != "tunnel" {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := h.unmarshalOption(d, name); err != nil {
			return err
		}
	}
	if len(h.MasterKeyFiles) == 0 {
		return d.Err("no key file: write `starpod_secrets <key file>` or master_key_file in the block; `caddy starpod keygen` makes one")
	}
	return nil
}

func (h *Handler) unmarshalOption(d *caddyfile.Dispenser, name string) (err error) {
	switch name {
	case "master_key_file":
		return appendArgs(d, &h.MasterKeyFiles)
	case "generate_key":
		h.GenerateKey = true
		return noArgs(d)
	case "scan":
		if err := appendArgs(d, &h.Scan); err != nil {
			return err
		}
		if _, err := ParsePlaces(h.Scan); err != nil {
			return d.Err(err.Error())
		}
		return nil
	case "on_mismatch":
		h.OnMismatch, err = choice(d, "strip", "deny", "pass")
	case "on_undecodable":
		h.OnUndecodable, err = choice(d, "pass", "strip", "deny")
	case "plaintext_http":
		h.PlaintextHTTP, err = choice(d, "replace", "strip", "deny")
	case "intercept":
		h.Intercept, err = onOff(d)
	case "tunnel":
		if err := appendArgs(d, &h.Tunnel); err != nil {
			return err
		}
		if err := checkHosts(h.Tunnel); err != nil {
			return d.Errf("tunnel: %v", err)
		}
		return nil
	case "mask_responses":
		h.MaskResponses, err = onOff(d)
	case "body_buffer":
		h.BodyBuffer, err = size(d)
	case "max_spool":
		h.MaxSpool, err = size(d)
	case "max_decoded":
		h.MaxDecoded, err = size(d)
	case "proxy_auth":
		h.ProxyAuth = new(ProxyAuth)
		if !d.AllArgs(&h.ProxyAuth.User, &h.ProxyAuth.Hash) {
			return d.Err("proxy_auth takes a user and a bcrypt hash, as `caddy hash-password` prints it")
		}
		if _, err := newBcryptAuth(h.ProxyAuth.User, h.ProxyAuth.Hash); err != nil {
			return d.Err(err.Error())
		}
	case "limits":
		h.Limits = new(Limits)
		return h.Limits.unmarshal(d)
	case "egress":
		h.Egress = new(Egress)
		return h.Egress.unmarshal(d)
	default:
		return d.Errf("unknown option %q of starpod_secrets", name)
	}
	return err
}

func (e *Egress) unmarshal(d *caddyfile.Dispenser) error {
	if err := noArgs(d); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		repeats := name == "allow" || name == "deny" || name == "trust"
		if seen[name] && !repeats {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := e.unmarshalOption(d, name); err != nil {
			return err
		}
	}
	return nil
}

func (e *Egress) unmarshalOption(d *caddyfile.Dispenser, name string) error {
	switch name {
	case "allow", "deny":
		var words []string
		if err := appendArgs(d, &words); err != nil {
			return err
		}
		for _, word := range words {
			if _, err := ParseEgressRule(name == "allow", word); err != nil {
				return d.Err(err.Error())
			}
		}
		line := EgressLine{Allow: words}
		if name == "deny" {
			line = EgressLine{Deny: words}
		}
		e.Rules = append(e.Rules, line)
	case "trust":
		return appendArgs(d, &e.Trust)
	case "upstream":
		if !d.AllArgs(&e.Upstream) {
			return d.Err("upstream takes one URL of a proxy, like http://proxy.example.com:3128")
		}
		if err := checkUpstream(e.Upstream); err != nil {
			return d.Err(err.Error())
		}
	case "dial_timeout":
		var err error
		e.DialTimeout, err = duration(d)
		return err
	case "next":
		e.Next = true
		return noArgs(d)
	default:
		return d.Errf("unknown option %q of egress", name)
	}
	return nil
}

func appendArgs(d *caddyfile.Dispenser, list *[]string) error {
	name := d.Val()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("%s needs at least one argument", name)
	}
	*list = append(*list, args...)
	return nil
}

func noArgs(d *caddyfile.Dispenser) error {
	name := d.Val()
	if d.NextArg() {
		return d.Errf("%s takes no argument, but got %q", name, d.Val())
	}
	return nil
}

func choice(d *caddyfile.Dispenser, words ...string) (string, error) {
	name := d.Val()
	var got string
	if d.AllArgs(&got) {
		for _, word := range words {
			if got == word {
				return got, nil
			}
		}
	}
	return "", d.Errf("%s takes one of: %s", name, strings.Join(words, ", "))
}

func onOff(d *caddyfile.Dispenser) (*bool, error) {
	word, err := choice(d, "on", "off")
	on := word == "on"
	return &on, err
}

func size(d *caddyfile.Dispenser) (int64, error) {
	name := d.Val()
	var text string
	if !d.AllArgs(&text) {
		return 0, d.Errf("%s takes one size, like 1MiB", name)
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > 1<<62 {
		return 0, d.Errf("%s: %q is no size: write it like 1MiB or 10GiB", name, text)
	}
	return int64(n), nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
