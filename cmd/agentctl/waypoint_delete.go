package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/internal/cluster"
)

func (a *app) waypointDelete() *cobra.Command {
	var namespace string
	var all, yes bool
	cmd := &cobra.Command{
		Use: "delete [NAME]...", Short: "Delete waypoints",
		Long: `Delete the Gateways of waypoints, and with them all that runs for them. Connections to what still uses one are refused from
then on, never passed by it: take the labels away first. It asks before it deletes one that is used.`,
		Example: `  agentctl waypoint delete -n shop waypoint
  agentctl waypoint delete --all -n shop --yes`,
		Args: cobra.ArbitraryArgs, ValidArgsFunction: a.completeWaypoints,
	}
	a.namespaceFlag(cmd, &namespace)
	cmd.Flags().BoolVar(&all, "all", false, "every waypoint of the namespace, or of the cluster")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if all == (len(args) > 0) {
			return usagef("agentctl waypoint delete NAME -n NAMESPACE, or --all", "name waypoints, or give --all")
		}
		doomed, err := a.doomed(cmd, namespace, args)
		if err != nil {
			return err
		}
		return a.deleteWaypoints(cmd.Context(), doomed, yes)
	}
	return cmd
}

// doomed finds the waypoints that names mean; every name must mean exactly one.
func (a *app) doomed(cmd *cobra.Command, namespace string, args []string) (out []cluster.Waypoint, err error) {
	if len(args) == 0 {
		list, err := a.waypoints(cmd.Context(), filter{namespace: namespace})
		if err == nil && len(list) == 0 {
			err = a.nothing(filter{namespace: namespace}, cmd, "waypoints")
		}
		return list, err
	}
	for _, arg := range args {
		f, err := newFilter(namespace, []string{arg})
		if err != nil {
			return nil, err
		}
		list, err := a.waypoints(cmd.Context(), f)
		switch {
		case err != nil:
			return nil, err
		case len(list) == 0:
			return nil, &failure{text: fmt.Sprintf("there is no waypoint %q", arg), hint: "see all: agentctl waypoint list"}
		case len(list) > 1 && !strings.ContainsAny(f.name, "*?["):
			return nil, usagef("say which: -n "+list[0].Namespace, "there is a waypoint %q in %d namespaces", arg, len(list))
		}
		out = append(out, list...)
	}
	return out, nil
}

func (a *app) deleteWaypoints(ctx context.Context, doomed []cluster.Waypoint, yes bool) error {
	used := false
	for _, w := range doomed {
		if len(w.UsedBy) > 0 {
			used = true
			a.printf("waypoint %s/%s is used by %s: connections to them will be refused\n",
				w.Namespace, w.Name, clean(strings.Join(w.UsedBy, ", ")))
		}
	}
	if used && !yes {
		a.printf("Go on? [y/N] ")
		line, _ := bufio.NewReader(a.stdin).ReadString('\n')
		if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
			a.printf("\n")
			return usagef("take the labels away first: kubectl label namespace NAME "+cluster.UseWaypoint+
				"-; to go on without being asked: --yes", "nothing was deleted")
		}
	}
	if len(doomed) == 0 {
		return nil
	}
	c, err := a.waypointCluster()
	if err != nil {
		return err
	}
	for _, w := range doomed {
		if err := c.DeleteGateway(ctx, w.Namespace, w.Name); err != nil {
			return a.explainKube(c, err)
		}
		a.printf("deleted Gateway %s/%s\n", w.Namespace, w.Name)
	}
	return nil
}
