package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// result is what one check found. Details say which objects; they are foreign text.
type result struct {
	Check   string   `json:"check"`
	State   string   `json:"state"`
	Details []string `json:"details,omitempty"`
	Hint    string   `json:"hint,omitempty"`
}

// The states of a result.
const (
	checkOK   = "ok"
	checkWarn = "warning"
	checkFail = "failed"
)

// section is a group of checks with a heading.
type section struct {
	Name   string   `json:"section"`
	Checks []result `json:"checks"`
}

// expect adds a check that holds if there are no details; otherwise it is in the given state.
func (s *section) expect(what, state, hint string, details ...string) {
	r := result{Check: what, State: checkOK}
	if len(details) > 0 {
		r.State, r.Details, r.Hint = state, details, hint
	}
	s.Checks = append(s.Checks, r)
}

// checkCommand asks everything that can be wrong, one by one.
func (a *app) checkCommand() *cobra.Command {
	var pre, local, nodes bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the mesh, or with --pre what is needed to install it, point by point",
		Long: `Check the mesh point by point: whom agentctl reaches, that agents are connected and enforce the newest
configuration, certificates, trust bundles, pods and what the kernel dropped.

With --pre nobody of the mesh is asked. The cluster of the kubeconfig is checked before anything is installed: versions,
your rights, nodes, and what else takes hold of connections there. --nodes also starts a pod on every node, with the
rights that an agent has, which looks at what the API cannot tell: BTF, cgroup v2, bpffs, CNI. Without a kubeconfig, or
with --local, this machine is checked: kernel, BTF, cgroup v2, bpffs, capabilities.

√ is fine, ‼ should be looked at, × is broken. Exits with 3 if there is a ×.`,
		Example: `  agentctl check
  agentctl check --pre --nodes
  sudo agentctl check --pre --local
  agentctl check -o json | jq '.[].checks[] | select(.state != "ok")'`,
		Args: exactArgs(),
	}
	output := outputFlag(cmd, formatTable, formatJSON, formatYAML)
	var rel releaseFlags
	cmd.Flags().BoolVar(&pre, "pre", false, "check whether the cluster of the kubeconfig, or this machine, is ready for Warren")
	cmd.Flags().BoolVar(&local, "local", false, "with --pre: this machine, whatever kubeconfig there is")
	cmd.Flags().BoolVar(&nodes, "nodes", false, "with --pre: start a pod on every node that looks at it")
	cmd.Flags().StringArrayVarP(&rel.files, "values", "f", nil, "with --nodes: file with the chart's settings (repeatable)")
	cmd.Flags().StringArrayVar(&rel.sets, "set", nil, "with --nodes: one setting of the chart, such as its image (repeatable)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if (local || nodes) && !pre || local && nodes {
			return usagef("agentctl check --pre --nodes, or agentctl check --pre --local", "--local and --nodes go with --pre, one of them")
		}
		sections, err := a.sections(cmd, pre, local)
		if err != nil {
			return err
		}
		if nodes {
			more, err := a.nodeSections(cmd.Context(), rel)
			if err != nil {
				return err
			}
			sections = append(sections, more...)
		}
		if output.machine() {
			if err := a.emit(output.value, sections); err != nil {
				return err
			}
		} else {
			a.showChecks(sections)
		}
		if worst(sections) == checkFail {
			return errNo
		}
		return nil
	}
	return cmd
}

func (a *app) sections(cmd *cobra.Command, pre, local bool) ([]section, error) {
	if pre {
		return a.preSections(cmd.Context(), local)
	}
	return a.meshChecks(cmd), nil
}

// meshChecks asks for status and certificates. If nobody answers, that is the only finding.
func (a *app) meshChecks(cmd *cobra.Command) []section {
	reach := section{Name: "warren-api"}
	status, err := ask(cmd.Context(), a, adminv1.AdminClient.Status, &adminv1.StatusRequest{})
	a.expectAnswer(&reach, "status can be read", err)
	pods := a.rolloutChecks(cmd.Context())
	if err != nil {
		return append([]section{reach}, pods...)
	}
	completeProblems(status)
	certs, err := ask(cmd.Context(), a, adminv1.AdminClient.Certs, &adminv1.ListRequest{})
	a.expectAnswer(&reach, "certificates can be read", err)
	sections := []section{reach, a.controllerChecks(status), agentChecks(status)}
	if err == nil {
		sections = append(sections, a.identityChecks(status, certs))
	}
	sections = append(sections, pods...)
	sections = append(sections, a.waypointChecks(cmd.Context())...)
	sections = append(sections, a.clusterConflicts(cmd.Context())...)
	return append(sections, podChecks(status), kernelChecks(status), problemChecks(status))
}

// expectAnswer adds a check that holds if a request was answered.
func (a *app) expectAnswer(s *section, what string, err error) {
	if err == nil {
		s.expect(what, checkFail, "")
		return
	}
	s.expect(what, checkFail, hintOf(err), err.Error())
}

// worst is the worst state of all checks.
func worst(sections []section) string {
	state := checkOK
	for _, s := range sections {
		for _, c := range s.Checks {
			if c.State == checkFail || (c.State == checkWarn && state == checkOK) {
				state = c.State
			}
		}
	}
	return state
}

// maxDetails bounds how many objects a check names in a table.
const maxDetails = 10

func (a *app) showChecks(sections []section) {
	for _, s := range sections {
		a.printf("%s\n%s\n", a.paint(bold, s.Name), strings.Repeat("-", len(s.Name)))
		for _, c := range s.Checks {
			a.printf("%s %s\n", a.checkMark(c.State), clean(c.Check))
			for i, d := range c.Details {
				if i == maxDetails {
					a.printf("    … and %d more\n", len(c.Details)-maxDetails)
					break
				}
				a.printf("    %s\n", clean(d))
			}
			if c.Hint != "" {
				a.printf("    hint: %s\n", clean(c.Hint))
			}
		}
		a.printf("\n")
	}
	state := worst(sections)
	a.printf("Status check results are %s\n", a.checkMark(state))
}

func (a *app) checkMark(state string) string {
	switch state {
	case checkFail:
		return a.paint(bad, markBad)
	case checkWarn:
		return a.paint(warn, markWarn)
	}
	return a.paint(good, markOK)
}

// problemChecks repeats what the daemons themselves report, so that check never says less than status.
func problemChecks(status *adminv1.StatusReply) section {
	s := section{Name: "warren-problems"}
	of := func(severity adminv1.Problem_Severity) []string {
		var found []string
		for _, p := range status.Problems {
			if p.Severity == severity {
				found = append(found, fmt.Sprintf("%s: %s", p.Subject, p.Text))
			}
		}
		return found
	}
	const hint = "see what to do about each: agentctl status"
	s.expect("no errors are reported", checkFail, hint, of(adminv1.Problem_ERROR)...)
	s.expect("no warnings are reported", checkWarn, hint, of(adminv1.Problem_WARNING)...)
	return s
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
