package main

import (
	"fmt"
	"strconv"

	"github.com/warren-mesh/warren/api/adminv1"
)

// asNode is what a waypoint's pod has in common with a node: how it follows the controller.
func asNode(w *adminv1.WaypointStatus) *adminv1.NodeStatus {
	return &adminv1.NodeStatus{
		Connected: w.Connected, ControllerConnected: w.ControllerConnected, Epoch: w.Epoch,
		EnforcedVersion: w.EnforcedVersion, LatestVersion: w.LatestVersion, LastNack: w.LastNack,
	}
}

// waypointTable shows the pods of waypoints, after an empty line; nothing if there is none.
func (a *app) waypointTable(reply *adminv1.StatusReply, namespace string, wide bool) error {
	t := table{header: []string{"WAYPOINT", "POD", "NODE", "VERSION", "STATE", "CONFIG", "OPEN REQUESTS", "REQUESTS/S", "CONNECTIONS", "SVID EXPIRES"}}
	if wide {
		t.header = append(t.header, "UP", "REQUESTS", "SPIFFE ID", "EPOCH", "LAST NACK")
	}
	for _, w := range reply.Waypoints {
		if namespace != "" && w.Namespace != namespace {
			continue
		}
		n := asNode(w)
		row := append(cells(w.Namespace+"/"+w.Gateway, w.Pod, w.Node, w.Version), nodeLink(reply, n), configCell(reply, n))
		row = append(row, cells(fmt.Sprint(w.OpenRequests), strconv.FormatFloat(w.RequestsPerSecond, 'f', 1, 64), fmt.Sprint(w.OpenConnections))...)
		row = append(row, a.expiryCell(w.SvidNotAfterUnix))
		if wide {
			row = append(row, cells(a.since(w.StartedUnix), fmt.Sprint(w.Requests), w.SpiffeId, w.Epoch, w.LastNack)...)
		}
		t.add(row...)
	}
	if len(t.rows) == 0 {
		return nil
	}
	a.printf("\n")
	return t.write(a, "")
}

// waitingFor is what status --wait waits for of a waypoint's pod, empty if nothing.
func waitingFor(reply *adminv1.StatusReply, w *adminv1.WaypointStatus) string {
	n, name := asNode(w), "waypoint pod "+w.Namespace+"/"+w.Pod
	if link := nodeLink(reply, n); link.style != good {
		return name + " is " + link.text
	}
	if behind(reply, n) > 0 {
		return fmt.Sprintf("%s enforces version %d of %d", name, n.EnforcedVersion, n.LatestVersion)
	}
	return ""
}
