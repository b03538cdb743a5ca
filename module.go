// Package starpod lets a program use a secret that it never holds.
//
// The program is given an opaque token, starpod:v1:…. A Caddy with this module
// stands on its way out: only there, and only towards the hosts that the token
// itself names, the token becomes the real value.
//
// The package registers with Caddy:
//
//   - the app "starpod" ([App]): certificate authority, isolation, status;
//   - http.handlers.starpod_secrets ([handler.Handler]): the proxy;
//   - http.handlers.starpod_view ([View]): the live view, on a site;
//   - tls.get_certificate.starpod ([CertGetter]): its certificates, for
//     ordinary TLS policies;
//   - caddy.listeners.starpod_transparent ([Transparent]) and the network
//     starpod/<namespace>, for clients that know of no proxy;
//   - admin.api.starpod ([Admin]): GET /starpod/, /starpod/status and /starpod/events;
//     and admin.api.early_starpod, which only loads the app first;
//   - the command `caddy starpod`.
//
// Go programs that want a proxy of their own, without a Caddy configuration,
// call [Start].
package starpod

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/starpod/caddy-starpod/handler"
)

func init() {
	caddy.RegisterModule(new(App))
	caddy.RegisterModule(Admin{})
	caddy.RegisterModule(early{})
	caddy.RegisterModule(CertGetter{})
	caddy.RegisterModule(handler.Handler{})
	caddy.RegisterModule(View{})
	caddy.RegisterModule(new(Transparent))
	caddy.RegisterNetwork(networkName, listenNamespace)

	httpcaddyfile.RegisterGlobalOption("starpod", parseGlobalOption)
	httpcaddyfile.RegisterDirective("starpod_secrets", handler.ParseDirective)
	httpcaddyfile.RegisterDirectiveOrder("starpod_secrets", httpcaddyfile.Before, "invoke")
	httpcaddyfile.RegisterHandlerDirective("starpod_view", parseView)
	httpcaddyfile.RegisterDirectiveOrder("starpod_view", httpcaddyfile.Before, "invoke") // behind the proxy

	caddycmd.RegisterCommand(command())
}
