package main

import (
	"fmt"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// workloadsCommand lists what the mesh knows of pods: where they are, who they are, what they accept.
func (a *app) workloadsCommand() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:     "workloads [NAME]",
		Aliases: []string{"workload", "wl"},
		Short:   "List workloads, their identity and the mTLS mode they ask for",
		Example: `  agentctl workloads
  agentctl workloads -n shop -o wide
  agentctl workloads 'shop/web-*'
  agentctl workloads shop/web -o json | jq -r '.workloads[].spiffeId'`,
		Args:              optionalName,
		ValidArgsFunction: a.completePods(1),
	}
	output := listFormats(cmd)
	a.namespaceFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := newFilter(namespace, args)
		if err != nil {
			return err
		}
		reply, err := ask(cmd.Context(), a, adminv1.AdminClient.Workloads, &adminv1.ListRequest{Namespace: f.namespace})
		if err != nil {
			return err
		}
		reply.Workloads = keep(f, reply.Workloads, func(w *adminv1.WorkloadInfo) (string, string) {
			return w.Namespace, w.Name
		})
		if output.machine() {
			return a.emit(output.value, reply)
		}
		if len(reply.Workloads) == 0 {
			return a.nothing(f, cmd, "workloads")
		}
		return a.workloadTable(reply.Workloads, output.wide())
	}
	return cmd
}

func (a *app) workloadTable(workloads []*adminv1.WorkloadInfo, wide bool) error {
	t := table{header: []string{"NAMESPACE", "NAME", "NODE", "ENROLLED", "MTLS", "POLICIES", "ADDRESSES"}}
	if wide {
		t.header = append(t.header, "SPIFFE ID", "ZONE", "MTLS FROM", "MTLS PORTS", "FAIL OPEN", "ACCELERATE", "POLICY NAMES", "UID")
	}
	for _, w := range workloads {
		enrolled := cell{"yes", good}
		if !w.Enrolled {
			enrolled = cell{"no", dim}
		}
		row := append(cells(w.Namespace, w.Name, w.Node), enrolled, cell{text: w.Mtls})
		row = append(row, cells(fmt.Sprint(len(w.Policies)), join(w.Addresses))...)
		if wide {
			row = append(row, cells(w.SpiffeId, w.Zone, w.MtlsSource, portModes(w.MtlsPorts), yesNo(w.FailOpen), yesNo(w.Accelerate),
				join(w.Policies), w.Uid)...)
		}
		t.add(row...)
	}
	return t.write(a, "")
}

// portModes prints the mTLS modes of single ports: "8080=PERMISSIVE".
func portModes(modes map[uint32]string) string {
	ports := make([]uint32, 0, len(modes))
	for p := range modes {
		ports = append(ports, p)
	}
	sort.Slice(ports, func(i, j int) bool { return ports[i] < ports[j] })
	out := make([]string, 0, len(ports))
	for _, p := range ports {
		out = append(out, fmt.Sprintf("%d=%s", p, modes[p]))
	}
	return strings.Join(out, ",")
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
