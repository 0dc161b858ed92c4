package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
)

// caWarning is how long before its expiry a CA certificate is worth a warning.
const caWarning = 24 * time.Hour

func (a *app) controllerChecks(status *adminv1.StatusReply) section {
	s := section{Name: "warren-controller"}
	const watch = "see its log: kubectl -n warren-system logs deploy/warren-controller, or journalctl -u warren-controller"
	c := status.Controller
	if c == nil {
		s.expect("the agent's controller is reachable", checkFail, watch, each(status, func(n *adminv1.NodeStatus) string {
			if n.ControllerConnected {
				return ""
			}
			return "node " + n.Node + " has no connection to its controller"
		})...)
		return s
	}
	s.expect("the controller answers", checkFail, watch)
	const fix = "correct the manifest; the last good version stays in force"
	s.expect("no manifest is rejected", checkFail, fix, c.Rejected...)
	const rotate = "rotate the CA before workloads can no longer renew"
	expiry, left := time.Unix(c.CaNotAfterUnix, 0), time.Unix(c.CaNotAfterUnix, 0).Sub(a.now())
	switch {
	case c.CaNotAfterUnix != 0 && left <= 0:
		s.expect("the CA certificate is valid", checkFail, rotate, "it expired at "+expiry.UTC().Format(time.RFC3339))
	case c.CaNotAfterUnix != 0 && left < caWarning:
		s.expect("the CA certificate is valid", checkWarn, rotate, "it expires in "+age(left))
	default:
		s.expect("the CA certificate is valid", checkFail, rotate)
	}
	return s
}

func agentChecks(status *adminv1.StatusReply) section {
	s := section{Name: "warren-agents"}
	const watch = "see the log of that node's agent: kubectl -n warren-system logs -l app.kubernetes.io/name=warren-agent, or journalctl -u warren-agent"
	var none []string
	if len(status.Nodes) == 0 {
		none = []string{"no agent has ever connected"}
	}
	s.expect("there are agents", checkWarn, "start an agent on each node", none...)
	s.expect("agents are connected", checkFail, watch, each(status, func(n *adminv1.NodeStatus) string {
		if link := nodeLink(status, n); link.style != good {
			return fmt.Sprintf("node %s: %s", n.Node, link.text)
		}
		return ""
	})...)
	s.expect("versions are equal", checkWarn, "finish the upgrade: agentctl version", versionsDiffer(status)...)
	s.expect("agents enforce the newest configuration", checkWarn, "wait for it: agentctl status --wait",
		each(status, func(n *adminv1.NodeStatus) string {
			if behind(status, n) == 0 {
				return ""
			}
			return fmt.Sprintf("node %s enforces version %d of %d", n.Node, n.EnforcedVersion, n.LatestVersion)
		})...)
	s.expect("no agent refuses its configuration", checkFail, "correct the object that it names", each(status, func(n *adminv1.NodeStatus) string {
		if n.LastNack == "" {
			return ""
		}
		return fmt.Sprintf("node %s: %s", n.Node, n.LastNack)
	})...)
	return s
}

// each collects what find says about the nodes; empty is nothing to say.
func each(status *adminv1.StatusReply, find func(*adminv1.NodeStatus) string) []string {
	var found []string
	for _, n := range status.Nodes {
		if text := find(n); text != "" {
			found = append(found, text)
		}
	}
	return found
}

// versionsDiffer names who runs which version if there is more than one.
func versionsDiffer(status *adminv1.StatusReply) []string {
	who := make(map[string][]string)
	if c := status.Controller; c != nil {
		who[c.Version] = append(who[c.Version], "controller")
	}
	for _, n := range status.Nodes {
		// What is disconnected has no current version.
		if n.Version != "" {
			who[n.Version] = append(who[n.Version], n.Node)
		}
	}
	if len(who) < 2 {
		return nil
	}
	var found []string
	for _, v := range sortedKeys(who) {
		found = append(found, v+": "+strings.Join(who[v], ", "))
	}
	return found
}

