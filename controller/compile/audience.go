package compile

import (
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
	for _, r := range resources {
		w := r.GetWorkload()
		if w.GetNode() == "" {
			continue
		}
		for _, name := range w.GetPolicies() {
			if to, there := out["policy/"+name]; there { // else it was left out, and its workloads deny
				out["policy/"+name] = append(to, Node(w.GetNode()))
			}
		}
	}
	for key, to := range out {
		slices.Sort(to)
		out[key] = slices.Compact(to)
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
