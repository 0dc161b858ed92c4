#!/usr/bin/env bash
# Installs the Debian packages that tests and code generation need, or says what is missing. With arguments, only those.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
while read -r package _; do
	case "$package" in '' | '#'*) continue ;; esac
	if [ $# -gt 0 ] && [[ " $* " != *" $package "* ]]; then continue; fi
	if [ "$package" = nodejs ] && command -v node >/dev/null; then continue; fi
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done <hack/packages.txt

if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "missing packages: ${missing[*]}" >&2
	echo "install them, e.g.: sudo apt-get install ${missing[*]}" >&2
	exit 1
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# No daemon that a package brings may start here: tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
	trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
