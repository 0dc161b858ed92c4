package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// versions is the machine-readable answer of agentctl version.
type versions struct {
	Client     string            `json:"client"`
	Go         string            `json:"go"`
	Controller string            `json:"controller,omitempty"`
	Agents     map[string]string `json:"agents,omitempty"`
}

// versionCommand prints the version of this binary and of those it reaches.
func (a *app) versionCommand() *cobra.Command {
	var clientOnly bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of agentctl, the controller and the agents",
		Example: `  agentctl version
  agentctl version --client -o json`,
		Args: exactArgs(),
	}
	output := outputFlag(cmd, formatTable, formatJSON, formatYAML)
	cmd.Flags().BoolVar(&clientOnly, "client", false, "only this binary's version; ask nobody")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := versions{Client: a.version, Go: runtime.Version()}
		if !clientOnly {
			reply, err := ask(cmd.Context(), a, adminv1.AdminClient.Status, &adminv1.StatusRequest{})
			if err != nil {
				// Knowing only the client's version is an answer.
				fmt.Fprintf(a.stderr, "only the client's version is known: %s\n", clean(err.Error()))
			}
			v.Controller = reply.GetController().GetVersion()
			v.Agents = agentVersions(reply)
		}
		if output.machine() {
			return a.emit(output.value, v)
		}
		return a.versionTable(v)
	}
	return cmd
}

func agentVersions(reply *adminv1.StatusReply) map[string]string {
	agents := make(map[string]string)
	for _, n := range reply.GetNodes() {
		agents[n.Node] = n.Version
	}
	return agents
}

func (a *app) versionTable(v versions) error {
	a.printf("agentctl:   %s (%s)\n", clean(v.Client), v.Go)
	if v.Controller != "" {
		a.printf("controller: %s\n", clean(v.Controller))
	}
	nodes := make(map[string][]string)
	for node, version := range v.Agents {
		nodes[version] = append(nodes[version], node)
	}
	for _, version := range sortedKeys(nodes) {
		a.printf("agents:     %s (%s)\n", clean(version), count(len(nodes[version]), "node"))
	}
	return nil
}
