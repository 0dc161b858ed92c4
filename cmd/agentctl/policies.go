package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// policiesCommand lists policies, whom they select and whether every node enforces them.
func (a *app) policiesCommand() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:     "policies [NAME]",
		Aliases: []string{"policy", "pol"},
		Short:   "List policies, whom they select and where they are enforced",
		Long: `List policies, whom they select and on how many of the nodes and waypoints that should enforce
them they are enforced.
With a NAME, the rules follow the table, one a line.`,
		Example: `  agentctl policies
  agentctl policies shop/allow-web
  agentctl policies -n shop -o yaml`,
		Args: optionalName,
	}
	output := listFormats(cmd)
	a.namespaceFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := newFilter(namespace, args)
		if err != nil {
			return err
		}
		reply, err := ask(cmd.Context(), a, adminv1.AdminClient.Policies, &adminv1.ListRequest{Namespace: f.namespace})
		if err != nil {
			return err
		}
		reply.Policies = keep(f, reply.Policies, func(p *adminv1.PolicyInfo) (string, string) {
			return p.Namespace, p.Name
		})
		if output.machine() {
			return a.emit(output.value, reply)
		}
		if len(reply.Policies) == 0 {
			return a.nothing(f, cmd, "policies")
		}
		if f.name != "" {
			defer a.policyRules(reply.Policies)
		}
		return a.policyTable(reply.Policies, output.wide())
	}
	return cmd
}

func (a *app) policyTable(policies []*adminv1.PolicyInfo, wide bool) error {
	t := table{header: []string{"NAMESPACE", "NAME", "KIND", "ACTION", "SCOPE", "RULES", "WORKLOADS", "ENFORCED"}}
	if wide {
		t.header = append(t.header, "SELECTS", "TEXT")
	}
	for _, p := range policies {
		row := cells(p.Namespace, p.Name, p.Kind, p.Action, p.Scope, fmt.Sprint(p.Rules), fmt.Sprint(len(p.Workloads)))
		enforced := cell{text: fmt.Sprintf("%d/%d", p.Enforced, p.Wanted), style: good}
		if p.Enforced < p.Wanted {
			enforced.style = warn
		}
		row = append(row, enforced)
		if wide {
			row = append(row, cells(join(p.Workloads), strings.Join(p.Text, "; "))...)
		}
		t.add(row...)
	}
	return t.write(a, "")
}

func (a *app) policyRules(policies []*adminv1.PolicyInfo) {
	for _, p := range policies {
		if len(p.Text) == 0 && len(p.Targets) == 0 && p.Unenforced == "" {
			continue
		}
		a.printf("\n%s %s/%s:\n", clean(p.Kind), clean(p.Namespace), clean(p.Name))
		if len(p.Targets) > 0 {
			a.printf("  attached to %s\n", clean(join(p.Targets)))
		}
		if p.Unenforced != "" {
			a.printf("  %s\n", a.paint(warn, "not enforced everywhere: "+clean(p.Unenforced)))
		}
		for _, line := range p.Text {
			a.printf("  %s\n", clean(line))
		}
	}
}
