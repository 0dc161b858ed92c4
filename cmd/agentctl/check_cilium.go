package main

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/warren-mesh/warren/internal/cluster"
)

// The options of Cilium's agent that matter here; see its command reference.
const (
	ciliumReplacement = "kube-proxy-replacement"
	ciliumSocketLB    = "bpf-lb-sock"
	ciliumHostOnly    = "bpf-lb-sock-hostns-only"
	ciliumExclusive   = "cni-exclusive"
)

// isOn reads a switch as pflag does.
func isOn(s cluster.Setting) bool {
	on, err := strconv.ParseBool(s.Value)
	return err == nil && on
}

// socketBalancing tells whether a node's Cilium balances sockets, and which setting makes it. A kube-proxy replacement does,
// whatever bpf-lb-sock says (pkg/kpr). Its values were strict, probe, partial and disabled up to 1.13, and up to 1.14 the
// last overrode bpf-lb-sock.
func socketBalancing(s cluster.Settings) (by cluster.Setting, on bool) {
	r := s[ciliumReplacement]
	if isOn(r) || slices.Contains([]string{"strict", "probe"}, r.Value) {
		return r, true
	}
	return s[ciliumSocketLB], r.Value != "disabled" && isOn(s[ciliumSocketLB])
}

func ciliumSockets(c cluster.Cilium) []conflict {
	return ciliumEach(c, func(s cluster.Settings) (cluster.Setting, string) {
		by, on := socketBalancing(s)
		if !on || isOn(s[ciliumHostOnly]) {
			return by, ""
		}
		return by, fmt.Sprintf("%s, and %s is not true: Cilium puts an endpoint's address in place of a service's when a pod connects, so Warren never sees the service",
			by, ciliumHostOnly)
	}, ciliumHostOnly, "true", "socketLB.hostNamespaceOnly=true")
}

func ciliumChain(c cluster.Cilium) []conflict {
	return ciliumEach(c, func(s cluster.Settings) (cluster.Setting, string) {
		if by := s[ciliumExclusive]; isOn(by) {
			return by, by.String() + ": Cilium takes Warren's plug-in out of the CNI chain, and pods start outside the mesh"
		}
		return cluster.Setting{}, ""
	}, ciliumExclusive, "false", "cni.exclusive=false")
}

// ciliumEach judges the settings of nodes in general, then those that some nodes have. What is found is cured by setting
// key to value where the setting stands; helm is the chart's value for that.
func ciliumEach(c cluster.Cilium, judge func(cluster.Settings) (by cluster.Setting, text string), key, value, helm string) (found []conflict) {
	seen := map[string]bool{}
	for _, s := range c.Settings {
		by, text := judge(s)
		if text != "" && !seen[text] {
			seen[text] = true
			found = append(found, conflict{text, ciliumFix(c, by.In, key, value, helm)})
		}
	}
	return found
}

func ciliumFix(c cluster.Cilium, in cluster.Object, key, value, helm string) string {
	switch in.Kind {
	case "CiliumNodeConfig":
		return fmt.Sprintf(`kubectl -n %s patch ciliumnodeconfig %s --type merge -p '{"spec":{"defaults":{%q:%q}}}'%s`,
			in.Namespace, in.Name, key, value, ciliumRestart(c))
	case "DaemonSet":
		return fmt.Sprintf("kubectl -n %s edit daemonset/%s: --%s=%s; in Cilium's Helm values: %s", in.Namespace, in.Name, key, value, helm)
	}
	return fmt.Sprintf(`kubectl -n %s patch configmap %s --type merge -p '{"data":{%q:%q}}'%s; in Cilium's Helm values, so that it stays: %s`,
		c.Config.Namespace, c.Config.Name, key, value, ciliumRestart(c), helm)
}

// ciliumRestart is what makes Cilium read its ConfigMap again.
func ciliumRestart(c cluster.Cilium) string {
	if c.Agent.Name == "" {
		return ""
	}
	return fmt.Sprintf(" && kubectl -n %s rollout restart daemonset/%s", c.Agent.Namespace, c.Agent.Name)
}

// ciliumRestarts finds a Cilium that cannot start where somebody else has programs at cgroup hooks. If it does not balance
// sockets it detaches every program of the hooks that it would use, its own or not; that fails for those that a link
// holds, as Warren's, and its data path does not come up. Its versions 1.18.14, 1.19.8 and 1.20.0 are the first that
// look whose a program is (github.com/cilium/cilium issue 43877, pull request 44066; pkg/socketlb/cgroup.go).
func ciliumRestarts(c cluster.Cilium) (found []conflict) {
	if ciliumLooks(c.Version) {
		return nil
	}
	for _, s := range c.Settings {
		if _, on := socketBalancing(s); on {
			continue
		}
		version := c.Version
		if version == "" {
			version = "of an unknown version"
		}
		text := fmt.Sprintf("%s: with %s %s and %s %s Cilium %s balances no sockets, and then fails to start beside programs at cgroup hooks that are not its own, as Warren's",
			c.Config, ciliumReplacement, orNot(s[ciliumReplacement]), ciliumSocketLB, orNot(s[ciliumSocketLB]), version)
		fix := "upgrade Cilium to 1.18.14, 1.19.8, 1.20 or newer"
		if s[ciliumReplacement].Value != "disabled" {
			fix += fmt.Sprintf("; or let it balance the host's own sockets: kubectl -n %s patch configmap %s --type merge "+
				`-p '{"data":{"bpf-lb-sock":"true","bpf-lb-sock-hostns-only":"true"}}'%s`, c.Config.Namespace, c.Config.Name, ciliumRestart(c))
		}
		return append(found, conflict{text, fix})
	}
	return nil
}

func orNot(s cluster.Setting) string {
	if s.Value == "" {
		return "not set"
	}
	return s.Value
}

func ciliumLooks(version string) bool {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(version, "v%d.%d.%d", &major, &minor, &patch); n != 3 {
		return false
	}
	fixed, ok := map[int]int{18: 14, 19: 8}[minor]
	return major > 1 || minor >= 20 || ok && patch >= fixed
}
