package admin

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/controller/publish"
)

const (
	// lagAllowed is how long an agent may take to enforce a version before that is a problem.
	lagAllowed = 10 * time.Second
	// A CA certificate that ends within these is a warning, and an error.
	caWarn  = 30 * 24 * time.Hour
	caError = 7 * 24 * time.Hour
	// maxListed bounds how many rejected manifests and compile problems are listed one by one.
	maxListed = 100
)

// Status implements adminv1.AdminServer: every node that a manifest names or that ever connected.
func (s *Server) Status(ctx context.Context, _ *adminv1.StatusRequest) (*adminv1.StatusReply, error) {
	out := &adminv1.StatusReply{Controller: s.cfg.Controller()}
	states := make(map[string]publish.NodeState)
	for _, n := range s.cfg.Nodes() {
		if !strings.HasPrefix(n.Node, ca.WaypointCaller) {
			states[n.Node] = n
		}
	}
	empty := func() *adminv1.StatusReply { return &adminv1.StatusReply{} }
	answers := make(map[string]answer[*adminv1.StatusReply])
	for _, a := range askAll(ctx, s, s.cfg.Agents.Nodes(), "Status", &adminv1.StatusRequest{}, empty) {
		answers[a.node] = a
	}
	enrolled := s.enrolledByNode()
	for _, node := range s.allNodes(states, answers, enrolled) {
		a, asked := answers[node]
		n := &adminv1.NodeStatus{Node: node}
		if asked && a.err == nil {
			n = ownStatus(node, a.reply)
		}
		state := states[node]
		n.Connected, n.LatestVersion = state.Connected, s.cfg.Published.Version()
		if state.Nack != "" {
			n.LastNack = state.Nack
		}
		if !asked || a.err != nil {
			n.Version, n.EnforcedVersion, n.Epoch = state.AgentVersion, state.Acked, s.cfg.Controller().GetEpoch()
			n.ControllerConnected = state.Connected
			n.EnforcedUnix = unix(state.AckedAt)
		}
		n.Problems = append(n.Problems, s.nodeProblems(state, node, enrolled[node])...)
		if asked && a.err != nil {
			n.Problems = append(n.Problems, problem(adminv1.Problem_WARNING, node, "agent", "did not answer: "+a.err.Error(), "look at the agent's log"))
		}
		out.Nodes = append(out.Nodes, n)
		out.Problems = append(out.Problems, n.GetProblems()...)
	}
	for _, w := range s.waypoints(ctx) {
		out.Waypoints = append(out.Waypoints, w)
		out.Problems = append(out.Problems, w.GetProblems()...)
	}
	out.Problems = append(out.Problems, s.controllerProblems(out.GetController())...)
	slices.SortStableFunc(out.Problems, func(a, b *adminv1.Problem) int {
		return cmp.Or(cmp.Compare(b.GetSeverity(), a.GetSeverity()), cmp.Compare(a.GetNode(), b.GetNode()))
	})
	return out, nil
}

// ownStatus takes from an agent's answer what it says about its own node.
func ownStatus(node string, reply *adminv1.StatusReply) *adminv1.NodeStatus {
	n := &adminv1.NodeStatus{}
	if len(reply.GetNodes()) > 0 && reply.GetNodes()[0] != nil {
		n = reply.GetNodes()[0]
	}
	n.Node = node
	n.Problems = ownProblems(node, append(n.GetProblems(), reply.GetProblems()...))
	return n
}

// ownProblems are problems of one node, each once.
func ownProblems(node string, all []*adminv1.Problem) (out []*adminv1.Problem) {
	seen := make(map[string]bool)
	for _, p := range all {
		if id := p.GetSubject() + "\x00" + p.GetText(); !seen[id] {
			seen[id] = true
			p.Node = node
			out = append(out, p)
		}
	}
	return out
}

func (s *Server) enrolledByNode() map[string]int {
	out := make(map[string]int)
	for _, w := range s.cfg.Compiled().Decoded.Mesh.Workloads() {
		if w.Captured() && w.Node != "" {
			out[w.Node]++
		}
	}
	return out
}

func (s *Server) allNodes(states map[string]publish.NodeState, answers map[string]answer[*adminv1.StatusReply], enrolled map[string]int) []string {
	names := make(map[string]bool)
	for _, n := range s.cfg.Compiled().Nodes {
		names[n] = true
	}
	for n := range states {
		names[n] = true
	}
	for n := range answers {
		names[n] = true
	}
	for n := range enrolled {
		names[n] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// nodeProblems are those that the controller sees by itself.
func (s *Server) nodeProblems(state publish.NodeState, node string, enrolled int) []*adminv1.Problem {
	var out []*adminv1.Problem
	add := func(severity adminv1.Problem_Severity, text, hint string) {
		out = append(out, problem(severity, node, "agent", text, hint))
	}
	newest := s.cfg.Published.Version()
	severity := adminv1.Problem_WARNING
	if enrolled > 0 {
		severity = adminv1.Problem_ERROR
	}
	switch {
	case state.Node == "":
		add(severity, fmt.Sprintf("no agent ever connected; %d enrolled workloads run there", enrolled), "start the agent on this node; without Kubernetes it needs a join token: controller token create --node "+node)
	case !state.Connected:
		add(severity, fmt.Sprintf("not connected since %s; it keeps enforcing version %d", state.Since.UTC().Format(time.RFC3339), state.Acked), "look at the agent's log, and whether it reaches the controller")
	case state.Nack != "":
		add(adminv1.Problem_ERROR, fmt.Sprintf("refused version %d: %s", state.NackVersion, state.Nack), "it keeps enforcing what it had; are agent and controller of one release?")
	case state.Acked < newest && s.cfg.Now().Sub(s.cfg.Published.NewestCompiled()) > lagAllowed:
		add(adminv1.Problem_WARNING, fmt.Sprintf("enforces version %d, the newest is %d", state.Acked, newest), "look at the agent's log and at the node's load")
	}
	return out
}

func (s *Server) controllerProblems(c *adminv1.ControllerStatus) []*adminv1.Problem {
	var out []*adminv1.Problem
	for i, r := range c.GetRejected() {
		if i == maxListed {
			out = append(out, problem(adminv1.Problem_ERROR, "", "manifests", fmt.Sprintf("%d more are rejected", len(c.GetRejected())-i), ""))
			break
		}
		out = append(out, problem(adminv1.Problem_ERROR, "", "manifest", r, "what this file said before stays in force; correct it"))
	}
	for i, p := range s.cfg.Compiled().Problems {
		if i == maxListed {
			break
		}
		out = append(out, problem(adminv1.Problem_WARNING, "", "manifest", p, ""))
	}
	if end := c.GetCaNotAfterUnix(); end != 0 {
		left := time.Unix(end, 0).Sub(s.cfg.Now())
		text := "the CA's certificate ends " + time.Unix(end, 0).UTC().Format(time.RFC3339)
		hint := "agentctl ca rotate; without Kubernetes: put the next root into --ca-roots, then exchange --ca-cert and --ca-key"
		switch {
		case left < caError:
			out = append(out, problem(adminv1.Problem_ERROR, "", "CA", text, hint))
		case left < caWarn:
			out = append(out, problem(adminv1.Problem_WARNING, "", "CA", text, hint))
		}
	}
	return out
}

func problem(severity adminv1.Problem_Severity, node, subject, text, hint string) *adminv1.Problem {
	return &adminv1.Problem{Severity: severity, Node: node, Subject: subject, Text: text, Hint: hint}
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
