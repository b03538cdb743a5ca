#!/bin/sh
# Runs a command as another user in the namespace of examples/namespace.Caddyfile.
# As root. Arguments: the user, and the command. The user should have no other
# processes, into which the command could look, and the machine no AF_VSOCK.
set -eu
user=$1
shift
# The folder of the proxy is closed to others, since it holds the keys.
bundle=/run/starpod-ca-bundle.pem
install -m 644 /var/lib/starpod/proxy-ca-bundle.pem "$bundle"
# Without the capabilities that root has even in there, and no way to regain them.
exec ip netns exec starpod-ns \
	setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups \
	--bounding-set=-all --inh-caps=-all --no-new-privs \
	env SSL_CERT_FILE="$bundle" CURL_CA_BUNDLE="$bundle" NODE_EXTRA_CA_CERTS="$bundle" REQUESTS_CA_BUNDLE="$bundle" \
	"$@"
