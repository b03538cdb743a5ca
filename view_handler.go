package starpod

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/starpod/caddy-starpod/handler"
)

// View serves the live view of the running proxies: a page at each path that ends
// in a slash, and beside it status and events, the same as on the admin endpoint.
// Other paths, and requests on their way through a proxy, go on to the next
// handler. Whoever may ask sees names of secrets, destinations and paths, never a
// value: let it stand behind an authentication.
type View struct {
	ended context.Context // with the server
	end   context.CancelFunc
}

// CaddyModule returns the Caddy module information.
func (View) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.starpod_view", New: func() caddy.Module { return new(View) }}
}

// Provision sees that streams end with their server, which would wait for them.
func (v *View) Provision(ctx caddy.Context) error {
	v.ended, v.end = context.WithCancel(ctx)
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterOnShutdown(v.end)
	}
	return nil
}

// Cleanup implements caddy.CleanerUpper.
func (v *View) Cleanup() error {
	if v.end != nil {
		v.end()
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (v *View) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	serve := v.serves(r)
	if serve == nil {
		return next.ServeHTTP(w, r)
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
	}
	err := serve(w, r)
	if answer := (caddy.APIError{}); errors.As(err, &answer) {
		return caddyhttp.Error(answer.HTTPStatus, errors.New(answer.Message))
	}
	return err
}

// serves returns what answers a request, nil if nothing here does.
func (v *View) serves(r *http.Request) func(http.ResponseWriter, *http.Request) error {
	if handler.IsForwarded(r) {
		return nil
	}
	switch dir, name := path.Split(r.URL.Path); {
	case name == "" && dir != "":
		return servePage
	case name == "status":
		return serveStatus
	case name == "events":
		return v.serveEvents
	}
	return nil
}

// serveEvents sends events by any version of HTTP. They end with the server, at the
// latest when a reload replaces it; browsers come back, and miss nothing.
func (v *View) serveEvents(w http.ResponseWriter, r *http.Request) error {
	return streamEvents(w, r, func(w http.ResponseWriter) (*eventStream, error) {
		ctx, cancel := context.WithCancel(r.Context())
		stop := context.AfterFunc(v.ended, cancel)
		closed := func() {
			stop()
			cancel()
		}
		control := http.NewResponseController(w)
		s := &eventStream{out: flushed{w, control}, limit: control.SetWriteDeadline, close: closed, gone: ctx.Done()}
		_, err := io.WriteString(s, streamStart)
		return s, err
	})
}

// flushed sends each piece at once.
type flushed struct {
	io.Writer
	control *http.ResponseController
}

func (f flushed) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}

// parseView reads the directive starpod_view. Syntax:
//
//	starpod_view [<matcher>]
func parseView(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	v := new(View)
	return v, v.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens.
func (v *View) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("starpod_view takes nothing but a matcher, not %q", d.Val())
	}
	if d.NextBlock(0) {
		return d.Errf("starpod_view has no options, so not %q", d.Val())
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*View)(nil)
	_ caddy.CleanerUpper          = (*View)(nil)
	_ caddyhttp.MiddlewareHandler = (*View)(nil)
	_ caddyfile.Unmarshaler       = (*View)(nil)
)
