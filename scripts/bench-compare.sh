#!/usr/bin/env bash
# Compares benchmarks of the working tree with those of the commit that it branched
# off from, or of the commit before it where it is the main branch. It takes about a
# minute, informs, and never fails: machines of CI are too noisy for more.
#
#   bench-compare.sh [COMMIT]   against this commit instead
set -uo pipefail
cd "$(dirname "$0")/.."
benchstat=golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
rounds=6

# What is measured: package, benchmarks.
benchmarks='tokens ^Benchmark(ScanClean|Open150)$
handler ^Benchmark(Request|Mask|Frames)$
ca ^Benchmark(Mint|LeafCached)$'

give_up() {
	echo "benchmarks: $*; no comparison"
	exit 0
}

git rev-parse --quiet --verify HEAD >/dev/null || give_up "this is no git repository"
head=$(git rev-parse HEAD)
base=${1-}
if [ -z "$base" ]; then
	for branch in origin/main main; do
		base=$(git merge-base HEAD "$branch" 2>/dev/null) && break
	done
	[ -n "$base" ] || give_up "there is no merge base with main (a shallow clone has none)"
	if [ "$base" = "$head" ]; then
		base=$(git rev-parse --quiet --verify HEAD~1) || give_up "there is no commit before this one (a shallow clone has none)"
	fi
fi
base=$(git rev-parse --quiet --verify "$base^{commit}") || give_up "$1 is no commit here"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/base"
git archive "$base" | tar -x -C "$work/base" || give_up "commit $base cannot be unpacked"

# Binaries first, so that nothing is compiled between measurements.
while read -r package _; do
	for side in base head; do
		[ "$side" = head ] && tree=. || tree=$work/base
		timeout 180 go test -C "$tree" -c -o "$work/$side-$package" "./$package" || give_up "./$package of $side does not build"
	done
done <<<"$benchmarks"

# Sides take turns, so that what else the machine does hits both. A benchmark that
# one side lacks is shown for the other.
for _ in $(seq $rounds); do
	while read -r package pattern; do
		for side in base head; do
			(cd "$package" && timeout 30 "$work/$side-$package" -test.run '^$' -test.bench "$pattern" -test.benchtime 100ms) >>"$work/$side.txt" 2>/dev/null ||
				echo "benchmarks: some of ./$package did not run on the $side side"
		done
	done <<<"$benchmarks"
done
echo "benchmarks: base is $(git log -1 --format='%h %s' "$base"), head is what is here"
cd "$work" && timeout 120 go run "$benchstat" base=base.txt head=head.txt || give_up "benchstat could not run"
exit 0
