package main

import (
	"cmp"
	"slices"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// connectionsCommand lists what is open now.
func (a *app) connectionsCommand() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:     "connections [NAME]",
		Aliases: []string{"connection", "conns"},
		Short:   "List the connections that are open now",
		Long: `List the connections that are open now, oldest first. NAME keeps those from or to a pod.
What has ended is in: agentctl flows`,
		Example: `  agentctl connections
  agentctl connections shop/web
  agentctl connections -n shop -o wide`,
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
		reply, err := ask(cmd.Context(), a, adminv1.AdminClient.Connections, &adminv1.ListRequest{Namespace: f.namespace})
		if err != nil {
			return err
		}
		reply.Connections = touching(f, reply.Connections)
		if output.machine() {
			return a.emit(output.value, reply)
		}
		if len(reply.Connections) == 0 {
			return a.nothing(f, cmd, "open connections")
		}
		return a.connectionTable(reply.Connections, output.wide())
	}
	return cmd
}

// touching keeps the connections that start or end at what f matches, oldest first.
func touching(f filter, open []*adminv1.Flow) []*adminv1.Flow {
	open = slices.DeleteFunc(open, func(c *adminv1.Flow) bool {
		return !f.match(c.Src.GetNamespace(), c.Src.GetWorkload()) && !f.match(c.Dst.GetNamespace(), c.Dst.GetWorkload())
	})
	slices.SortStableFunc(open, func(x, y *adminv1.Flow) int { return cmp.Compare(x.StartUnixNano, y.StartUnixNano) })
	return open
}

func (a *app) connectionTable(open []*adminv1.Flow, wide bool) error {
	t := table{header: []string{"AGE", "SOURCE", "DESTINATION", "SECURITY", "RULE", "IN", "OUT", "REPORTER", "NODE"}}
	if wide {
		t.header = append(t.header, "SERVICE", "SOURCE ID", "DESTINATION ID", "PROTOCOL", "ID")
	}
	for _, f := range open {
		row := append(cells(a.since(f.StartUnixNano/1e9), peerName(f.Src, true), peerName(f.Dst, true)), securityCell(f))
		row = append(row, cells(flowRule(f), size(f.BytesIn), size(f.BytesOut), f.Reporter, f.Node)...)
		if wide {
			row = append(row, cells(flowService(f), f.Src.GetSpiffeId(), f.Dst.GetSpiffeId(), f.Protocol, f.Id)...)
		}
		t.add(row...)
	}
	return t.write(a, "")
}
