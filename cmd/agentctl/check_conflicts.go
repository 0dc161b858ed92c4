package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/internal/cluster"
)

// conflict is one thing that is in Warren's way: which object and field, why that matters, and what to type.
type conflict struct{ text, fix string }

// expectNone adds a check that holds if there is no conflict.
func (s *section) expectNone(what, state string, found []conflict) {
	var texts, fixes []string
	for _, c := range found {
		texts = append(texts, c.text)
		if !slices.Contains(fixes, c.fix) {
			fixes = append(fixes, c.fix)
		}
	}
	s.expect(what, state, strings.Join(fixes, "; "), texts...)
}

// conflictChecks looks for what else takes hold of connections. Whoever does so first wins.
func conflictChecks(f cluster.Conflicts) section {
	s := section{Name: "kubernetes-conflicts"}
	var sockets, restarts, chain []conflict
	for _, c := range f.Cilium {
		sockets = append(sockets, ciliumSockets(c)...)
		restarts = append(restarts, ciliumRestarts(c)...)
		chain = append(chain, ciliumChain(c)...)
	}
	s.expectNone("Cilium leaves pods' sockets alone", checkFail, sockets)
	s.expectNone("Cilium can start again beside other programs", checkFail, restarts)
	s.expectNone("Cilium leaves other plug-ins in the CNI chain", checkFail, chain)
	s.expectNone("Calico leaves pods' sockets alone", checkFail, calicoSockets(f.Calico))
	s.expectNone("no other mesh captures pods", checkWarn, otherMeshes(f))
	s.expectNone("no namespace is in two meshes", checkFail, twoMeshes(f))
	s.expect("DNS is not looked up through a node's cache", checkOK, "", nodeCaches(f.DaemonSets)...)
	return s
}

func nodeCaches(sets []cluster.DaemonSet) (found []string) {
	for _, s := range sets {
		if s.Name == "node-local-dns" {
			found = append(found, s.String()+" runs: lookups over TCP go through it uncaptured; that is fine")
		}
	}
	return found
}

// clusterConflicts looks at the same after the installation: a network plug-in may be configured anew at any time.
func (a *app) clusterConflicts(ctx context.Context) []section {
	if a.asked == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	found, unread := a.asked.Conflicts(ctx)
	s := conflictChecks(found)
	s.expect("what could conflict could be read", checkWarn, "ask as an administrator: what could not be read was not checked", unread...)
	return []section{s}
}

// calicoSockets finds Felix balancing connections when they are made. Its eBPF data plane without that is like any other.
func calicoSockets(all []cluster.Settings) (found []conflict) {
	for _, s := range all {
		bpf, balancing := s[cluster.CalicoBPF], s[cluster.CalicoBalancing]
		if !isOn(bpf) && bpf.Value != "BPF" || strings.EqualFold(balancing.Value, "Disabled") {
			continue
		}
		at, how := bpf, cluster.CalicoBalancing+" is not Disabled"
		if balancing.Value != "" {
			at, how = balancing, bpf.String()
		}
		found = append(found, conflict{
			fmt.Sprintf("%s, and %s: Calico puts an endpoint's address in place of a service's when a pod connects, so Warren never sees the service", at, how),
			calicoFix(at.In)})
	}
	return found
}

func calicoFix(at cluster.Object) string {
	kind, name := "felixconfigurations", "default"
	switch {
	case strings.HasPrefix(at.Kind, kind+"."):
		kind, name = at.Kind, at.Name
	case at.Kind == "DaemonSet":
		return fmt.Sprintf("kubectl -n %s set env daemonset/%s FELIX_BPFCONNECTTIMELOADBALANCING=Disabled FELIX_BPFHOSTNETWORKEDNATWITHOUTCTLB=Enabled", at.Namespace, at.Name)
	}
	return fmt.Sprintf(`kubectl patch %s %s --type merge -p '{"spec":{"bpfConnectTimeLoadBalancing":"Disabled","bpfHostNetworkedNATWithoutCTLB":"Enabled"}}'`, kind, name)
}
