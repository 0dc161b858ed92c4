package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/cluster"
)

// onKubernetes says whether waypoints are asked for where Gateways are: in the cluster of the kubeconfig, unless somebody
// nearer answers, in the order of every other command.
func (a *app) onKubernetes(ctx context.Context) bool {
	if a.socket != "" || a.lab != "" {
		return false
	}
	if a.kube.named() {
		return true
	}
	found, err := a.find(ctx)
	if err == nil {
		found.conn.Close()
	}
	return a.asked != nil
}

func (a *app) waypointList() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use: "list [NAME]", Aliases: []string{"ls"}, Short: "List waypoints, how many of their pods are ready, and who uses them",
		Long: "List waypoints: the Gateways of the cluster, or, without Kubernetes, those whose pods the controller knows.",
		Example: `  agentctl waypoint list
  agentctl waypoint list -n shop -o wide
  agentctl waypoint list -o json | jq '.[] | select(.programmed.status != "True")'`,
		Args: optionalName, ValidArgsFunction: a.completeWaypoints,
	}
	output := listFormats(cmd)
	a.namespaceFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := newFilter(namespace, args)
		if err != nil {
			return err
		}
		if !a.onKubernetes(cmd.Context()) {
			return a.listPods(cmd, f, output)
		}
		list, err := a.waypoints(cmd.Context(), f)
		if err != nil {
			return err
		}
		if output.machine() {
			return a.emit(output.value, list)
		}
		if len(list) == 0 {
			return a.nothing(f, cmd, "waypoints")
		}
		return a.listWaypoints(list, output.wide())
	}
	return cmd
}

// waypoints are those of the cluster that a filter keeps.
func (a *app) waypoints(ctx context.Context, f filter) ([]cluster.Waypoint, error) {
	c, err := a.waypointCluster()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	list, err := c.Waypoints(ctx, f.namespace)
	if err != nil {
		return nil, a.explainWaypoints(c, err)
	}
	kept := keep(f, list, func(w cluster.Waypoint) (string, string) { return w.Namespace, w.Name })
	if kept == nil {
		kept = []cluster.Waypoint{}
	}
	return kept, nil
}

func (a *app) listWaypoints(list []cluster.Waypoint, wide bool) error {
	t := table{header: []string{"NAMESPACE", "NAME", "FOR", "READY", "PROGRAMMED", "USED BY", "AGE"}}
	if wide {
		t.header = append(t.header, "REPLICAS", "ADDRESSES", "MESSAGE")
	}
	for _, w := range list {
		used := strings.Join(w.UsedBy, ", ")
		if !wide && len(w.UsedBy) > 2 {
			used = fmt.Sprintf("%s and %d more", w.UsedBy[0], len(w.UsedBy)-1)
		}
		row := append(cells(w.Namespace, w.Name, w.For), ratio(int(w.Ready), int(w.Want)), programmedCell(w))
		row = append(row, cells(used, a.since(w.Created.Unix()))...)
		if wide {
			row = append(row, cells(w.Scale, join(w.Addresses), messageOf(w))...)
		}
		t.add(row...)
	}
	return t.write(a, "")
}

// programmedCell is "True", or why it is not.
func programmedCell(w cluster.Waypoint) cell {
	switch {
	case w.Accepted.Status == "False":
		return cell{"refused: " + w.Accepted.Reason, bad}
	case w.Programmed.OK():
		return cell{"True", good}
	case w.Programmed.Status == "":
		return cell{"Unknown", warn}
	}
	return cell{w.Programmed.Status + ": " + w.Programmed.Reason, warn}
}

func messageOf(w cluster.Waypoint) string {
	if w.Accepted.Status == "False" {
		return w.Accepted.Message
	}
	return w.Programmed.Message
}

// podOf names the Gateway that a waypoint's pod belongs to.
func podOf(w *adminv1.WaypointStatus) (namespace, name string) { return w.Namespace, w.Gateway }

