#!/usr/bin/env bash
# Everything that proves it. Needs root; the last lines are go test's own.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
	echo "the tests make network namespaces and load eBPF programs: run them as root (sudo make test)" >&2
	exit 1
fi
stage() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

stage "lint";                        make --no-print-directory lint
stage "generated code is fresh";     make --no-print-directory generate-check
stage "fuzz";                        make --no-print-directory fuzz
stage "capture on Linux 6.1";        make --no-print-directory kernel-test
stage "demo comes up and goes";      make --no-print-directory demo >/dev/null && make --no-print-directory demo-down
stage "bench, its smoke form";       make --no-print-directory bench-smoke
stage "race detector";               make --no-print-directory race
stage "tests";                       go test -count=1 -timeout 20m ./...
