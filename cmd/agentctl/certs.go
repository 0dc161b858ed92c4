package main

import (
	"fmt"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// certsCommand lists the SVIDs that nodes hold and the trust bundles that they verify with.
func (a *app) certsCommand() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:     "certs [SPIFFE-ID]",
		Aliases: []string{"cert", "svids"},
		Short:   "List certificates, when they expire, and trust bundles",
		Long: `List the SVIDs that each node holds and when they are renewed and expire, then the roots that each node trusts.
Nothing secret is shown. SPIFFE-ID may be a part of the id, such as "sa/web".`,
		Example: `  agentctl certs
  agentctl certs ns/shop/sa/web -o wide
  agentctl certs -o json | jq '.certs[] | select(.state != "valid")'`,
		Args: optionalName,
	}
	output := listFormats(cmd)
	a.namespaceFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		reply, err := ask(cmd.Context(), a, adminv1.AdminClient.Certs, &adminv1.ListRequest{Namespace: namespace})
		if err != nil {
			return err
		}
		part := strings.Join(args, "")
		filterCerts(reply, part)
		if output.machine() {
			return a.emit(output.value, reply)
		}
		if len(reply.Certs) == 0 && part != "" {
			return a.nothing(filter{name: part}, cmd, "certificates")
		}
		if err := a.certTable(reply.Certs, output.wide()); err != nil || part != "" {
			return err
		}
		a.printf("\n")
		return a.bundleTable(reply.Bundles, output.wide())
	}
	return cmd
}

// filterCerts keeps the certificates whose id contains part, by node and id, and the bundles by node.
func filterCerts(reply *adminv1.CertsReply, part string) {
	var kept []*adminv1.CertInfo
	for _, c := range reply.Certs {
		if strings.Contains(c.SpiffeId, part) {
			kept = append(kept, c)
		}
	}
	sort.SliceStable(kept, func(i, j int) bool {
		if kept[i].Node != kept[j].Node {
			return kept[i].Node < kept[j].Node
		}
		return kept[i].SpiffeId < kept[j].SpiffeId
	})
	reply.Certs = kept
	sort.SliceStable(reply.Bundles, func(i, j int) bool { return reply.Bundles[i].Node < reply.Bundles[j].Node })
}

func (a *app) certTable(certs []*adminv1.CertInfo, wide bool) error {
	t := table{header: []string{"NODE", "SPIFFE ID", "STATE", "EXPIRES", "RENEWS", "PODS", "ERROR"}}
	if wide {
		t.header = append(t.header, "SERIAL", "AGE", "WORKLOADS")
	}
	for _, c := range certs {
		row := append(cells(c.Node, c.SpiffeId), cell{c.State, certStyle(c.State)})
		row = append(row, cells(a.until(c.NotAfterUnix), a.until(c.RenewAtUnix), fmt.Sprint(len(c.Workloads)), c.Error)...)
		if wide {
			row = append(row, cells(c.Serial, a.since(c.NotBeforeUnix), join(c.Workloads))...)
		}
		t.add(row...)
	}
	return t.write(a, "")
}

func certStyle(state string) style {
	switch state {
	case "valid":
		return good
	case "renewing":
		return warn
	case "expired", "missing":
		return bad
	}
	return plain
}

// bundleTable prints a line a node and trust domain. Fingerprints are cut to what tells them apart by eye.
func (a *app) bundleTable(bundles []*adminv1.BundleInfo, wide bool) error {
	t := table{header: []string{"NODE", "TRUST DOMAIN", "ROOTS", "FIRST EXPIRES", "FINGERPRINTS"}}
	for _, b := range bundles {
		prints := make([]string, 0, len(b.Fingerprints))
		for _, p := range b.Fingerprints {
			if !wide && len(p) > 12 {
				p = p[:12]
			}
			prints = append(prints, p)
		}
		first := int64(0)
		for _, at := range b.NotAfterUnix {
			if first == 0 || at < first {
				first = at
			}
		}
		t.add(cells(b.Node, b.TrustDomain, fmt.Sprint(len(b.Fingerprints)), a.until(first), join(prints))...)
	}
	return t.write(a, "")
}
