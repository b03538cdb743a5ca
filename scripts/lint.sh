#!/bin/sh
# gofmt, the list of dependencies, go vet and a build for every system, staticcheck,
# and govulncheck where its database can be reached. Arguments: the two tools as
# module@version.
set -eu
staticcheck=$1 govulncheck=$2

unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
	printf 'gofmt would change:\n%s\n' "$unformatted" >&2
	exit 1
fi

scripts/dependencies.sh

go vet ./...
for module in e2e/manifests e2e/bench/goproxy; do
	(cd "$module" && go vet ./...)
done
for os in darwin windows freebsd; do
	echo "go vet and build for $os"
	GOOS=$os go vet ./...
	GOOS=$os go build -o /dev/null ./cmd/caddy
done

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
GOBIN=$tools go install "$staticcheck"
GOBIN=$tools go install "$govulncheck"

"$tools/staticcheck" ./...

# Exit status 3 means findings; anything else that is not 0, that it could not run.
status=0
"$tools/govulncheck" ./... || status=$?
case $status in
0) ;;
3) exit 3 ;;
*) echo "govulncheck did not run (status $status): its database cannot be reached from here" >&2 ;;
esac
