package admin

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/agent/enroll"
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/meshview"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/ztunnel"
)

// journey collects the steps of a Why.
type journey struct {
	node  string
	steps []*adminv1.Step
}

func (j *journey) add(name, state, text, hint string) {
	j.steps = append(j.steps, &adminv1.Step{Name: name, State: state, Text: text, Hint: hint, Node: j.node})
}

// Why implements Admin: it walks the journey of a connection from one of this node's pods, step by step, and stops
// at the first that fails.
func (s *Server) Why(ctx context.Context, q *adminv1.WhyRequest) (*adminv1.WhyReply, error) {
	if q.Port == 0 || q.Port > 65535 {
		return nil, status.Errorf(codes.InvalidArgument, "port: %d is not a TCP port", q.Port)
	}
	world := s.cfg.World.Load()
	src := world.Mesh.WorkloadNamed(q.Src)
	if src == nil {
		return nil, status.Errorf(codes.NotFound, "src: no workload is called %q (agentctl workloads lists them)", q.Src)
	}
	j := &journey{node: s.cfg.Node}
	if ok := s.whyCapture(j, src) && s.whyRoute(ctx, j, world, src, q); !ok {
		return &adminv1.WhyReply{Steps: j.steps, Verdict: "it fails at: " + j.steps[len(j.steps)-1].Name}, nil
	}
	return &adminv1.WhyReply{Steps: j.steps, Verdict: j.verdict()}, nil
}

// verdict sums up a journey of which no step failed.
func (j *journey) verdict() string {
	for _, step := range j.steps {
		if step.GetState() == "unknown" {
			return "nothing that this node knows of is in its way; " + step.GetText()
		}
	}
	return "nothing is in its way"
}

func (s *Server) whyCapture(j *journey, src *mesh.Workload) bool {
	for _, p := range s.cfg.Enroller.Pods() {
		if p.UID != src.UID {
			continue
		}
		switch p.State {
		case enroll.Enrolled:
			j.add("capture", "ok", "pod is enrolled on "+s.cfg.Node+" as "+p.ID.String(), "")
		case enroll.Unmanaged:
			j.add("capture", "skipped", "pod is not in the mesh: its connections pass as they are, without identity",
				"label its namespace warren.dev/mesh: enabled")
		default:
			j.add("capture", "failed", fmt.Sprintf("pod is %s: %s", p.State, p.Reason), "agentctl status says what it waits for")
			return false
		}
		return true
	}
	j.add("capture", "failed", "node "+s.cfg.Node+" was never told of this pod's network namespace", "restart the pod")
	return false
}

// resolve returns the address that a name stands for.
func resolve(m *mesh.Snapshot, name string) (netip.Addr, string) {
	if a, err := netip.ParseAddr(name); err == nil {
		return a.Unmap(), ""
	}
	svc := m.ServiceHost(name)
	if svc == nil {
		svc = m.ServiceNamed(name)
	}
	for _, suffix := range []string{".svc.cluster.local", ".cluster.local"} {
		if svc == nil {
			svc = m.ServiceHost(name + suffix)
		}
	}
	if svc != nil {
		if len(svc.VIPs) > 0 {
			return svc.VIPs[0], ""
		}
		for _, e := range svc.Endpoints {
			if len(e.Addrs) > 0 {
				return e.Addrs[0], ""
			}
		}
		return netip.Addr{}, "service " + svc.FullName() + " is headless and has no endpoint"
	}
	if w := m.WorkloadNamed(name); w != nil && len(w.Addrs) > 0 {
		return w.Addrs[0], ""
	}
	return netip.Addr{}, fmt.Sprintf("no service or workload is called %q", name)
}

func (s *Server) whyRoute(ctx context.Context, j *journey, world *ztunnel.World, src *mesh.Workload, q *adminv1.WhyRequest) bool {
	addr, why := resolve(world.Mesh, q.Dst)
	if why != "" {
		j.add("resolve", "failed", why, "agentctl services and agentctl workloads list the names")
		return false
	}
	dst := netip.AddrPortFrom(addr, uint16(q.Port))
	j.add("resolve", "ok", fmt.Sprintf("%s is %s", q.Dst, dst), "")
	hops, service, reason := s.cfg.Proxy.Route(src, dst)
	if reason != "" {
		j.add("route", "failed", fmt.Sprintf("service %s: %s", service, reason), "agentctl services "+service)
		return false
	}
	for i, h := range hops {
		if i == 0 {
			j.add("route", "ok", describe(h), "")
		}
	}
	return s.whyHop(ctx, j, world, src, hops[0], q.Probe)
}

