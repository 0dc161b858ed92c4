package compile

import (
	"cmp"
	"maps"
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/controller/manifest"
)

// applyPeerAuthentications resolves the mTLS mode of every enrolled workload, as Istio does. The narrowest scope
// that sets a mode decides: workload (a selector), namespace, mesh (the root namespace, no selector). Of several in
// one scope the oldest is taken, by creation time, then by name. UNSET, or no mode, inherits. Without any the mode is
// PERMISSIVE. A port's mode comes from the one that a selector chose.
func (c *compiler) applyPeerAuthentications() []Selection {
	selected := make(map[*manifest.Object][]string)
	for _, p := range c.pods {
		if !p.workload.GetEnrolled() {
			continue
		}
		mtls := &meshv1.MTLS{Mode: meshv1.MTLS_PERMISSIVE}
		for _, scope := range []string{"mesh", "namespace", "workload"} {
			if o := c.peerAuthFor(p, scope); o != nil {
				applyPeerAuthentication(mtls, o)
				selected[o] = append(selected[o], p.workload.GetUid())
			}
		}
		p.workload.Mtls = mtls
	}
	var all []Selection
	for _, of := range c.peerAuth {
		for _, o := range of {
			spec := o.Spec.(*v1alpha1.PeerAuthenticationSpec)
			slices.Sort(selected[o])
			all = append(all, Selection{Namespace: o.Namespace, Name: o.Name, Action: modeOf(spec.MTLS),
				Scope: c.scope(o, spec.Selector), UIDs: selected[o]})
		}
	}
	sortSelections(all)
	return all
}

// peerAuthFor returns the oldest PeerAuthentication of a scope that applies to a pod, or nil.
func (c *compiler) peerAuthFor(p *pod, scope string) *manifest.Object {
	within := p.object.Namespace
	if scope == "mesh" {
		within = c.opts.RootNamespace
	}
	for _, o := range c.peerAuth[within] { // older first
		spec := o.Spec.(*v1alpha1.PeerAuthenticationSpec)
		if c.scope(o, spec.Selector) == scope && selects(spec.Selector, p.object.Meta.Labels) {
			return o
		}
	}
	return nil
}

func applyPeerAuthentication(mtls *meshv1.MTLS, o *manifest.Object) {
	spec := o.Spec.(*v1alpha1.PeerAuthenticationSpec)
	if mode := wireMode(modeOf(spec.MTLS)); mode != meshv1.MTLS_UNSPECIFIED {
		mtls.Mode, mtls.Source = mode, o.Namespace+"/"+o.Name
	}
	for _, port := range slices.Sorted(maps.Keys(spec.PortLevelMTLS)) {
		override := spec.PortLevelMTLS[port]
		n, err := v1alpha1.Port(port).Number()
		mode := wireMode(modeOf(&override))
		if err != nil || mode == meshv1.MTLS_UNSPECIFIED {
			continue
		}
		if mtls.Ports == nil {
			mtls.Ports = make(map[uint32]meshv1.MTLS_Mode)
		}
		mtls.Ports[uint32(n)], mtls.Source = mode, o.Namespace+"/"+o.Name
	}
}

func modeOf(m *v1alpha1.MutualTLS) string {
	if m == nil {
		return v1alpha1.ModeUnset
	}
	return cmp.Or(m.Mode, v1alpha1.ModeUnset)
}

func wireMode(mode string) meshv1.MTLS_Mode {
	switch mode {
	case v1alpha1.ModeStrict:
		return meshv1.MTLS_STRICT
	case v1alpha1.ModePermissive:
		return meshv1.MTLS_PERMISSIVE
	}
	return meshv1.MTLS_UNSPECIFIED
}
