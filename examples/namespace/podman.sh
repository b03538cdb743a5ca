#!/bin/sh
# Runs a container whose only way out is the proxy of examples/namespace.Caddyfile.
# As root. Arguments: the image and its command, perhaps behind options of podman.
# Where root may not raise limits or make control groups, as in a container, these
# are needed: --cgroups=disabled --ulimit nofile=1024:1024 --ulimit nproc=1024:1024
# (crun takes no machine with both versions of control groups; runc does.)
set -eu
exec podman run --rm \
	--network ns:/run/netns/starpod-ns \
	--volume /etc/netns/starpod-ns/resolv.conf:/etc/resolv.conf:ro \
	--volume /var/lib/starpod/proxy-ca-bundle.pem:/etc/ssl/certs/ca-certificates.crt:ro \
	--cap-drop all --security-opt no-new-privileges \
	"$@"
