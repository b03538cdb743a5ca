#!/bin/sh
# Sees that docs/dependencies.md has a row for each module that go.mod names
# directly, and for none besides.
set -eu
document=docs/dependencies.md

direct=$(sed -n '/^require (/,/^)/p' go.mod | grep -v '// indirect' | sed -n 's/^\t\([^ ]*\) v.*/\1/p' | sort)
listed=$(sed -n 's/^| `\([^`]*\)` |.*/\1/p' "$document" | sort)

status=0
for module in $direct; do
	echo "$listed" | grep -qxF "$module" || {
		echo "$document has no row for $module, which go.mod names: say what it is for, or do without it" >&2
		status=1
	}
done
for module in $listed; do
	echo "$direct" | grep -qxF "$module" || {
		echo "$document has a row for $module, which go.mod does not name: remove the row" >&2
		status=1
	}
done
exit $status
