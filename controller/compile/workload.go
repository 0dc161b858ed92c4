package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/controller/manifest"
)

const labelZone = "topology.kubernetes.io/zone"

// pod is one pod that became a workload.
type pod struct {
	object   *manifest.Object
	spec     *manifest.Pod
	addrs    []netip.Addr
	workload *meshv1.Workload
}

// newPod returns the workload of a pod, or nil if it has none: it has ended, or has neither node nor address yet. A pod
// that has a node is one before it has an address: its node must know who it is before it begins to run.
func (c *compiler) newPod(o *manifest.Object) *pod {
	spec := o.Spec.(*manifest.Pod)
	if phase := spec.Status.Phase; phase == "Succeeded" || phase == "Failed" {
		return nil
	}
	p := &pod{object: o, spec: spec}
	for _, ip := range spec.Status.IPs() {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			c.problem(o, "left out: address %q", ip)
			return nil
		}
		p.addrs = append(p.addrs, a.Unmap())
	}
	if len(p.addrs) == 0 && spec.Spec.NodeName == "" {
		return nil
	}
	w := &meshv1.Workload{
		// Without an API server nobody gives pods a uid; a name is as lasting as the manifest that has it.
		Uid:       cmp.Or(o.Meta.UID, o.Namespace+"."+o.Name),
		Namespace: o.Namespace, Name: o.Name,
		ServiceAccount: cmp.Or(spec.Spec.ServiceAccountName, "default"),
		TrustDomain:    c.opts.TrustDomain,
		Node:           spec.Spec.NodeName,
		Addresses:      wireAddrs(p.addrs),
		HostNetwork:    spec.Spec.HostNetwork,
		App:            appOf(o),
		Mtls:           &meshv1.MTLS{Mode: meshv1.MTLS_PERMISSIVE},
	}
	if node := c.nodes[w.Node]; node != nil {
		w.Zone = node.Meta.Labels[labelZone]
	}
	w.Enrolled = c.enrolled(o, spec)
	if w.Enrolled {
		if w.Gateway = c.gatewayOf(o); w.Gateway != "" {
			c.checkGatewayPod(o, spec)
		}
	}
	if ns := c.namespaces[o.Namespace]; ns != nil && w.Enrolled {
		w.FailOpen = ns.Meta.Annotations[manifest.AnnotationAgentAbsent] == manifest.AgentAbsentOpen
	}
	w.Accelerate = w.Enrolled && c.accelerated(o)
	if _, err := resource.DecodeWorkload(w); err != nil {
		c.problem(o, "left out: %v", err)
		return nil
	}
	p.workload = w
	return p
}

// accelerated tells whether a pod asks for acceleration, or else its namespace. A mistake in that must not keep a pod out of
// the mesh.
func (c *compiler) accelerated(o *manifest.Object) bool {
	by := o
	v, ok := o.Meta.Annotations[manifest.AnnotationAccelerate]
	if ns := c.namespaces[o.Namespace]; !ok && ns != nil {
		by = ns
		v, ok = ns.Meta.Annotations[manifest.AnnotationAccelerate]
	}
	if ok && v != manifest.AccelerateOn && v != manifest.AccelerateOff {
		c.problem(by, "metadata.annotations.%s: want %q or %q, got %q: %s is not accelerated", manifest.AnnotationAccelerate,
			manifest.AccelerateOn, manifest.AccelerateOff, v, o.Key)
	}
	return ok && v == manifest.AccelerateOn
}

// enrolled tells whether a pod is in the mesh: its own label says so, or else its namespace's. A pod in its node's
// network namespace cannot be captured and never is.
// A waypoint is in the mesh, whatever they say.
func (c *compiler) enrolled(o *manifest.Object, spec *manifest.Pod) bool {
	if c.opts.Leaving {
		return false
	}
	v, own := o.Meta.Labels[manifest.LabelMesh]
	if spec.Spec.HostNetwork {
		if v == manifest.MeshEnabled {
			c.problem(o, "not enrolled: it has hostNetwork, and the node's own connections are not captured")
		}
		if c.gatewayOf(o) != "" {
			c.problem(o, "no waypoint: it has hostNetwork, in which it cannot be told from its node's own connections")
		}
		return false
	}
	if c.gatewayOf(o) != "" {
		return true // peers reach a waypoint by HBONE, and its node leaves it alone
	}
	if own {
		c.checkLabel(o, v)
		return v == manifest.MeshEnabled
	}
	return c.labelled(o.Namespace)
}

