#!/usr/bin/env bash
# The Gateway API's conformance suite against Warren on a real Kubernetes of this machine (test/e2e/README.md), with a
# waypoint in each of the suite's namespaces. Writes the suite's report to docs/conformance. Arguments go to the suite,
# e.g. -run-test=MeshHTTPRouteWeight, with which no report is written.
#   CONFORMANCE_CLUSTER=name     the cluster's name (conformance); one that is up is used as it is, and kept
#   CONFORMANCE_WAYPOINTS=none   without waypoints: shows what the suite asks for beyond layer 4
#   CONFORMANCE_KEEP=1           leave the cluster up afterwards
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
	echo "the cluster is made of network namespaces, cgroups and mounts: run this as root (sudo make conformance)" >&2
	exit 1
fi
name=${CONFORMANCE_CLUSTER:-conformance}
version=$(sed -n 's/^appVersion: //p' deploy/chart/Chart.yaml)
tag=$version-$(date +%s) # another one each time, so that a cluster that is up takes what was built now
module=$PWD/test/conformance
export CGO_ENABLED=0
say() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

WARREN_E2E_BIN=$(hack/e2e-binaries.sh)
export WARREN_E2E_BIN
work=$(mktemp -d /tmp/warren-conformance-XXXXXX)
made=
finish() {
	if [ -n "$made" ] && [ -z "${CONFORMANCE_KEEP:-}" ]; then "$work/cluster" --name "$name" down || true; fi
	rm -rf "$work"
}
trap finish EXIT

say "build"
go build -trimpath -o "$work/cluster" ./test/e2e/cmd/cluster
cluster() { "$work/cluster" --name "$name" "$@"; }
kubectl() { cluster kubectl -- "$@"; }
go build -trimpath -ldflags "-X github.com/warren-mesh/warren/internal/version.release=$version" -o "$work/agentctl" ./cmd/agentctl
go run ./hack/images -out "$work" -arches "$(go env GOARCH)" -registry localhost/warren -version "$tag"
(cd "$module" && go vet ./... && go test ./...)
(cd "$module" && go build -trimpath -o "$work/echo" ./echo && go test -c -o "$work/conformance.test" .)
api=$(cd "$module" && go list -m -f '{{with .Replace}}{{.Dir}}{{end}}' sigs.k8s.io/gateway-api)
suite=$(cd "$module" && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api/conformance)
# The image is the project's own, under the name that the suite's manifests have.
image=$(sed -n 's/^ *image: *//p' "$suite/mesh/manifests.yaml" | sort -u)
cluster pack --ref "$image" "$work/echo.tar" "/server=$work/echo" "/client=$work/echo"

if ! cluster info >/dev/null 2>&1; then
	say "cluster $name"
	made=yes
	cluster up
fi
# On a cluster that is up: nothing of an earlier run.
kubectl delete namespace --ignore-not-found gateway-conformance-mesh gateway-conformance-mesh-consumer
cluster load "$work/echo.tar" "$work"/warren-*.tar

say "Gateway API, experimental channel"
for crd in "$api"/config/crd/experimental/gateway.networking*.yaml; do
	kubectl apply --server-side --force-conflicts -f "$crd" >/dev/null
done
kubectl wait --for=condition=Established --timeout=60s crd httproutes.gateway.networking.k8s.io \
	grpcroutes.gateway.networking.k8s.io gateways.gateway.networking.k8s.io

say "Warren $version"
if kubectl get namespace warren-system >/dev/null 2>&1; then verb=upgrade; else verb=install; fi
cluster run -- "$work/agentctl" $verb --set image.registry=localhost/warren --set image.tag="$tag"

say "the suite"
mkdir -p docs/conformance
report=$PWD/docs/conformance/experimental-$version-default-report.yaml
status=0
cluster run -- env WARREN_CONFORMANCE_VERSION="$version" WARREN_CONFORMANCE_WAYPOINTS="${CONFORMANCE_WAYPOINTS:-}" \
	"$work/conformance.test" -test.v -test.timeout 60m -test.run '^Test(Conformance|BeyondTheSuite)$' \
	-report-output="$work/report.yaml" "$@" | tee "$work/log" || status=$?
grep -E '^(    )?--- (PASS|FAIL)' "$work/log" || true
if [ -f "$work/report.yaml" ]; then
	install -m 644 "$work/report.yaml" "$report"
	echo "report: $report"
fi
exit "$status"
