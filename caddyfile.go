package starpod

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/certmagic"
)

// parseGlobalOption reads the global option starpod. Syntax:
//
//	starpod {
//		data_dir  <folder>
//		isolation auto|veth|sealed|env
//		namespace <name> {
//			host_interface <name>
//			peer_interface <name>
//			subnet         <range>
//			ports          <port>...
//		}
//		leaf_cache <number>
//		ca {
//			issuer <name> ...
//			root   <pem file>...
//		}
//	}
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		d.Next()
		return nil, d.Err("the global option starpod is given twice")
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "starpod", Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens.
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the option's name
	if d.NextArg() {
		return d.Errf("the global option starpod takes a block, not %q", d.Val())
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := a.unmarshalOption(d, name); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) unmarshalOption(d *caddyfile.Dispenser, name string) error {
	switch name {
	case "data_dir":
		if !d.AllArgs(&a.DataDir) {
			return d.Err("data_dir takes one folder")
		}
	case "isolation":
		if !d.AllArgs(&a.Isolation) {
			return d.Err("isolation takes one of: auto, veth, sealed, env")
		}
		if err := checkServerIsolation(a.Isolation); err != nil {
			return d.Err(err.Error())
		}
	case "namespace":
		a.Namespace = new(NamespaceConfig)
		return a.Namespace.unmarshal(d)
	case "leaf_cache":
		var text string
		if !d.AllArgs(&text) {
			return d.Err("leaf_cache takes one number")
		}
		n, err := strconv.ParseInt(text, 10, 31)
		if err != nil || n < 1 {
			return d.Errf("leaf_cache: %q is no positive number", text)
		}
		a.LeafCache = int(n)
	case "ca":
		a.CA = new(CAConfig)
		return a.CA.unmarshal(d)
	default:
		return d.Errf("unknown option %q of starpod", name)
	}
	return nil
}

func (c *NamespaceConfig) unmarshal(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		c.Name = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := c.unmarshalOption(d, name); err != nil {
			return err
		}
	}
	if _, err := c.veth(); err != nil {
		return d.Err(err.Error())
	}
	return nil
}

func (c *NamespaceConfig) unmarshalOption(d *caddyfile.Dispenser, name string) error {
	text := map[string]*string{"host_interface": &c.HostInterface, "peer_interface": &c.PeerInterface, "subnet": &c.Subnet}[name]
	switch {
	case text != nil:
		if !d.AllArgs(text) {
			return d.Errf("%s takes one value", name)
		}
	case name == "ports":
		for _, word := range d.RemainingArgs() {
			port, err := strconv.ParseUint(word, 10, 16)
			if err != nil || port == 0 {
				return d.Errf("%q is no port: write numbers from 1 to 65535", word)
			}
			c.Ports = append(c.Ports, uint16(port))
		}
		if len(c.Ports) == 0 {
			return d.Err("ports takes at least one port")
		}
	default:
		return d.Errf("unknown option %q of namespace", name)
	}
	return nil
}

func (c *CAConfig) unmarshal(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("ca takes a block, not %q", d.Val())
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch d.Val() {
		case "issuer":
			if c.IssuerRaw != nil {
				return d.Err("issuer is given twice")
			}
			if !d.NextArg() {
				return d.Err("issuer takes the name of an issuer module, like internal")
			}
			name := d.Val()
			module, err := caddyfile.UnmarshalModule(d, "tls.issuance."+name)
			if err != nil {
				return err
			}
			issuer, ok := module.(certmagic.Issuer)
			if !ok {
				return d.Errf("%s does not issue certificates", name)
			}
			c.IssuerRaw = caddyconfig.JSONModuleObject(issuer, "module", name, nil)
		case "root":
			files := d.RemainingArgs()
			if len(files) == 0 {
				return d.Err("root takes at least one PEM file")
			}
			c.Roots = append(c.Roots, files...)
		default:
			return d.Errf("unknown option %q of ca", d.Val())
		}
	}
	if c.IssuerRaw == nil {
		return d.Err("ca needs an issuer, like `issuer internal`; without the block an authority is made in data_dir")
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*App)(nil)
