package controller

import (
	"context"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/controller/kube"
	"github.com/warren-mesh/warren/controller/manifest"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
)

// podReporter writes on pods whether they are in the mesh, and why not.
type podReporter struct {
	replica    *replica
	controller *Controller
}

func (p *podReporter) run(ctx context.Context) error { return p.controller.regularly(ctx, p.report) }

// report writes what has changed, so much at a time that churn elsewhere is not held up.
func (p *podReporter) report(ctx context.Context) {
	c := p.controller
	c.reports.keep(c.state.hasNode)
	snapshot := c.state.compiled().Decoded.Mesh
	written := 0
	for _, o := range p.replica.cluster.Pods() {
		w := snapshot.Workload(mesh.UID(o.Meta.UID))
		have := inMesh(o.Spec.(*manifest.Pod))
		want, say := condition(w, c.reports, have != nil)
		if !say || have != nil && *have == want {
			continue
		}
		if written++; written > maxReports {
			return
		}
		if err := p.replica.cluster.SetInMesh(ctx, o.Key, want, have == nil || have.Status != want.Status); err != nil {
			p.replica.cfg.Log.Warn("cannot write a pod's condition", "err", err)
			return
		}
	}
}

func inMesh(pod *manifest.Pod) *manifest.Condition {
	for i, c := range pod.Status.Conditions {
		if c.Type == string(kube.InMesh) {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// condition is what there is to say about a workload; nothing about one that is not in the mesh, unless it was.
func condition(w *mesh.Workload, reports *podReports, was bool) (c manifest.Condition, say bool) {
	c = manifest.Condition{Type: string(kube.InMesh), Status: "False"}
	switch {
	case w == nil:
		return c, false
	case !w.Enrolled:
		c.Reason, c.Message = "NotWanted", "neither the pod nor its namespace has the label "+manifest.LabelMesh+"="+manifest.MeshEnabled
		return c, was
	case w.Gateway != "":
		c.Status, c.Reason, c.Message = "True", "Waypoint", "it is a waypoint of Gateway "+w.Gateway+" and carries its connections itself, as "+nameOf(w)
		return c, true
	}
	switch r := reports.of(w.Node, string(w.UID)); {
	case r == nil:
		c.Reason, c.Message = "NotReported", "the agent of node "+w.Node+" has said nothing about it yet"
	case r.GetState() == stateEnrolled:
		c.Status, c.Reason, c.Message = "True", "Enrolled", "its connections are captured, and carried as "+nameOf(w)
	default:
		c.Reason, c.Message = reasonOf(r), r.GetReason()
	}
	return c, true
}

// stateEnrolled is an agent's word for a pod that is captured and served.
const stateEnrolled = "enrolled"

func reasonOf(r *adminv1.PodState) string {
	switch r.GetState() {
	case "pending":
		return "Pending"
	case "lost":
		return "NotFound"
	}
	return "NotEnrolled"
}

func nameOf(w *mesh.Workload) string {
	id, err := identity.New(w.TrustDomain, w.Namespace, w.ServiceAccount)
	if err != nil {
		return "nobody" // the compiler leaves such a workload out
	}
	return id.String()
}
