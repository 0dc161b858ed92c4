package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// statusFlags are the flags of status and status pods.
type statusFlags struct {
	output    *choice
	pods      bool
	namespace string
	wait      bool
	timeout   time.Duration
}

// pollEvery is how often status --wait asks again.
const pollEvery = 250 * time.Millisecond

// statusCommand shows problems first, then who is there.
func (a *app) statusCommand() *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show problems, then the controller, nodes, waypoints and pods",
		Long: `Show what is wrong and what to do about it, then the controller, its nodes and waypoints; with --pods also every pod.
Exits with 3 if there is a problem of severity ERROR. With --wait it asks again until every node and waypoint is connected
and enforces the newest configuration, no pod is pending and nothing is an ERROR, or until --timeout has passed.`,
		Example: `  agentctl status
  agentctl status pods -n shop
  agentctl status --wait --timeout 2m
  agentctl status -o json | jq -r '.problems[].text'`,
		Args: exactArgs(),
	}
	f.output = listFormats(cmd)
	a.namespaceFlag(cmd, &f.namespace)
	cmd.Flags().BoolVar(&f.pods, "pods", false, "show the pods as well")
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until the mesh is ready")
	cmd.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "how long --wait waits")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		reply, waiting, err := a.getStatus(cmd.Context(), f)
		if err != nil {
			return err
		}
		if err := a.showStatus(reply, f); err != nil {
			return err
		}
		if len(waiting) > 0 {
			fmt.Fprintf(a.stderr, "not ready after %s: %s\n", f.timeout, clean(strings.Join(waiting, "; ")))
			return errNo
		}
		return problemsVerdict(reply)
	}
	cmd.AddCommand(a.statusPodsCommand())
	return cmd
}

func (a *app) statusPodsCommand() *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use:     "pods [NAME]",
		Aliases: []string{"pod"},
		Short:   "Show the state of each pod, and why",
		Long: `Show each pod's state (enrolled, pending, unmanaged), the reason if that is not what its namespace asks for, its
SPIFFE id and the expiry of its SVID. Exits with 3 if a pod that is shown is pending.`,
		Example: `  agentctl status pods
  agentctl status pods -n shop 'web-*' -o wide`,
		Args:              optionalName,
		ValidArgsFunction: a.completePods(1),
	}
	f.output = listFormats(cmd)
	a.namespaceFlag(cmd, &f.namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		want, err := newFilter(f.namespace, args)
		if err != nil {
			return err
		}
		reply, err := ask(cmd.Context(), a, adminv1.AdminClient.Status, &adminv1.StatusRequest{})
		if err != nil {
			return err
		}
		return a.showPods(reply, want, f.output, cmd)
	}
	return cmd
}

// getStatus asks once, or with --wait until nothing is waited for. waiting is what was still missing at the end.
func (a *app) getStatus(ctx context.Context, f statusFlags) (reply *adminv1.StatusReply, waiting []string, err error) {
	get := func() (*adminv1.StatusReply, error) {
		reply, err := ask(ctx, a, adminv1.AdminClient.Status, &adminv1.StatusRequest{})
		if err == nil {
			completeProblems(reply)
		}
		return reply, err
	}
	if !f.wait {
		reply, err = get()
		return reply, nil, err
	}
	deadline := time.NewTimer(f.timeout)
	defer deadline.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		reply, err = get()
		if err == nil {
			if waiting = notReady(reply); len(waiting) == 0 {
				return reply, nil, nil
			}
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return reply, waiting, err
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("interrupted while waiting: %w", ctx.Err())
		}
	}
}

// notReady says what status --wait waits for.
func notReady(reply *adminv1.StatusReply) []string {
	var missing []string
	if len(reply.Nodes) == 0 {
		missing = append(missing, "no node has connected")
	}
	for _, n := range reply.Nodes {
		if link := nodeLink(reply, n); link.style != good {
			missing = append(missing, fmt.Sprintf("node %s is %s", n.Node, link.text))
		} else if behind(reply, n) > 0 {
			missing = append(missing, fmt.Sprintf("node %s enforces version %d of %d", n.Node, n.EnforcedVersion, n.LatestVersion))
		}
		for _, p := range n.Pods {
			if p.State == podPending {
				missing = append(missing, fmt.Sprintf("pod %s/%s is pending", p.Namespace, p.Name))
			}
		}
	}
	for _, w := range reply.Waypoints {
		if what := waitingFor(reply, w); what != "" {
			missing = append(missing, what)
		}
	}
	for _, p := range reply.Problems {
		if p.Severity == adminv1.Problem_ERROR {
			missing = append(missing, p.Subject+": "+p.Text)
		}
	}
	return missing
}

// problemsVerdict turns an ERROR problem into exit code 3.
func problemsVerdict(reply *adminv1.StatusReply) error {
	for _, p := range reply.Problems {
		if p.Severity == adminv1.Problem_ERROR {
			return errNo
		}
	}
	return nil
}

// showStatus prints problems, the controller, the nodes and, if asked for, the pods.
func (a *app) showStatus(reply *adminv1.StatusReply, f statusFlags) error {
	if f.output.machine() {
		return a.emit(f.output.value, reply)
	}
	a.problems(reply.Problems)
	a.controllerLine(reply)
	a.printf("\n")
	if len(reply.Nodes) == 0 {
		a.printf("No nodes. An agent appears here once it has connected: see the agents' logs\n")
		return nil
	}
	if err := a.nodeTable(reply, f.output.wide()); err != nil {
		return err
	}
	if err := a.waypointTable(reply, f.namespace, f.output.wide()); err != nil {
		return err
	}
	if !f.pods && f.namespace == "" {
		return nil
	}
	pods := podRows(reply, filter{namespace: f.namespace})
	if len(pods) == 0 {
		return nil
	}
	a.printf("\n")
	return a.podTable(pods, f.output.wide())
}
