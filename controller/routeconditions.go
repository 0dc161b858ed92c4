package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/controller/compile"
	"github.com/warren-mesh/warren/controller/kube"
	"github.com/warren-mesh/warren/controller/manifest"
)

// routeReporter writes on each route of the Gateway API what became of it at the parents that are the mesh's business, and
// on each TrafficPolicy whether it is accepted, and where it is in force.
type routeReporter struct {
	replica    *replica
	controller *Controller
	said       map[manifest.Key]string // what was written, and of what
}

func (p *routeReporter) run(ctx context.Context) error { return p.controller.regularly(ctx, p.report) }

// report writes what changed, maxReports at a time: the rest follows.
func (p *routeReporter) report(ctx context.Context) {
	out := p.controller.state.compiled()
	compiled := make(map[manifest.Key]compile.RouteStatus, len(out.Routes))
	for _, s := range out.Routes {
		compiled[s.Key] = s
	}
	there := make(map[manifest.Key]bool)
	written := 0
	for _, r := range p.replica.cluster.Routes() {
		there[r.Key] = true
		parents, known := wantedParents(r, compiled[r.Key])
		if !known || written >= maxReports {
			continue
		}
		now := digest(r.UID, r.Generation, r.Rejected, parents)
		if p.said[r.Key] == now && (r.Stated || len(parents) == 0) {
			continue
		}
		written++
		p.note(r.Key, now, p.replica.cluster.SetRouteStatus(ctx, r, parents))
	}
	p.reportTraffic(ctx, out, there, maxReports-written)
	for key := range p.said {
		if !there[key] {
			delete(p.said, key)
		}
	}
}

// note remembers what was written. A conflict means that somebody else wrote at the same time: the next time it works.
func (p *routeReporter) note(key manifest.Key, now string, err error) {
	switch {
	case err == nil:
		p.said[key] = now
	case !apierrors.IsConflict(err):
		p.replica.cfg.Log.Warn("cannot write a status", "err", err)
	}
}

// wantedParents is what is to be said about a route as it is now; known is false as long as that is not known, or if
// nothing was ever said and nothing is to be.
func wantedParents(r kube.Route, s compile.RouteStatus) (parents []kube.RouteParent, known bool) {
	switch {
	case r.Rejected != "":
		return nil, true
	case s.Name == "":
		return nil, r.Stated // it has no parent of ours any more
	case s.UID != r.UID || s.Generation != r.Generation:
		return nil, false // yet to be compiled
	}
	for _, parent := range s.Parents {
		one := kube.RouteParent{Ref: parent.Ref}
		for _, c := range parent.Conditions {
			one.Conditions = append(one.Conditions, routeCondition(c))
		}
		parents = append(parents, one)
	}
	return parents, true
}

// digest tells what was said from what is to be said.
func digest(parts ...any) string {
	raw, err := json.Marshal(parts)
	if err != nil {
		return "" // never the same as what was said
	}
	return string(raw)
}

func routeCondition(c compile.RouteCondition) metav1.Condition {
	status := metav1.ConditionFalse
	if c.Status {
		status = metav1.ConditionTrue
	}
	return metav1.Condition{Type: c.Type, Status: status, Reason: c.Reason, Message: clipped(c.Message)}
}

// reportTraffic writes on TrafficPolicies whether they are accepted; those that could not be read are the business of
// the reporter of policies.
func (p *routeReporter) reportTraffic(ctx context.Context, out *compile.Output, there map[manifest.Key]bool, most int) {
	for _, s := range out.Traffic {
		there[s.Key] = true
		conditions := []metav1.Condition{routeCondition(s.Condition), p.programmed(out, s)}
		now := digest(s.UID, s.Generation, conditions)
		if p.said[s.Key] == now || most <= 0 {
			continue
		}
		most--
		policy := kube.Policy{Key: s.Key, UID: s.UID, Generation: s.Generation}
		p.note(s.Key, now, p.replica.cluster.SetConditions(ctx, policy, conditions...))
	}
}

// programmed says how many of the waypoints' pods that a TrafficPolicy concerns have it.
func (p *routeReporter) programmed(out *compile.Output, s compile.TrafficStatus) metav1.Condition {
	acked := make(map[string]uint64)
	for _, n := range p.controller.watchers.Nodes() {
		acked[n.Node] = n.Acked
	}
	since := p.controller.publisher.ChangedIn("traffic/" + s.Namespace + "/" + s.Name)
	pods, have := 0, 0
	for _, w := range out.Decoded.Mesh.Workloads() {
		if w.Gateway == "" || !slices.Contains(s.Gateways, w.Gateway) {
			continue
		}
		pods++
		if since > 0 && acked[ca.WaypointCaller+w.FullName()] >= since {
			have++
		}
	}
	condition := metav1.Condition{Type: kube.Programmed, Status: metav1.ConditionFalse, Reason: "Pending",
		Message: fmt.Sprintf("in force in %d of %d pods of waypoints", have, pods)}
	switch {
	case len(s.Gateways) == 0:
		condition.Reason, condition.Message = compile.ReasonNoWaypoint, "nothing that it targets has a waypoint"
	case pods == 0:
		condition.Message = "the waypoints of what it targets have no pods"
	case have == pods:
		condition.Status, condition.Reason = metav1.ConditionTrue, "Programmed"
	}
	return condition
}