// labelled tells whether a namespace's pods are in the mesh unless they say otherwise.
func (c *compiler) labelled(namespace string) bool {
	ns := c.namespaces[namespace]
	if ns == nil || c.opts.Leaving {
		return false
	}
	v, ok := ns.Meta.Labels[manifest.LabelMesh]
	if ok {
		c.checkLabel(ns, v)
	}
	return v == manifest.MeshEnabled
}

// checkLabel reports a value that means nothing: an API server takes any.
func (c *compiler) checkLabel(o *manifest.Object, v string) {
	if v != manifest.MeshEnabled && v != manifest.MeshDisabled {
		c.problem(o, "not enrolled: label %s is %q; it must be %q or %q", manifest.LabelMesh, v, manifest.MeshEnabled, manifest.MeshDisabled)
	}
}

// appOf names a pod's owner for people: a label, or the owner, or the pod itself.
func appOf(o *manifest.Object) string {
	app := cmp.Or(o.Meta.Labels["app.kubernetes.io/name"], o.Meta.Labels["app"])
	for _, ref := range o.Meta.OwnerReferences {
		if app == "" && ref.Controller {
			app = ref.Name
		}
	}
	return cmp.Or(app, o.Name)
}

// resolveAddressConflicts leaves out every pod that has the name, uid or an address of an older one. Pods of a host
// network share their node's address and are no conflict.
func (c *compiler) resolveAddressConflicts() {
	// A pod that is going may have given its address to another one already.
	slices.SortStableFunc(c.pods, func(a, b *pod) int { return cmp.Compare(going(a), going(b)) })
	byAddr, byUID := make(map[netip.Addr]*pod), make(map[string]*pod)
	kept := c.pods[:0]
	for _, p := range c.pods {
		if other := byUID[p.workload.GetUid()]; other != nil {
			c.problem(p.object, "left out: uid %s is also that of %s (%s), which is older", p.workload.GetUid(), other.object.Key, other.object.Origin)
			continue
		}
		if c.takenAddr(p, byAddr) {
			continue
		}
		byUID[p.workload.GetUid()] = p
		for _, a := range p.addrs {
			if !p.workload.GetHostNetwork() {
				byAddr[a] = p
			}
		}
		kept = append(kept, p)
	}
	c.pods = kept
	for _, p := range c.pods {
		c.podsIn[p.object.Namespace] = append(c.podsIn[p.object.Namespace], p)
	}
}

// going is 1 for a pod that is being deleted.
func going(p *pod) int {
	if p.object.Meta.DeletionTimestamp != "" {
		return 1
	}
	return 0
}

func (c *compiler) takenAddr(p *pod, byAddr map[netip.Addr]*pod) bool {
	if p.workload.GetHostNetwork() {
		return false
	}
	seen := make(map[netip.Addr]bool)
	for _, a := range p.addrs {
		if seen[a] {
			c.problem(p.object, "left out: it has address %s twice", a)
			return true
		}
		seen[a] = true
		other := byAddr[a]
		if other != nil && going(p) > going(other) {
			p.addrs, p.workload.Addresses = nil, nil // it is known until it is gone, under no address
			return false
		}
		if other != nil {
			c.problem(p.object, "left out: address %s is also that of %s (%s), which is older", a, other.object.Key, other.object.Origin)
			return true
		}
	}
	return false
}

func wireAddrs(addrs []netip.Addr) [][]byte {
	out := make([][]byte, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, a.AsSlice())
	}
	return out
}
