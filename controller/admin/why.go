package admin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/meshview"
	"github.com/warren-mesh/warren/mesh"
)

// States of a step.
const (
	stateOK      = "ok"
	stateFailed  = "failed"
	stateSkipped = "skipped"
	stateUnknown = "unknown"
)

// order is that of a connection's journey.
var order = []string{"capture", "resolve", "route", "identity", "connect", "tls", "authorize", "app"}

// journey collects the steps of one answer.
type journey struct {
	server *Server
	req    *adminv1.WhyRequest
	steps  []*adminv1.Step
}

func (j *journey) add(name, state, node, hint, format string, args ...any) {
	j.steps = append(j.steps, &adminv1.Step{Name: name, State: state, Text: fmt.Sprintf(format, args...), Hint: hint, Node: node})
}

// Why implements adminv1.AdminServer: the controller says what it knows of names, routes, identities and policies,
// and the source's agent what only it can see: capture, connect and TLS.
// Returns InvalidArgument if src is no pod.
func (s *Server) Why(ctx context.Context, req *adminv1.WhyRequest) (*adminv1.WhyReply, error) {
	c := s.cfg.Compiled()
	src := c.Decoded.Mesh.WorkloadNamed(req.GetSrc())
	if src == nil {
		return nil, status.Errorf(codes.InvalidArgument, "src: %q is no pod of the mesh: write namespace/pod", req.GetSrc())
	}
	if req.GetPort() > 65535 {
		return nil, status.Errorf(codes.InvalidArgument, "port %d", req.GetPort())
	}
	j := &journey{server: s, req: req}
	fromAgent := j.askAgent(ctx, src)
	t, err := resolve(c.Decoded.Mesh, src, req.GetDst(), uint16(req.GetPort()))
	if err != nil {
		j.add("resolve", stateFailed, "", "check the name, the service's selector and its pods' readiness", "%v", err)
	} else {
		j.route(src, t)
		j.identities(ctx, src, t)
		j.authorize(src, t)
	}
	j.merge(src, fromAgent)
	return &adminv1.WhyReply{Steps: j.steps, Verdict: verdict(j.steps)}, nil
}

func (j *journey) route(src *mesh.Workload, t target) {
	what := t.addr.String()
	if t.workload != nil {
		what = fmt.Sprintf("pod %s at %s", t.workload.FullName(), t.addr)
	}
	if t.service != nil {
		j.add("resolve", stateOK, "", "", "%s is service %s, with %d endpoints", j.req.GetDst(), t.service.FullName(), len(t.service.Endpoints))
	} else {
		j.add("resolve", stateOK, "", "", "%s is %s", j.req.GetDst(), what)
	}
	switch {
	case t.workload == nil:
		j.add("route", stateOK, src.Node, "", "%s is outside the mesh: the connection passes as it is", t.addr)
	case !t.workload.Enrolled:
		j.add("route", stateOK, src.Node, "label its namespace warren.dev/mesh=enabled to have it in the mesh", "%s is not in the mesh: plaintext", what)
	case !src.Enrolled:
		j.add("route", stateOK, src.Node, "label its namespace warren.dev/mesh=enabled to have it in the mesh", "%s is not in the mesh: it reaches %s in plaintext", src.FullName(), what)
	case src.Node == t.workload.Node:
		j.add("route", stateOK, src.Node, "", "%s, on the same node", what)
	default:
		j.add("route", stateOK, src.Node, "", "%s on node %s, by HBONE to %s:15008", what, t.workload.Node, t.addr.Addr())
	}
}

// identities asks the agents of both ends for their SVIDs.
func (j *journey) identities(ctx context.Context, src *mesh.Workload, t target) {
	ends := []*mesh.Workload{src}
	if t.workload != nil {
		ends = append(ends, t.workload)
	}
	for _, w := range ends {
		if w.Enrolled {
			j.identityOf(ctx, w)
		}
	}
}

