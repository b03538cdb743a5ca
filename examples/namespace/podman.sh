#!/bin/sh
# Runs a container whose only way out is the proxy of examples/namespace.Caddyfile.
# As root. Arguments: the image and its command.
set -eu
exec podman run --rm \
	--network ns:/run/netns/starpod-ns \
	--volume /etc/netns/starpod-ns/resolv.conf:/etc/resolv.conf:ro \
	--volume /var/lib/starpod/proxy-ca-bundle.pem:/etc/ssl/certs/ca-certificates.crt:ro \
	--cap-drop all --security-opt no-new-privileges \
	"$@"
