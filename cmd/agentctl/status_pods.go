package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// The states of a pod, as adminv1.PodStatus has them.
const (
	podEnrolled  = "enrolled"
	podPending   = "pending"
	podUnmanaged = "unmanaged"
)

// podRow is a pod and the node that reports it.
type podRow struct {
	node string
	*adminv1.PodStatus
}

// podRows lists the pods of all nodes that match.
func podRows(reply *adminv1.StatusReply, f filter) []podRow {
	var all []podRow
	for _, n := range reply.Nodes {
		for _, p := range n.Pods {
			all = append(all, podRow{n.Node, p})
		}
	}
	return keep(f, all, func(p podRow) (string, string) { return p.Namespace, p.Name })
}

// showPods is status pods: the answer cut down to the pods asked for.
func (a *app) showPods(reply *adminv1.StatusReply, f filter, output *choice, cmd *cobra.Command) error {
	pods := podRows(reply, f)
	if output.machine() {
		if err := a.emit(output.value, onlyPods(reply, f)); err != nil {
			return err
		}
	} else if len(pods) == 0 {
		return a.nothing(f, cmd, "pods")
	} else if err := a.podTable(pods, output.wide()); err != nil {
		return err
	}
	for _, p := range pods {
		if p.State == podPending {
			return errNo
		}
	}
	return nil
}

// onlyPods keeps of a status the nodes that have pods that match, and only those pods.
func onlyPods(reply *adminv1.StatusReply, f filter) *adminv1.StatusReply {
	out := &adminv1.StatusReply{}
	for _, n := range reply.Nodes {
		n.Pods = keep(f, n.Pods, func(p *adminv1.PodStatus) (string, string) { return p.Namespace, p.Name })
		if len(n.Pods) > 0 {
			out.Nodes = append(out.Nodes, n)
		}
	}
	return out
}

func (a *app) podTable(pods []podRow, wide bool) error {
	t := table{header: []string{"NAMESPACE", "NAME", "NODE", "STATE", "REASON", "SPIFFE ID", "SVID EXPIRES"}}
	if wide {
		t.header = append(t.header, "CONNECTIONS", "FAIL OPEN", "ADDRESSES", "UID")
	}
	for _, p := range pods {
		state := cell{text: p.State}
		switch p.State {
		case podEnrolled:
			state.style = good
		case podPending:
			state.style = warn
		case podUnmanaged:
			state.style = dim
		}
		row := append(cells(p.Namespace, p.Name, p.node), state, cell{text: p.Reason}, cell{text: p.SpiffeId},
			a.expiryCell(p.SvidNotAfterUnix))
		if wide {
			row = append(row, cells(fmt.Sprint(p.Connections), yesNo(p.FailOpen), join(p.Addresses), p.Uid)...)
		}
		t.add(row...)
	}
	return t.write(a, "")
}
