#!/usr/bin/env bash
# Runs every fuzz target of the module on as many inputs as told, one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
# A number of inputs, not a time: go test sometimes calls the end of the time a failure.
time=${1:-10000x}
n=0
while IFS=: read -r file target; do
	printf '%-28s %s\n' "$target" "$(dirname "$file")"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$(dirname "$file")" >/tmp/warren-fuzz.$$ 2>&1 || {
		cat /tmp/warren-fuzz.$$
		rm -f /tmp/warren-fuzz.$$
		exit 1
	}
	n=$((n + 1))
done < <(grep -rhoE --include='*_test.go' -H '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's#^\./##; s#:func #:#' | sort)
rm -f /tmp/warren-fuzz.$$
echo "$n fuzz targets, $time each, nothing found"
[ "$n" -ge 8 ]
