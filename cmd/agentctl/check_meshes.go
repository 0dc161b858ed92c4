package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/internal/cluster"
)

// otherMesh is a mesh that redirects connections of pods. It is there if a DaemonSet's pods have its labels, or if its
// webhook injects sidecars.
type otherMesh struct {
	name     string
	labels   map[string]string
	injector string // how its webhook's name begins
	marks    []mark
}

// mark is what puts a namespace into a mesh: a label, or an annotation, of one of the values, or of any if there is none.
type mark struct {
	annotation bool
	key        string
	values     []string
}

func knownMeshes() []otherMesh {
	injected := []mark{{key: "istio-injection", values: []string{"enabled"}}, {key: "istio.io/rev"}}
	inject := []mark{{annotation: true, key: "linkerd.io/inject", values: []string{"enabled", "ingress"}}}
	return []otherMesh{
		{name: "Istio ambient", labels: map[string]string{"app": "ztunnel"}, marks: []mark{{key: "istio.io/dataplane-mode", values: []string{"ambient"}}}},
		{name: "Istio", labels: map[string]string{"k8s-app": "istio-cni-node"}, injector: "istio-sidecar-injector", marks: injected},
		{name: "Linkerd", labels: map[string]string{"k8s-app": "linkerd-cni"}, injector: "linkerd-proxy-injector", marks: inject},
		{name: "Kmesh", labels: map[string]string{"app": "kmesh"}, marks: []mark{{key: "istio.io/dataplane-mode", values: []string{"Kmesh"}}}},
		{name: "Kuma", labels: map[string]string{"app": "kuma-cni"}, injector: "kuma-admission-mutating",
			marks: []mark{{key: "kuma.io/sidecar-injection", values: []string{"enabled", "true"}}}},
		{name: "Consul", labels: map[string]string{"app": "consul", "component": "cni"}},
		{name: "Cilium's encryption by ztunnel", labels: map[string]string{"app": "ztunnel-cilium"}, marks: []mark{{key: "io.cilium/mtls-enabled", values: []string{"true"}}}},
	}
}

// sets are the DaemonSets by which a mesh captures pods on nodes.
func (m otherMesh) sets(f cluster.Conflicts) (found []cluster.DaemonSet) {
	for _, s := range f.DaemonSets {
		all := len(m.labels) > 0
		for k, v := range m.labels {
			all = all && s.Labels[k] == v
		}
		if all {
			found = append(found, s)
		}
	}
	return found
}

// there tells whether somebody acts on the marks: those of a mesh that is gone mean nothing.
func (m otherMesh) there(f cluster.Conflicts) bool {
	injects := func(name string) bool { return m.injector != "" && strings.HasPrefix(name, m.injector) }
	return len(m.sets(f)) > 0 || slices.ContainsFunc(f.Injectors, injects)
}

// markOf is the mark by which a namespace is in the mesh.
func (m otherMesh) markOf(n cluster.Namespace) (found mark, value string, ok bool) {
	for _, k := range m.marks {
		from := n.Labels
		if k.annotation {
			from = n.Annotations
		}
		if value, ok = from[k.key]; ok && (len(k.values) == 0 || slices.Contains(k.values, value)) {
			return k, value, true
		}
	}
	return mark{}, "", false
}

// leave is the command that takes a namespace out.
func (k mark) leave(namespace string) string {
	verb := "label"
	if k.annotation {
		verb = "annotate"
	}
	return fmt.Sprintf("kubectl %s namespace %s %s-", verb, namespace, k.key)
}

// otherMeshes are the meshes that capture pods on nodes, and the namespaces that are in any. Istio's control plane alone, as for
// its gateways, captures nothing.
func otherMeshes(f cluster.Conflicts) (found []conflict) {
	for _, m := range knownMeshes() {
		if !m.there(f) {
			continue
		}
		advice := "keep its pods out of Warren: kubectl label namespace NAME warren.dev/mesh-"
		if len(m.marks) > 0 {
			advice = "before a namespace joins Warren: " + m.marks[0].leave("NAME")
		}
		for _, s := range m.sets(f) {
			found = append(found, conflict{fmt.Sprintf("%s is %s's: a pod in both meshes would have its connections turned twice", s, m.name), advice})
		}
		for _, n := range f.Namespaces {
			if k, value, ok := m.markOf(n); ok {
				found = append(found, conflict{fmt.Sprintf("Namespace %s: %s is %s, so its pods are in %s", n.Name, k.key, value, m.name), k.leave(n.Name)})
			}
		}
	}
	return found
}

// twoMeshes are the namespaces that are in Warren and in another mesh.
func twoMeshes(f cluster.Conflicts) (found []conflict) {
	for _, m := range knownMeshes() {
		for _, n := range f.Namespaces {
			k, value, ok := m.markOf(n)
			if !ok || !m.there(f) || n.Labels["warren.dev/mesh"] != "enabled" {
				continue
			}
			found = append(found, conflict{
				fmt.Sprintf("Namespace %s: warren.dev/mesh is enabled and %s is %s: connections of its pods are turned by Warren and by %s", n.Name, k.key, value, m.name),
				k.leave(n.Name)})
		}
	}
	return found
}
