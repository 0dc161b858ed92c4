package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// servicesCommand lists services and how many of their endpoints are ready and in the mesh.
func (a *app) servicesCommand() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:     "services [NAME]",
		Aliases: []string{"service", "svc"},
		Short:   "List services and their endpoints",
		Example: `  agentctl services
  agentctl services -n shop payments -o wide
  agentctl services -o json | jq '.services[] | select(.endpoints == [])'`,
		Args: optionalName,
	}
	output := listFormats(cmd)
	a.namespaceFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := newFilter(namespace, args)
		if err != nil {
			return err
		}
		reply, err := ask(cmd.Context(), a, adminv1.AdminClient.Services, &adminv1.ListRequest{Namespace: f.namespace})
		if err != nil {
			return err
		}
		reply.Services = keep(f, reply.Services, func(s *adminv1.ServiceInfo) (string, string) {
			return s.Namespace, s.Name
		})
		if output.machine() {
			return a.emit(output.value, reply)
		}
		if len(reply.Services) == 0 {
			return a.nothing(f, cmd, "services")
		}
		return a.serviceTable(reply.Services, output.wide())
	}
	return cmd
}

func (a *app) serviceTable(services []*adminv1.ServiceInfo, wide bool) error {
	t := table{header: []string{"NAMESPACE", "NAME", "VIPS", "PORTS", "READY", "IN MESH", "HOSTNAME"}}
	if wide {
		t.header = append(t.header, "ENDPOINTS")
	}
	for _, s := range services {
		ready, mesh := 0, 0
		for _, e := range s.Endpoints {
			if e.Ready {
				ready++
			}
			if e.Mesh {
				mesh++
			}
		}
		all := len(s.Endpoints)
		row := append(cells(s.Namespace, s.Name, join(s.Vips), join(s.Ports)), ratio(ready, all), ratio(mesh, all),
			cell{text: s.Hostname})
		if wide {
			row = append(row, cell{text: endpoints(s.Endpoints)})
		}
		t.add(row...)
	}
	return t.write(a, "")
}

// ratio prints "2/3", and warns if a part is missing.
func ratio(part, all int) cell {
	c := cell{text: fmt.Sprintf("%d/%d", part, all)}
	switch {
	case all > 0 && part == all:
		c.style = good
	case part == 0:
		c.style = bad
	default:
		c.style = warn
	}
	return c
}

// endpoints prints "web-1@node-a,web-2@node-b!" where ! marks those that are not ready.
func endpoints(list []*adminv1.EndpointInfo) string {
	out := make([]string, 0, len(list))
	for _, e := range list {
		text := e.Workload
		if text == "" {
			text = join(e.Addresses)
		}
		if e.Node != "" {
			text += "@" + e.Node
		}
		if !e.Ready {
			text += "!"
		}
		out = append(out, text)
	}
	return strings.Join(out, ",")
}
