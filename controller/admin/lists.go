package admin

import (
	"context"
	"maps"
	"slices"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/controller/compile"
	"github.com/warren-mesh/warren/controller/manifest"
	"github.com/warren-mesh/warren/internal/meshview"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
)

// Workloads implements adminv1.AdminServer.
func (s *Server) Workloads(_ context.Context, req *adminv1.ListRequest) (*adminv1.WorkloadsReply, error) {
	return meshview.Workloads(s.cfg.Compiled().Decoded.Mesh, req.GetNamespace()), nil
}

// Services implements adminv1.AdminServer.
func (s *Server) Services(_ context.Context, req *adminv1.ListRequest) (*adminv1.ServicesReply, error) {
	return meshview.Services(s.cfg.Compiled().Decoded.Mesh, req.GetNamespace()), nil
}

func wanted(req *adminv1.ListRequest, namespace string) bool {
	return req.GetNamespace() == "" || req.GetNamespace() == namespace
}

// Policies implements adminv1.AdminServer. A policy is wanted on the nodes of the workloads that it selects, and
// enforced on those whose agents acknowledged a version that has both it and the selection.
func (s *Server) Policies(_ context.Context, req *adminv1.ListRequest) (*adminv1.PoliciesReply, error) {
	c := s.cfg.Compiled()
	acked := make(map[string]uint64)
	for _, n := range s.cfg.Nodes() {
		acked[n.Node] = n.Acked
	}
	texts := make(map[string]*policy.Policy)
	for _, p := range c.Decoded.Policies.All() {
		texts[p.FullName()] = p
	}
	out := &adminv1.PoliciesReply{}
	for _, sel := range c.Policies {
		if wanted(req, sel.Namespace) {
			info := s.policyInfo(c, &sel, "AuthorizationPolicy", "policy/"+sel.FullName(), acked)
			info.Text = policyText(texts[sel.FullName()])
			info.Rules = uint32(len(info.GetText()))
			if texts[sel.FullName()] == nil {
				info.Text = []string{"rejected: whatever it selects denies"}
			}
			out.Policies = append(out.Policies, info)
		}
	}
	for _, sel := range c.PeerAuthentications {
		if wanted(req, sel.Namespace) {
			out.Policies = append(out.Policies, s.policyInfo(c, &sel, "PeerAuthentication", "", acked))
		}
	}
	for _, sel := range c.Authentications {
		if wanted(req, sel.Namespace) {
			out.Policies = append(out.Policies, s.policyInfo(c, &sel, "RequestAuthentication", "authentication/"+sel.FullName(), acked))
		}
	}
	return out, nil
}

func policyText(p *policy.Policy) []string {
	if p == nil {
		return nil
	}
	var lines []string
	for _, r := range p.Rules {
		lines = append(lines, r.String())
	}
	return lines
}

// policyInfo describes one selection; key is the resource that carries the policy, empty if workloads carry it.
func (s *Server) policyInfo(c *compile.Output, sel *compile.Selection, kind, key string, acked map[string]uint64) *adminv1.PolicyInfo {
	info := &adminv1.PolicyInfo{Kind: kind, Namespace: sel.Namespace, Name: sel.Name, Action: sel.Action, Scope: sel.Scope,
		Targets: sel.Targets, Unenforced: sel.Unenforced}
	need := make(map[string]uint64) // by node, or waypoint's pod
	for _, uid := range sel.UIDs {
		w := c.Decoded.Mesh.Workload(mesh.UID(uid))
		if w == nil {
			continue
		}
		info.Workloads = append(info.Workloads, w.FullName())
		if kind == manifest.KindRequestAuthentication {
			continue // only waypoints read requests
		}
		need[w.Node] = max(need[w.Node], s.cfg.Published.ChangedIn("workload/"+uid))
		if key != "" {
			need[w.Node] = max(need[w.Node], s.cfg.Published.ChangedIn(key))
		}
	}
	s.needWaypoints(c, sel, key, need)
	slices.Sort(info.GetWorkloads())
	info.Wanted = uint32(len(need))
	for _, node := range slices.Sorted(maps.Keys(need)) {
		if need[node] > 0 && acked[node] >= need[node] {
			info.Enforced++
		}
	}
	return info
}

// needWaypoints adds the pods of the waypoints that enforce a policy.
func (s *Server) needWaypoints(c *compile.Output, sel *compile.Selection, key string, need map[string]uint64) {
	if len(sel.Gateways) == 0 {
		return
	}
	for _, w := range c.Decoded.Mesh.Workloads() {
		if w.Gateway != "" && slices.Contains(sel.Gateways, w.Gateway) {
			need[ca.WaypointCaller+w.FullName()] = s.cfg.Published.ChangedIn(key)
		}
	}
}