func (a *app) identityChecks(status *adminv1.StatusReply, certs *adminv1.CertsReply) section {
	s := section{Name: "warren-identity"}
	var dead, weak []string
	for _, c := range certs.Certs {
		switch dies, left := a.lifeLeft(c); {
		case c.State == "missing" || dies <= 0:
			dead = append(dead, strings.TrimSuffix(fmt.Sprintf("%s on %s: %s: %s", c.SpiffeId, c.Node, c.State, c.Error), ": "))
		case left < 0.1:
			weak = append(weak, fmt.Sprintf("%s on %s expires in %s", c.SpiffeId, c.Node, age(dies)))
		}
	}
	const renew = "see why it is not renewed: agentctl certs"
	s.expect("certificates are valid", checkFail, renew, dead...)
	s.expect("certificates have more than 10 % of their life left", checkWarn, renew, weak...)
	s.expect("nodes have an identity", checkFail, renew, each(status, func(n *adminv1.NodeStatus) string {
		if left := time.Unix(n.NodeSvidNotAfterUnix, 0).Sub(a.now()); n.NodeSvidNotAfterUnix != 0 && left > 0 {
			return ""
		}
		return "node " + n.Node + " has no valid node SVID"
	})...)
	s.expect("trust bundles are equal on all nodes", checkFail, "compare them: agentctl certs -o wide", bundlesDiffer(certs)...)
	return s
}

// lifeLeft is how long a certificate still lives, absolutely and as a part of its lifetime.
func (a *app) lifeLeft(c *adminv1.CertInfo) (time.Duration, float64) {
	left := time.Unix(c.NotAfterUnix, 0).Sub(a.now())
	life := time.Duration(c.NotAfterUnix-c.NotBeforeUnix) * time.Second
	if life <= 0 {
		return left, 0
	}
	return left, float64(left) / float64(life)
}

// bundlesDiffer names the nodes that trust other roots than most.
func bundlesDiffer(certs *adminv1.CertsReply) []string {
	domains := make(map[string]map[string][]string)
	for _, b := range certs.Bundles {
		roots := slices.Sorted(slices.Values(b.Fingerprints))
		key := strings.Join(roots, ",")
		if domains[b.TrustDomain] == nil {
			domains[b.TrustDomain] = make(map[string][]string)
		}
		domains[b.TrustDomain][key] = append(domains[b.TrustDomain][key], b.Node)
	}
	var found []string
	for _, domain := range sortedKeys(domains) {
		if len(domains[domain]) < 2 {
			continue
		}
		for _, roots := range sortedKeys(domains[domain]) {
			found = append(found, fmt.Sprintf("%s on %s: %s", domain, strings.Join(domains[domain][roots], ", "), roots))
		}
	}
	return found
}

func podChecks(status *adminv1.StatusReply) section {
	s := section{Name: "warren-pods"}
	var pending, nameless []string
	for _, p := range podRows(status, filter{}) {
		name := fmt.Sprintf("%s/%s on %s", p.Namespace, p.Name, p.node)
		switch {
		case p.State == podPending:
			pending = append(pending, strings.TrimSuffix(name+": "+p.Reason, ": "))
		case p.State == podEnrolled && p.SvidNotAfterUnix == 0:
			nameless = append(nameless, name)
		}
	}
	s.expect("no pod is pending", checkFail, "see why: agentctl status pods", pending...)
	s.expect("enrolled pods have an SVID", checkFail, "see why: agentctl certs", nameless...)
	return s
}

// kernelChecks judges the capture counters, whose names are those of bpf/include/capture.h. They only ever grow, so
// what they show may be over: a warning.
func kernelChecks(status *adminv1.StatusReply) section {
	s := section{Name: "warren-capture"}
	s.expect("the kernel dropped no connection", checkWarn,
		"counted since capture was loaded; is it growing? agentctl status -o json",
		counted(status, "_no_source", "_no_listener", "_error")...)
	s.expect("nothing bypassed the mesh", checkWarn,
		"pods whose namespace says fail-open were reached in the clear while their agent was absent",
		counted(status, "_fail_open")...)
	return s
}

// counted lists the capture counters that end in one of the words and are not zero.
func counted(status *adminv1.StatusReply, words ...string) []string {
	var found []string
	for _, n := range status.Nodes {
		for _, name := range sortedKeys(n.CaptureCounters) {
			for _, word := range words {
				if v := n.CaptureCounters[name]; v > 0 && strings.HasSuffix(name, word) {
					found = append(found, fmt.Sprintf("node %s: %s = %d", n.Node, name, v))
				}
			}
		}
	}
	return found
}
