package starpod

import (
	"encoding/json"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/starpod/caddy-starpod/handler"
)

// Admin serves GET /starpod/, the live view, and what is in it, GET /starpod/status
// and GET /starpod/events, on Caddy's admin endpoint.
type Admin struct{}

// CaddyModule returns the Caddy module information.
func (Admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.starpod", New: func() caddy.Module { return new(Admin) }}
}

// Routes implements caddy.AdminRouter.
func (Admin) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/starpod/{$}", Handler: caddy.AdminHandlerFunc(servePage)},
		{Pattern: "/starpod/status", Handler: caddy.AdminHandlerFunc(serveStatus)},
		{Pattern: "/starpod/events", Handler: caddy.AdminHandlerFunc(serveEvents)},
	}
}

// Status is the answer of GET /starpod/status.
type Status struct {
	Tier      Tier             `json:"tier"`
	Namespace *NamespaceStatus `json:"namespace,omitempty"`
	Attach    *AttachStatus    `json:"attach,omitempty"`
	CA        CAStatus         `json:"ca"`
	Proxies   []ProxyStatus    `json:"proxies"`
	Counts    handler.Counts   `json:"counts"`
}

// NamespaceStatus describes the namespace that programs can join.
type NamespaceStatus struct {
	Name       string `json:"name"`
	Path       string `json:"path"`
	Host       string `json:"host"`        // address of the proxy's end
	ResolvConf string `json:"resolv_conf"` // file for programs in it

	// Lost is what somebody has taken away from it, "" if it is whole.
	Lost string `json:"lost,omitempty"`
}

// AttachStatus describes where commands attach.
type AttachStatus struct {
	Socket   string `json:"socket"`
	Commands int    `json:"commands"` // that are attached
}

// CAStatus describes the certificate authority.
type CAStatus struct {
	Fingerprint string `json:"fingerprint"` // SHA-256 of the root
	NotBefore   string `json:"not_before"`  // RFC 3339
	NotAfter    string `json:"not_after"`   // RFC 3339
	Bundle      string `json:"bundle"`      // file for clients
	SystemRoots string `json:"system_roots,omitempty"`
}

// ProxyStatus describes one starpod_secrets directive.
type ProxyStatus struct {
	Listen    []string `json:"listen"`
	Intercept bool     `json:"intercept"`
	Keys      int      `json:"keys"` // how many keys open tokens
}

func serveStatus(w http.ResponseWriter, r *http.Request) error {
	if err := checkView(r); err != nil {
		return err
	}
	app, err := caddy.ActiveContext().AppIfConfigured("starpod")
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Message: "no starpod in the running configuration"}
	}
	status, err := app.(*App).Status(r.Context())
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusInternalServerError, Message: err.Error(), Err: err}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(status)
}

// Interface guard
var _ caddy.AdminRouter = Admin{}