func describe(h ztunnel.Hop) string {
	if h.Workload == nil {
		return h.Addr.String() + " is not in the mesh: passed on as it is"
	}
	how := "not in the mesh: passed on as it is"
	if h.Workload.Enrolled {
		how = "in the mesh"
	}
	return fmt.Sprintf("%s on %s at %s, %s", h.Workload.FullName(), h.Workload.Node, h.Addr, how)
}

func (s *Server) whyHop(ctx context.Context, j *journey, world *ztunnel.World, src *mesh.Workload, h ztunnel.Hop, probe bool) bool {
	if h.Workload == nil || !h.Workload.Enrolled {
		return s.whyProbe(ctx, j, src, h, false, probe)
	}
	srcID := meshview.ID(src)
	if !srcID.IsZero() && !s.whyIdentity(j, srcID.String()) {
		return false
	}
	tunnel := !srcID.IsZero()
	if !s.whyProbe(ctx, j, src, h, tunnel, probe) {
		return false
	}
	return s.whyAuthorize(j, world, src, h)
}

// whyAuthorize decides as the destination would, if that is on this node: a node has the policies of its own workloads.
func (s *Server) whyAuthorize(j *journey, world *ztunnel.World, src *mesh.Workload, h ztunnel.Hop) bool {
	can := "agentctl authz can --from " + src.FullName() + " --to " + fmt.Sprintf("%s:%d", h.Workload.FullName(), h.Addr.Port())
	if h.Workload.Node != s.cfg.Node {
		j.add("authorize", "unknown", "node "+h.Workload.Node+" decides, by policies that this node does not have", can)
		return true
	}
	conn := policy.Conn{Src: meshview.ID(src), Dst: h.Addr}
	if len(src.Addrs) > 0 {
		conn.SrcAddr = src.Addrs[0]
	}
	d := world.Policies.Decide(meshview.TargetOf(h.Workload, h.Addr.Port()), conn)
	text := strings.TrimSpace(string(d.Reason) + " " + d.Rule)
	if !d.Allowed {
		j.add("authorize", "failed", text, can)
		return false
	}
	j.add("authorize", "ok", text, "")
	return true
}

func (s *Server) whyIdentity(j *journey, id string) bool {
	for _, c := range s.cfg.Certs.Snapshot() {
		if c.ID != id {
			continue
		}
		if c.State == "valid" || c.State == "renewing" {
			j.add("identity", "ok", fmt.Sprintf("%s is good for another %s", id, time.Until(c.NotAfter).Round(time.Second)), "")
			return true
		}
		j.add("identity", "failed", id+" is "+c.State+": "+c.Err, "agentctl certs")
		return false
	}
	j.add("identity", "failed", "nobody asked for an SVID of "+id, "restart the agent of "+s.cfg.Node)
	return false
}

// whyProbe reaches for the destination as ztunnel would, if the caller wants that.
func (s *Server) whyProbe(ctx context.Context, j *journey, src *mesh.Workload, h ztunnel.Hop, tunnel, probe bool) bool {
	if !probe {
		j.add("connect", "skipped", "nothing was dialled", "add --probe to try")
		return true
	}
	pctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	step, err := s.cfg.Proxy.Probe(pctx, src, h, tunnel)
	if err != nil {
		j.add(step, "failed", err.Error(), hintFor(step, h))
		return false
	}
	j.add(step, "ok", h.Addr.Addr().String()+" answers", "")
	return true
}

func hintFor(step string, h ztunnel.Hop) string {
	if step == "tls" {
		return "agentctl certs: compare both ends' trust bundles and expiry"
	}
	if h.Workload != nil {
		return "is the agent of " + h.Workload.Node + " up? agentctl status"
	}
	return "check the address and the way to it"
}
