package starpod

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddypki"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// lockTimeout is how long another instance may take to make an authority.
const lockTimeout = time.Minute

// internalCA returns the name of the authority that an issuer of Caddy's own signs
// with; ok is false for other issuers.
func internalCA(issuer json.RawMessage) (id string, ok bool) {
	var config struct {
		Module string `json:"module"`
		CA     string `json:"ca"`
	}
	if json.Unmarshal(issuer, &config) != nil || config.Module != "internal" {
		return "", false
	}
	if config.CA == "" {
		return caddypki.DefaultCAID, true
	}
	return config.CA, true
}

// storedAuthority is where Caddy keeps an authority of its own in a storage.
type storedAuthority string

func storedAs(id string) storedAuthority {
	return storedAuthority(path.Join("pki", "authorities", certmagic.StorageKeys.Safe(id)))
}

func (s storedAuthority) file(name string) string { return path.Join(string(s), name) }

// provisionInternal loads one of Caddy's own authorities, so that all instances on
// one storage have the same.
//
// Caddy makes and renews the four files of an authority without a lock. Instances
// that start together on an empty storage would each make a root, or read that of
// another before its key is there; and those that renew the intermediate together can
// leave the certificate of one beside the key of another, which no client accepts. So
// the storage is locked while there is no whole authority in it, and an intermediate
// that does not fit is made anew. [early] sees to it that nobody loads the authority
// before.
func (a *App) provisionInternal(ctx caddy.Context, id string) (*caddypki.CA, error) {
	stored, storage := storedAs(id), ctx.Storage()
	unlock := func() {}
	defer func() { unlock() }()
	// The key of the intermediate is what Caddy stores last.
	if !storage.Exists(ctx, stored.file("intermediate.key")) {
		unlock = a.lockStorage(ctx, stored)
		if err := stored.dropHalf(ctx, storage); err != nil {
			return nil, err
		}
	}
	app, err := ctx.App("pki")
	if err != nil {
		return nil, err
	}
	authority, err := app.(*caddypki.PKI).GetCA(ctx, id)
	if err != nil || misfit(authority) == nil {
		return authority, err
	}
	unlock()
	unlock = a.lockStorage(ctx, stored)
	return authority, a.mendIntermediate(ctx, authority, stored)
}

// lockStorage waits for the lock of an authority, and returns what lets it go. Where
// it cannot be had, there is none.
func (a *App) lockStorage(ctx caddy.Context, stored storedAuthority) (unlock func()) {
	name := stored.file("starpod")
	waiting, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	if err := ctx.Storage().Lock(waiting, name); err != nil {
		a.logger.Warn("Caddy's storage cannot be locked; instances that start together may end up with authorities of their own",
			zap.Error(err), zap.String("mend", "start one instance before the others"))
		return func() {}
	}
	return func() {
		if err := ctx.Storage().Unlock(context.WithoutCancel(ctx), name); err != nil {
			a.logger.Warn("unlocking Caddy's storage", zap.Error(err))
		}
	}
}

// dropHalf removes the certificate that an instance left which was killed before it
// stored the key. Only the holder of the lock may call it.
func (s storedAuthority) dropHalf(ctx context.Context, storage certmagic.Storage) error {
	cert := s.file("intermediate.crt")
	if storage.Exists(ctx, s.file("intermediate.key")) || !storage.Exists(ctx, cert) {
		return nil
	}
	if err := storage.Delete(ctx, cert); err != nil {
		return fmt.Errorf("removing an intermediate certificate without a key: %w", err)
	}
	return nil
}

// mendIntermediate reads the authority again, as another instance may have stood
// between its two files, and has it make another intermediate if that did not help.
func (a *App) mendIntermediate(ctx caddy.Context, authority *caddypki.CA, stored storedAuthority) error {
	if err := authority.Provision(ctx, authority.ID, a.logger); err != nil {
		return err
	}
	why := misfit(authority)
	if why == nil {
		return nil
	}
	a.logger.Warn("an intermediate certificate in Caddy's storage is of no use; making another",
		zap.String("authority", authority.ID), zap.Error(why))
	if err := ctx.Storage().Delete(ctx, stored.file("intermediate.crt")); err != nil {
		return fmt.Errorf("removing the intermediate certificate: %w", err)
	}
	err := authority.Provision(ctx, authority.ID, a.logger)
	if err == nil {
		err = misfit(authority)
	}
	if err != nil {
		return fmt.Errorf("the authority %s in Caddy's storage is damaged (%w); restore %s there from a copy, or remove it to "+
			"have another made, whose root clients then have to trust", authority.ID, err, stored)
	}
	return nil
}

// misfit tells why what the authority signs is not accepted. An intermediate that the
// configuration names is its author's business.
func misfit(authority *caddypki.CA) error {
	if authority.Intermediate != nil {
		return nil
	}
	chain := authority.IntermediateCertificateChain()
	public, ok := authority.IntermediateKey().Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(chain[0].PublicKey) {
		return errors.New("its intermediate certificate is of another key")
	}
	if err := chain[len(chain)-1].CheckSignatureFrom(authority.RootCertificate()); err != nil {
		return fmt.Errorf("its intermediate certificate is of another root: %w", err)
	}
	return nil
}

// early loads the app before others come to load Caddy's authorities. Apps are loaded
// in no particular order, but behind the admin endpoint, which loads its modules in
// the order of their names; and Caddy's own, pki, loads the authorities. With `admin
// off` there is no such order.
type early struct{}

// CaddyModule returns the Caddy module information.
func (early) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.early_starpod", New: func() caddy.Module { return new(early) }}
}

// Provision loads the app. Caddy keeps an error, and tells of it when it comes to the
// app itself.
func (early) Provision(ctx caddy.Context) error {
	_, _ = ctx.AppIfConfigured("starpod")
	return nil
}

// Routes implements caddy.AdminRouter.
func (early) Routes() []caddy.AdminRoute { return nil }

// Interface guards
var (
	_ caddy.AdminRouter = early{}
	_ caddy.Provisioner = early{}
)
