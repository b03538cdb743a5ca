#!/bin/sh
# Installs the proxies from Debian that `make bench` puts beside this module. It never
# fails: what is missing is left out there.
set -u
missing=
command -v squid >/dev/null && [ -x /usr/lib/squid/security_file_certgen ] || missing="$missing squid-openssl"
command -v mitmdump >/dev/null || missing="$missing mitmproxy"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "bench-deps: without$missing; to have them, as root: apt-get install --no-install-recommends$missing" >&2
	exit 0
fi
echo "bench-deps: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >&2
# shellcheck disable=SC2086 # one word is one package
apt-get install -y -qq --no-install-recommends $missing >&2 || echo "bench-deps: could not install$missing" >&2
exit 0
