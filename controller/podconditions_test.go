package controller

import (
	"testing"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/controller/kube"
	"github.com/warren-mesh/warren/mesh"
)

func TestAPodSaysWhereItStands(t *testing.T) {
	web := func(enrolled bool) *mesh.Workload {
		return &mesh.Workload{UID: "u", Namespace: "shop", Name: "web", ServiceAccount: "web", TrustDomain: "cluster.local", Node: "n1", Enrolled: enrolled}
	}
	cases := map[string]struct {
		w              *mesh.Workload
		node           string // that reports the state
		state          string
		was            bool
		status, reason string // "" if nothing is said
	}{
		"nobody knows it":             {nil, "n1", "enrolled", true, "", ""},
		"never in the mesh":           {web(false), "n1", "unmanaged", false, "", ""},
		"left the mesh":               {web(false), "n1", "unmanaged", true, "False", "NotWanted"},
		"its agent is silent":         {web(true), "", "", false, "False", "NotReported"},
		"another node says it has it": {web(true), "n2", "enrolled", false, "False", "NotReported"},
		"enrolled":                    {web(true), "n1", "enrolled", false, "True", "Enrolled"},
		"pending":                     {web(true), "n1", "pending", true, "False", "Pending"},
		"not found on its node":       {web(true), "n1", "lost", true, "False", "NotFound"},
		"a state of a newer version":  {web(true), "n1", "dreaming", true, "False", "NotEnrolled"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := newPodReports()
			if c.node != "" {
				r.nodes[c.node] = map[string]*adminv1.PodState{"u": {Uid: "u", State: c.state, Reason: "why"}}
			}
			got, say := condition(c.w, r, c.was)
			if say != (c.status != "") || say && (got.Status != c.status || got.Reason != c.reason || got.Message == "") {
				t.Errorf("got %+v, %v", got, say)
			}
		})
	}
}

func TestAPolicySaysWhetherItIsInForce(t *testing.T) {
	cases := map[string]struct {
		v                    verdict
		accepted, programmed string
		reason               string
	}{
		"bad":                 {verdict{"u", 1, "spec.action: want ALLOW", 0, 0, ""}, "False", "False", "Invalid"},
		"selects nothing":     {verdict{"u", 1, "", 0, 0, ""}, "True", "True", "NoWorkloads"},
		"on its way":          {verdict{"u", 1, "", 1, 2, ""}, "True", "False", "Pending"},
		"enforced everywhere": {verdict{"u", 1, "", 2, 2, ""}, "True", "True", "Programmed"},
		"no waypoint at all":  {verdict{"u", 1, "", 0, 0, "no waypoint"}, "True", "False", "NoWaypoint"},
		"no waypoint for one": {verdict{"u", 1, "", 2, 2, "no waypoint"}, "True", "False", "NoWaypoint"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for _, got := range c.v.conditions() {
				switch {
				case got.Type == kube.Accepted && string(got.Status) != c.accepted:
					t.Errorf("accepted: %+v", got)
				case got.Type == kube.Programmed && (string(got.Status) != c.programmed || got.Reason != c.reason):
					t.Errorf("programmed: %+v", got)
				}
			}
		})
	}
}
