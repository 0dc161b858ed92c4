#!/usr/bin/env bash
# The end-to-end tests: builds the Kubernetes they run on if it is not there yet, then runs them. Arguments go to go
# test, e.g. -run TestClusterComesUp. Nothing is skipped: what is missing is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
	echo "the end-to-end tests make network namespaces, cgroups and mounts: run them as root (sudo make e2e)" >&2
	exit 1
fi
WARREN_E2E_BIN=$(hack/e2e-binaries.sh)
export WARREN_E2E_BIN WARREN_E2E=1
echo "Kubernetes: $WARREN_E2E_BIN"
said=$(mktemp)
trap 'rm -f "$said"' EXIT
# -p 1: a cluster has the machine to itself.
go test -count=1 -v -p 1 -timeout 40m "$@" ./test/e2e/... | tee "$said" && exit
# What the tests that failed said, once more: the clusters' logs above are long.
printf '\n== what failed\n'
awk -f hack/failures.awk "$said" "$said"
grep -E '^(ok|FAIL|panic:)' "$said" || true
exit 1