// listPods is the list where there are no Gateways to read: what the controller knows of waypoints' pods.
func (a *app) listPods(cmd *cobra.Command, f filter, output *choice) error {
	reply, err := ask(cmd.Context(), a, adminv1.AdminClient.Status, &adminv1.StatusRequest{})
	if err != nil {
		return err
	}
	reply.Waypoints = keep(f, reply.Waypoints, podOf)
	if output.machine() {
		return a.emit(output.value, &adminv1.StatusReply{Waypoints: reply.Waypoints})
	}
	if len(reply.Waypoints) == 0 {
		return a.nothing(f, cmd, "waypoints")
	}
	t := table{header: []string{"NAMESPACE", "NAME", "CONNECTED"}}
	for i := 0; i < len(reply.Waypoints); {
		first, connected, all := reply.Waypoints[i], 0, 0
		same := func(w *adminv1.WaypointStatus) bool {
			return w.Namespace == first.Namespace && w.Gateway == first.Gateway
		}
		for ; i < len(reply.Waypoints) && same(reply.Waypoints[i]); i++ {
			if all++; reply.Waypoints[i].Connected {
				connected++
			}
		}
		t.add(append(cells(first.Namespace, first.Gateway), ratio(connected, all))...)
	}
	return t.write(a, "")
}

func (a *app) waypointStatus() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "Show how waypoints are: their conditions, and each of their pods",
		Long: `Show each waypoint: what its Gateway says, who uses it, why pods of it are not ready; and of each pod whether it follows the
controller, and what it has to do. Exits with 3 if a waypoint is not programmed.`,
		Example: `  agentctl waypoint status
  agentctl waypoint status shop/waypoint -o wide`,
		Args: optionalName, ValidArgsFunction: a.completeWaypoints,
	}
	output := outputFlag(cmd, formatTable, formatWide)
	a.namespaceFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := newFilter(namespace, args)
		if err != nil {
			return err
		}
		return a.showWaypoints(cmd, f, output.wide())
	}
	return cmd
}

func (a *app) showWaypoints(cmd *cobra.Command, f filter, wide bool) error {
	well := true
	if a.onKubernetes(cmd.Context()) {
		list, err := a.waypoints(cmd.Context(), f)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return a.nothing(f, cmd, "waypoints")
		}
		for _, w := range list {
			well = well && w.Programmed.OK()
			a.describeWaypoint(cmd.Context(), w)
		}
	}
	if err := a.waypointPods(cmd, f, wide); err != nil {
		return err
	}
	if !well {
		return errNo
	}
	return nil
}

func (a *app) describeWaypoint(ctx context.Context, w cluster.Waypoint) {
	mark, text := a.checkMark(checkOK), w.Programmed.Message
	if !w.Programmed.OK() {
		mark, text = a.checkMark(checkFail), messageOf(w)
	}
	a.printf("%s waypoint %s/%s, for %s: %s\n", mark, clean(w.Namespace), clean(w.Name), clean(w.For), clean(text))
	if len(w.Addresses) > 0 {
		a.printf("    address  %s\n", clean(join(w.Addresses)))
	}
	used := "nobody: no namespace, service or pod has the label " + cluster.UseWaypoint + " with its name"
	if len(w.UsedBy) > 0 {
		used = strings.Join(w.UsedBy, ", ")
	}
	a.printf("    used by  %s\n", clean(used))
	if w.Programmed.OK() && w.Ready >= w.Want {
		return
	}
	c, err := a.cluster()
	if err != nil {
		return // it was asked a moment ago
	}
	waiting, err := c.WaypointWaiting(ctx, w.Namespace, w.Name)
	if err != nil {
		return // it only explains
	}
	for _, one := range waiting {
		a.printf("    waiting  %s\n", clean(one))
	}
}

// waypointPods shows what the controller knows of each pod.
func (a *app) waypointPods(cmd *cobra.Command, f filter, wide bool) error {
	reply, err := ask(cmd.Context(), a, adminv1.AdminClient.Status, &adminv1.StatusRequest{})
	if err != nil {
		return err
	}
	reply.Waypoints = keep(f, reply.Waypoints, podOf)
	if len(reply.Waypoints) == 0 {
		return a.nothing(f, cmd, "pods of waypoints that the controller knows")
	}
	return a.waypointTable(reply, f.namespace, wide)
}

// completeWaypoints offers "namespace/name" of waypoints, or the names in the namespace that -n gives.
func (a *app) completeWaypoints(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	namespace, _ := cmd.Flags().GetString("namespace")
	if len(args) > 0 && cmd.Name() != "delete" || !a.onKubernetes(ctx) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := a.waypoints(ctx, filter{namespace: namespace})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, w := range list {
		if namespace != "" {
			names = append(names, w.Name)
			continue
		}
		names = append(names, w.Namespace+"/"+w.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