func (j *journey) identityOf(ctx context.Context, w *mesh.Workload) {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	id := meshview.ID(w).String()
	var certs adminv1.CertsReply
	if err := j.server.cfg.Agents.Ask(ctx, w.Node, "Certs", &adminv1.ListRequest{}, &certs); err != nil {
		j.add("identity", stateUnknown, w.Node, "look at the agent's log", "%s should be %s, but its agent did not answer: %v", w.FullName(), id, err)
		return
	}
	for _, c := range certs.GetCerts() {
		if c.GetSpiffeId() != id {
			continue
		}
		end := time.Unix(c.GetNotAfterUnix(), 0)
		if c.GetState() == "missing" || c.GetState() == "expired" || !end.After(j.server.cfg.Now()) {
			j.add("identity", stateFailed, w.Node, "look at the agent's log, and at the CA's status", "%s has no valid certificate for %s: %s %s", w.FullName(), id, c.GetState(), c.GetError())
			return
		}
		j.add("identity", stateOK, w.Node, "", "%s is %s, valid until %s", w.FullName(), id, end.UTC().Format(time.RFC3339))
		return
	}
	j.add("identity", stateFailed, w.Node, "is the pod enrolled on its node? agentctl status", "the agent has no certificate for %s of %s", id, w.FullName())
}

func (j *journey) authorize(src *mesh.Workload, t target) {
	node := ""
	if t.workload != nil {
		node = t.workload.Node
	}
	d := decide(j.server.cfg.Compiled().Decoded.Policies, asker{src, meshview.ID(src), nil}, t)
	switch {
	case d.GetReason() == notInMesh:
		j.add("authorize", stateSkipped, node, "", "the destination is not in the mesh: nothing is enforced")
	case d.GetAllowed():
		j.add("authorize", stateOK, node, "", "allowed: %s", cmp.Or(d.GetRule(), d.GetReason()))
	default:
		j.add("authorize", stateFailed, node, fmt.Sprintf("agentctl authz %s %s shows every policy that was considered", src.FullName(), t.workload.FullName()), "denied: %s %s", d.GetReason(), d.GetRule())
	}
}

// askAgent returns the steps that the source's agent sees, nil if it does not answer.
func (j *journey) askAgent(ctx context.Context, src *mesh.Workload) []*adminv1.Step {
	if !src.Enrolled {
		j.add("capture", stateSkipped, src.Node, "", "%s is not in the mesh: it is not captured", src.FullName())
		return nil
	}
	timeout := agentTimeout
	if j.req.GetProbe() {
		timeout *= 5 // it dials
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var reply adminv1.WhyReply
	if err := j.server.cfg.Agents.Ask(ctx, src.Node, "Why", j.req, &reply); err != nil {
		j.add("capture", stateUnknown, src.Node, "is the agent running there? agentctl status", "the agent of node %q did not answer: %v", src.Node, err)
		return nil
	}
	return reply.GetSteps()
}

// merge takes from the agent what only it can see, and puts the steps in the order of the journey.
func (j *journey) merge(src *mesh.Workload, fromAgent []*adminv1.Step) {
	for _, step := range fromAgent {
		switch step.GetName() {
		case "capture", "connect", "tls", "app":
			step.Node = src.Node
			j.steps = append(j.steps, step)
		}
	}
	slices.SortStableFunc(j.steps, func(a, b *adminv1.Step) int {
		return cmp.Compare(slices.Index(order, a.GetName()), slices.Index(order, b.GetName()))
	})
}

// verdict sums the steps up: the first that failed, else what is not known.
func verdict(steps []*adminv1.Step) string {
	for _, want := range []string{stateFailed, stateUnknown} {
		for _, s := range steps {
			if s.GetState() != want {
				continue
			}
			if want == stateUnknown {
				return "unknown: " + s.GetName() + ": " + s.GetText()
			}
			return "fails at " + s.GetName() + ": " + s.GetText()
		}
	}
	return "ok"
}
