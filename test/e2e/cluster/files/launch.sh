#!/bin/bash
# Makes a node's namespaces; runs in its network namespace. What is started here joins the node's cgroup in every
# hierarchy, so that this is the root of the cgroup namespace, and then goes into a leaf of v2's: a cgroup that
# gives controllers to others may have no processes of its own.
set -eu
if [ "${1:-}" != inside ]; then
	for dir in $CGROUPS; do echo $$ >"$dir/cgroup.procs"; done
	exec unshare --cgroup bash "$0" inside
fi
mkdir -p "$CGROUP2/init"
echo $$ >"$CGROUP2/init/cgroup.procs"
if [ -n "$UNIFIED" ]; then
	for controller in $(cat "$CGROUP2/cgroup.controllers"); do echo "+$controller" >"$CGROUP2/cgroup.subtree_control"; done
fi
exec unshare --pid --fork --kill-child=KILL --mount --uts --ipc bash "$N/init.sh"
