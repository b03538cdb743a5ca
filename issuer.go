package starpod

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"

	"github.com/starpod/caddy-starpod/ca"
	"github.com/starpod/caddy-starpod/tokens"
)

// provisionIssuer loads the issuer module and finds the roots of what it signs.
func (a *App) provisionIssuer(ctx caddy.Context) error {
	if a.CA.IssuerRaw == nil {
		return errors.New("ca: name an issuer, like `issuer internal`")
	}
	for _, file := range a.CA.Roots {
		roots, err := readCertificates(file)
		if err != nil {
			return fmt.Errorf("ca: %w", err)
		}
		a.roots = append(a.roots, roots...)
	}
	if id, ok := internalCA(a.CA.IssuerRaw); ok {
		authority, err := a.provisionInternal(ctx, id)
		if err != nil {
			return fmt.Errorf("ca: %w", err)
		}
		a.roots = append(a.roots, authority.RootCertificate())
	}
	module, err := ctx.LoadModule(a.CA, "IssuerRaw")
	if err != nil {
		return fmt.Errorf("ca: loading the issuer: %w", err)
	}
	issuer, ok := module.(certmagic.Issuer)
	if !ok {
		return fmt.Errorf("ca: %T does not issue certificates", module)
	}
	a.issuer = issuer
	if len(a.roots) == 0 {
		return errors.New("ca: clients need to know whom to trust: name the PEM file of the issuer's root with `root`")
	}
	return nil
}

func (a *App) issue(ctx context.Context, csr *x509.CertificateRequest) ([]byte, error) {
	issued, err := a.issuer.Issue(ctx, csr)
	if err != nil {
		return nil, err
	}
	return issued.Certificate, nil
}

func readCertificates(file string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return certs, nil
}

// CertGetter offers the proxy's certificates to ordinary TLS connection
// policies: one is minted for whatever server name a client asks for. Use it
// only where the clients are those of the proxy.
type CertGetter struct{ app *App }

// CaddyModule returns the Caddy module information.
func (CertGetter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "tls.get_certificate.starpod", New: func() caddy.Module { return new(CertGetter) }}
}

// Provision finds the app.
func (g *CertGetter) Provision(ctx caddy.Context) error {
	app, err := ctx.App("starpod")
	if err != nil {
		return err
	}
	g.app = app.(*App)
	return nil
}

// UnmarshalCaddyfile reads `get_certificate starpod`, which has no options.
func (g *CertGetter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		return d.Errf("unknown option %q: get_certificate starpod has none", d.Val())
	}
	return nil
}

// GetCertificate implements certmagic.Manager.
func (g *CertGetter) GetCertificate(ctx context.Context, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := hello.ServerName
	if name == "" {
		// Clients name no server when they connect to an address.
		name, _, _ = net.SplitHostPort(hello.Conn.LocalAddr().String())
	}
	name, err := tokens.CanonicalHost(name)
	if err != nil {
		return nil, nil // leave it to the next manager
	}
	authority, err := g.app.Authority(ctx)
	if err != nil {
		return nil, err
	}
	return authority.Leaf(ctx, name)
}

// Interface guards
var (
	_ certmagic.Manager     = (*CertGetter)(nil)
	_ caddy.Provisioner     = (*CertGetter)(nil)
	_ caddyfile.Unmarshaler = (*CertGetter)(nil)
	_ ca.Signer             = (*ca.Root)(nil)
)
