#!/usr/bin/env bash
# Builds what the end-to-end tests' Kubernetes is made of, once, and prints the directory on standard output:
#   hack/e2e-binaries.sh            build what is missing, then print
#   hack/e2e-binaries.sh --where    print, or fail if something is missing
# The directory is in a cache outside the repository (WARREN_E2E_CACHE, default ~/.cache/warren/e2e), named after
# a hash of what it is built from, so that it is built again when that changes and only then. The first time takes ten
# minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${WARREN_E2E_CACHE:-$HOME/.cache/warren/e2e}
kube=test/e2e/kube
export CGO_ENABLED=0

version=$(sed -nE 's#^(require)?[[:space:]]*k8s.io/kubernetes (v[^ ]+).*#\2#p' $kube/go.mod | head -1)
minor=${version#v1.}
ldflags="-s -w"
for set in gitVersion="$version" gitMajor=1 gitMinor="${minor%%.*}" gitTreeState=clean gitCommit=none \
	buildDate=1970-01-01T00:00:00Z; do
	ldflags+=" -X k8s.io/component-base/version.$set"
done

hash=$( (echo "$ldflags" && cat $kube/main.go $kube/{.,coredns,kwok}/go.{mod,sum}) | sha256sum | cut -c1-12)
dir=$cache/kubernetes-$version-$hash
if [ -d "$dir" ]; then
	echo "$dir"
	exit 0
fi
if [ "${1:-}" = --where ]; then
	echo "the end-to-end tests' Kubernetes is not built ($dir is missing): run make e2e-binaries" >&2
	exit 1
fi

say() { echo "$*" >&2; }
building=
cleanup() {
	if [ -n "$building" ]; then kill "$building" 2>/dev/null || true; fi
	rm -rf "$aside"
}
mkdir -p "$cache"
find "$cache" -maxdepth 1 -name 'kubernetes-*.??????' -mtime +1 -exec rm -rf {} + # builds that were killed
aside=$(mktemp -d "$dir.XXXXXX")
trap cleanup EXIT
build() { # name, module's directory, package, linker flags
	local start=$SECONDS next=20
	say "building $1"
	(cd "$2" && exec go build -trimpath -buildvcs=false -ldflags "$4" -o "$aside/$1" "$3") &
	building=$!
	while kill -0 $building 2>/dev/null; do
		sleep 0.5
		if [ $((SECONDS - start)) -ge $next ]; then
			say "  still building $1: $next s"
			next=$((next + 20))
		fi
	done
	wait $building || { say "building $1 failed"; exit 1; }
	building=
	say "  $1: $((SECONDS - start)) s, $(du -m "$aside/$1" | cut -f1) MB"
}
build kube $kube . "$ldflags"
for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
	ln -s kube "$aside/$name"
done
build etcd $kube go.etcd.io/etcd/server/v3 "-s -w"
build coredns $kube/coredns github.com/coredns/coredns "-s -w"
build kwok $kube/kwok sigs.k8s.io/kwok/cmd/kwok "-s -w"
chmod 755 "$aside"
mv -T "$aside" "$dir" 2>/dev/null || [ -d "$dir" ] # somebody else may have been faster
echo "$dir"
