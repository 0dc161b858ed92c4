package compile

import (
	"maps"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/api/meshv1"
)

// Waypoints is the audience of every waypoint.
const Waypoints = "waypoints"

// Node is the audience of one node's agent.
func Node(name string) string { return "node/" + name }

// audiences returns whom resources are for, where that is not everybody. A policy is decided on the nodes of the
// workloads that name it, and by waypoints: before those workloads, and for what the policy targets.
//
// What a workload says itself, the names of its policies and its mTLS mode, stays with it: whoever asks a node about a
// workload of another one finds a policy named that is not there, which denies, and never a workload that seems to have
// none.
func audiences(resources map[string]*meshv1.Resource) map[string][]string {
	out := make(map[string][]string)
	for key := range resources {
		if strings.HasPrefix(key, "policy/") || isForWaypoints(key) {
			out[key] = []string{Waypoints}
		}
	}
	for name, nodes := range nodesOf(resources) {
		if to, there := out["policy/"+name]; there { // else it was left out, and its workloads deny
			out["policy/"+name] = append(nodes, to...) // "node/" is before "waypoints"
		}
	}
	return out
}

// nodesOf returns the audiences of the nodes whose workloads name a policy, sorted, by the policy's name.
func nodesOf(resources map[string]*meshv1.Resource) map[string][]string {
	on := make(map[string][]*meshv1.Workload)
	for _, r := range resources {
		if w := r.GetWorkload(); w.GetNode() != "" {
			on[w.GetNode()] = append(on[w.GetNode()], w)
		}
	}
	out := make(map[string][]string)
	for _, node := range slices.Sorted(maps.Keys(on)) {
		audience := Node(node)
		for _, w := range on[node] {
			for _, name := range w.GetPolicies() {
				if to := out[name]; len(to) == 0 || to[len(to)-1] != audience {
					out[name] = append(to, audience)
				}
			}
		}
	}
	return out
}

// isForWaypoints tells whether only waypoints can do something with a resource.
func isForWaypoints(key string) bool {
	kind, _, _ := strings.Cut(key, "/")
	switch kind {
	case "route", "traffic", "authentication":
		return true
	}
	return false
}
