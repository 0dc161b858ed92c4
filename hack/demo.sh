#!/usr/bin/env bash
# Brings up the demo mesh, runs real traffic through it and shows what happened. Leaves it up.
set -euo pipefail
cd "$(dirname "$0")/.."
lab=demo
ctl() { bin/agentctl --lab "$lab" "$@"; }
in_pod() { bin/agentctl lab exec --lab "$lab" "$@"; }

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'; else bold='' dim='' off=''; fi
title() { printf '\n%s%s%s\n' "$bold" "$1" "$off"; }
say() { printf '%s$ %s%s\n' "$dim" "$*" "$off"; }

if [ "$(id -u)" -ne 0 ]; then
	echo "the demo makes network namespaces and loads eBPF programs: run it as root (sudo make demo)" >&2
	exit 1
fi
hack/deps.sh nftables curl
bin/agentctl lab check
bin/agentctl lab down --lab "$lab" >/dev/null
bin/agentctl lab up --lab "$lab" -f deploy/lab/demo >/dev/null

# jq_id END: the SPIFFE id of one end of a flow.
jq_id() { sed -n 's/.*"'"$1"'": *{[^}]*"spiffeId": *"\([^"]*\)".*/\1/p'; }

# call POD URL: what the server says of its caller, in one line.
call() {
	local answer
	say "agentctl lab exec -n ${1%/*} ${1#*/} -- curl $2"
	if answer=$(in_pod -n "${1%/*}" "${1#*/}" -- curl -sS --max-time 5 "$2" 2>&1); then
		printf '  %s saw its caller as %s\n' \
			"$(sed -n 's/.*"service": "\(.*\)",/\1/p' <<<"$answer")" "$(sed -n 's/.*"remoteAddr": "\(.*\)",/\1/p' <<<"$answer")"
	else
		printf '  %s\n' "$(head -n 1 <<<"$answer")"
	fi
}

title "Nodes and pods"
say "agentctl workloads"
ctl workloads
title "A call on one node, and one across nodes"
call shop/web http://cart.shop.svc.cluster.local:8080/
call shop/web http://catalog.shop.svc.cluster.local:8080/
title "A client outside the mesh"
call legacy/client http://web.shop.svc.cluster.local:8080/
title "A call that policy denies (payments lets only the cart in)"
call shop/web http://payments.shop.svc.cluster.local:8080/
say "agentctl authz can --from shop/web --to shop/payments:8080"
ctl authz can --from shop/web --to shop/payments:8080 | sed 's/^/  /' || true

sleep 1 # let what was just closed reach the flows
title "The mesh"
say "agentctl status"
ctl status
say "agentctl status pods"
ctl status pods
title "The last flows, with both SPIFFE ids"
say "agentctl flows --last 8"
ctl flows --last 8
say "agentctl flows --from shop/web --to shop/catalog --last 1 -o json"
ids=$(ctl flows --from shop/web --to shop/catalog --last 1 -o json)
printf '  %s -> %s\n' "$(jq_id src <<<"$ids")" "$(jq_id dst <<<"$ids")"
say "agentctl flows --verdict denied --last 2"
ctl flows --verdict denied --last 2

title "It is yours now. Next:"
cat <<END
  bin/agentctl --lab $lab flows -f                                    watch connections as they come and go
  bin/agentctl --lab $lab why shop/web payments.shop:8080             walk a connection's journey to where it fails
  bin/agentctl lab shell --lab $lab shop/web                          a shell inside a pod
  \$EDITOR deploy/lab/demo/30-policy.yaml                             change a policy: it takes effect at once
  make demo-down                                                      remove every trace
END
