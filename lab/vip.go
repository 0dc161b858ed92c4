package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
)

const nftTable = "inet warren_lab"

// syncVIPs gives every node the rules that make services' addresses work for pods outside the mesh, as kube-proxy
// does. Pods in the mesh never need them: their connections are captured before they leave. Each node changes in one
// nftables transaction. Does nothing if nft is not installed.
func syncVIPs(ctx context.Context, p paths, pl *plan) error {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return nil //nolint:nilerr // `lab check` says what is missing without it
	}
	rules := vipRules(pl)
	for _, n := range pl.Nodes {
		err := inNetNS(p.netns(nodeNS(n.Name)), func() error {
			cmd := exec.CommandContext(ctx, nft, "-f", "-")
			cmd.Stdin = strings.NewReader(rules)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("nft: %w: %s", err, firstLine(out))
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("program services on node %s: %w", n.Name, err)
		}
	}
	return nil
}

// vipRules is an nftables script that replaces the lab's table.
func vipRules(pl *plan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s\ndelete table %s\ntable %s {\n", nftTable, nftTable, nftTable)
	b.WriteString("  chain services {\n")
	for _, s := range pl.Services {
		for _, vip := range s.VIPs {
			for _, port := range s.Ports {
				b.WriteString(dnatRule(pl.backends(s), vip, port))
			}
		}
	}
	b.WriteString("  }\n")
	b.WriteString("  chain prerouting {\n    type nat hook prerouting priority dstnat;\n    jump services\n  }\n")
	b.WriteString("  chain output {\n    type nat hook output priority -100;\n    jump services\n  }\n")
	b.WriteString(hairpinChain(pl))
	for _, hook := range []string{"forward", "output"} {
		b.WriteString(refuseChain(pl, hook))
	}
	b.WriteString("}\n")
	return b.String()
}

// dnatRule spreads connections to one address and port evenly; empty if nobody answers there.
func dnatRule(backends []*Pod, vip netip.Addr, port ServicePort) string {
	var targets []string
	for _, pod := range backends {
		target := targetOf(port, pod)
		for _, addr := range pod.Addrs {
			if target != 0 && addr.Is4() == vip.Is4() {
				targets = append(targets, fmt.Sprintf("%d : %s . %d", len(targets), addr, target))
				break
			}
		}
	}
	if len(targets) == 0 {
		return ""
	}
	family := nftFamily(vip)
	return fmt.Sprintf("    %s daddr %s %s dport %d dnat %s to numgen random mod %d map { %s }\n",
		family, vip, port.Protocol, port.Port, family, len(targets), strings.Join(targets, ", "))
}

// hairpinChain lets a pod reach itself through a service: its own address as the source would be a martian.
func hairpinChain(pl *plan) string {
	var b strings.Builder
	b.WriteString("  chain postrouting {\n    type nat hook postrouting priority srcnat;\n")
	for _, pod := range pl.Pods {
		for _, addr := range pod.Addrs {
			if !pod.HostNetwork {
				fmt.Fprintf(&b, "    %[1]s saddr %[2]s %[1]s daddr %[2]s masquerade\n", nftFamily(addr), addr)
			}
		}
	}
	b.WriteString("  }\n")
	return b.String()
}

// refuseChain answers for services without a backend. Whatever has one has lost its virtual address by then.
func refuseChain(pl *plan, hook string) string {
	vips := map[string][]string{}
	for _, s := range pl.Services {
		for _, vip := range s.VIPs {
			vips[nftFamily(vip)] = append(vips[nftFamily(vip)], vip.String())
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  chain refuse_%s {\n    type filter hook %s priority filter;\n", hook, hook)
	for _, family := range []string{"ip", "ip6"} {
		if len(vips[family]) > 0 {
			match := fmt.Sprintf("%s daddr { %s }", family, strings.Join(vips[family], ", "))
			fmt.Fprintf(&b, "    %s meta l4proto tcp reject with tcp reset\n    %s reject\n", match, match)
		}
	}
	b.WriteString("  }\n")
	return b.String()
}

func nftFamily(a netip.Addr) string {
	if a.Is4() {
		return "ip"
	}
	return "ip6"
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if line == "" {
		return "no output"
	}
	return line
}
