package admin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/controller/publish"
	"github.com/warren-mesh/warren/mesh"
)

// origin is who answers: a node's agent, or a waypoint's pod. Answers are signed with it, whatever they say themselves.
type origin struct {
	node string
	pod  string // a waypoint's, "<namespace>/<name>"; empty for agents
	its  string // begins a sentence about it
}

// origin tells who a name is that can be asked.
func (s *Server) origin(name string) origin {
	pod, ok := strings.CutPrefix(name, ca.WaypointCaller)
	if !ok {
		return origin{node: name, its: "its agent"}
	}
	o := origin{pod: pod, its: "waypoint pod " + pod}
	if w := s.waypointPod(pod); w != nil {
		o.node = w.Node
	}
	return o
}

// everyone are all that can be asked.
func (s *Server) everyone() []string {
	return slices.Concat(s.cfg.Agents.Nodes(), s.cfg.Agents.Waypoints())
}

// name is a node's, or a waypoint's pod's.
func (o origin) name() string { return cmp.Or(o.pod, o.node) }

func (o origin) what() string {
	if o.pod != "" {
		return "waypoint pod " + o.pod
	}
	return "node " + o.node
}

// workloads are those that it says something about, if it is not a node.
func (o origin) workloads() []string {
	if o.pod == "" {
		return nil
	}
	return []string{o.pod}
}

// sign notes in a flow who reported it. Only waypoints read requests.
func (o origin) sign(f *adminv1.Flow) {
	f.Node, f.Pod = o.node, o.pod
	if o.pod == "" {
		f.Http = nil
		return
	}
	f.Reporter = "waypoint"
}

// waypointPod returns the workload of a waypoint's pod, nil if there is none of this name.
func (s *Server) waypointPod(fullName string) *mesh.Workload {
	for _, w := range s.cfg.Compiled().Decoded.Mesh.Workloads() {
		if w.Gateway != "" && w.FullName() == fullName {
			return w
		}
	}
	return nil
}

// waypoints returns the status of every pod of every waypoint, sorted by Gateway and pod.
func (s *Server) waypoints(ctx context.Context) []*adminv1.WaypointStatus {
	states := make(map[string]publish.NodeState)
	for _, n := range s.cfg.Nodes() {
		if pod, ok := strings.CutPrefix(n.Node, ca.WaypointCaller); ok {
			states[pod] = n
		}
	}
	answers := make(map[string]answer[*adminv1.StatusReply])
	empty := func() *adminv1.StatusReply { return &adminv1.StatusReply{} }
	for _, a := range askAll(ctx, s, s.cfg.Agents.Waypoints(), "Status", &adminv1.StatusRequest{}, empty) {
		answers[s.origin(a.node).pod] = a
	}
	var out []*adminv1.WaypointStatus
	serving := make(map[string]bool) // Gateways of which a pod is connected
	for _, w := range s.cfg.Compiled().Decoded.Mesh.Workloads() {
		if w.Gateway != "" {
			a, asked := answers[w.FullName()]
			status := s.waypoint(w, states[w.FullName()], a, asked)
			serving[w.Gateway] = serving[w.Gateway] || status.GetConnected()
			out = append(out, status)
		}
	}
	for _, w := range out {
		w.Problems = append(w.Problems, s.waypointProblems(w, states[w.GetNamespace()+"/"+w.GetPod()], serving)...)
	}
	slices.SortStableFunc(out, func(a, b *adminv1.WaypointStatus) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetGateway(), b.GetGateway()), cmp.Compare(a.GetPod(), b.GetPod()))
	})
	return out
}

// waypoint is one pod's status: what it says about itself, and what the controller knows better.
func (s *Server) waypoint(w *mesh.Workload, state publish.NodeState, a answer[*adminv1.StatusReply], asked bool) *adminv1.WaypointStatus {
	out := &adminv1.WaypointStatus{}
	answered := asked && a.err == nil && len(a.reply.GetWaypoints()) == 1
	if answered {
		out = a.reply.GetWaypoints()[0]
		out.Problems = ownProblems(w.Node, append(out.GetProblems(), a.reply.GetProblems()...))
	} else {
		out.Version, out.EnforcedVersion, out.Epoch = state.AgentVersion, state.Acked, s.cfg.Controller().GetEpoch()
		out.ControllerConnected, out.EnforcedUnix = state.Connected, unix(state.AckedAt)
	}
	_, out.Gateway, _ = strings.Cut(w.Gateway, "/")
	out.Namespace, out.Pod, out.Node = w.Namespace, w.Name, w.Node
	out.Connected, out.LatestVersion = state.Connected, s.cfg.Published.Version()
	out.LastNack = cmp.Or(state.Nack, out.GetLastNack())
	if asked && a.err != nil && !a.cannotTell() {
		out.Problems = append(out.Problems, problem(adminv1.Problem_WARNING, w.Node, "waypoint pod "+w.FullName(),
			"did not answer: "+a.err.Error(), "look at its log"))
	}
	return out
}

// waypointProblems are those that the controller sees by itself. A pod that is away is an error if no other pod of its
// Gateway is there: traffic never goes past a waypoint.
func (s *Server) waypointProblems(w *adminv1.WaypointStatus, state publish.NodeState, serving map[string]bool) []*adminv1.Problem {
	gateway, pod := w.GetNamespace()+"/"+w.GetGateway(), w.GetNamespace()+"/"+w.GetPod()
	var out []*adminv1.Problem
	add := func(severity adminv1.Problem_Severity, text, hint string) {
		out = append(out, problem(severity, w.GetNode(), "waypoint pod "+pod, text, hint))
	}
	severity, away := adminv1.Problem_WARNING, ""
	if !serving[gateway] {
		severity, away = adminv1.Problem_ERROR, "; no other pod of Gateway "+gateway+" is, so what has to go through it is refused"
	}
	newest := s.cfg.Published.Version()
	switch {
	case state.Node == "":
		add(severity, "it never connected"+away, "look at the pod's state and at its log")
	case !state.Connected:
		add(severity, fmt.Sprintf("not connected since %s; if it runs it enforces version %d%s", state.Since.UTC().Format(time.RFC3339), state.Acked, away),
			"look at the pod's state and at its log, and whether it reaches the controller")
	case state.Nack != "":
		add(adminv1.Problem_ERROR, fmt.Sprintf("refused version %d: %s", state.NackVersion, state.Nack), "it keeps enforcing what it had; are it and the controller of one release?")
	case state.Acked < newest && s.cfg.Now().Sub(s.cfg.Published.NewestCompiled()) > lagAllowed:
		add(adminv1.Problem_WARNING, fmt.Sprintf("enforces version %d, the newest is %d", state.Acked, newest), "look at its log and at its node's load")
	}
	return out
}
