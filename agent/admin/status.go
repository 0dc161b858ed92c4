package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/agent/enroll"
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/identity"
)

// Status implements Admin.
func (s *Server) Status(context.Context, *adminv1.StatusRequest) (*adminv1.StatusReply, error) {
	node := s.node()
	return &adminv1.StatusReply{Nodes: []*adminv1.NodeStatus{node}, Problems: node.Problems}, nil
}

func (s *Server) node() *adminv1.NodeStatus {
	f := s.cfg.Feed.Status()
	n := &adminv1.NodeStatus{
		Node: s.cfg.Node, Version: s.cfg.Version, Connected: true, StartedUnix: s.cfg.Started.Unix(), Kernel: kernel(),
		Epoch: f.Epoch, EnforcedVersion: f.Enforced, LatestVersion: f.Latest, EnforcedUnix: unixOf(f.EnforcedAt),
		ControllerConnected: f.Connected, LastNack: f.LastNack,
		OpenConnections: uint32(s.cfg.Proxy.OpenConnections()),
	}
	counters, err := s.cfg.Capture.Counters()
	if err != nil {
		n.Problems = append(n.Problems, s.problem(adminv1.Problem_ERROR, "capture", err.Error(), "restart the agent"))
	}
	n.CaptureCounters = counters
	n.Problems = append(n.Problems, s.cfg.HostProblems()...)
	certs := map[string]identity.Status{}
	for _, c := range s.cfg.Certs.Snapshot() {
		certs[c.ID] = c
	}
	n.NodeSvidNotAfterUnix = unixOf(certs[s.cfg.NodeID].NotAfter)
	open := s.connectionsByPod()
	for _, p := range s.cfg.Enroller.Pods() {
		n.Pods = append(n.Pods, podStatus(p, certs[p.ID.String()], open[p.Namespace+"/"+p.Name]))
		n.Problems = append(n.Problems, s.podProblems(p, certs[p.ID.String()])...)
	}
	slices.SortFunc(n.Pods, func(a, b *adminv1.PodStatus) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	n.Problems = append(n.Problems, s.feedProblems(f.Connected, f.LastNack, f.LastError)...)
	return n
}

func podStatus(p enroll.Info, cert identity.Status, open uint32) *adminv1.PodStatus {
	return &adminv1.PodStatus{
		Uid: string(p.UID), Namespace: p.Namespace, Name: p.Name, State: string(p.State), Reason: p.Reason,
		Addresses: p.Addrs, SpiffeId: p.ID.String(), SvidNotAfterUnix: unixOf(cert.NotAfter), Connections: open,
	}
}

func (s *Server) connectionsByPod() map[string]uint32 {
	n := map[string]uint32{}
	for _, f := range s.open() {
		end := f.Src
		if f.Reporter == "inbound" {
			end = f.Dst
		}
		n[end.Namespace+"/"+end.Workload]++
	}
	return n
}

func (s *Server) problem(severity adminv1.Problem_Severity, subject, text, hint string) *adminv1.Problem {
	return &adminv1.Problem{Severity: severity, Node: s.cfg.Node, Subject: subject, Text: text, Hint: hint}
}

func (s *Server) podProblems(p enroll.Info, cert identity.Status) (out []*adminv1.Problem) {
	subject := "pod " + p.Namespace + "/" + p.Name
	switch p.State {
	case enroll.Pending:
		out = append(out, s.problem(adminv1.Problem_ERROR, subject,
			"it is captured and not served yet: "+p.Reason, "every connection of the pod is refused until this is cured; see the agent's log"))
	case enroll.Unknown:
		out = append(out, s.problem(adminv1.Problem_WARNING, subject,
			"the controller has not told about it: "+p.Reason, "agentctl workloads shows what the controller knows"))
	case enroll.Enrolled:
		out = append(out, s.certProblem(subject, cert)...)
	}
	return out
}

func (s *Server) certProblem(subject string, cert identity.Status) []*adminv1.Problem {
	const hint = "see agentctl certs, and whether the controller runs"
	switch {
	case cert.State == "expired":
		return []*adminv1.Problem{s.problem(adminv1.Problem_ERROR, subject,
			fmt.Sprintf("its SVID expired %s ago and could not be renewed: %s", time.Since(cert.NotAfter).Round(time.Second), cert.Err), hint)}
	case cert.State == "missing":
		return []*adminv1.Problem{s.problem(adminv1.Problem_ERROR, subject, "it has no SVID: "+cert.Err, hint)}
	case cert.Err != "":
		return []*adminv1.Problem{s.problem(adminv1.Problem_WARNING, subject,
			fmt.Sprintf("its SVID could not be renewed, and is good for another %s: %s", time.Until(cert.NotAfter).Round(time.Second), cert.Err), hint)}
	}
	return nil
}

func (s *Server) feedProblems(connected bool, nack, lastError string) (out []*adminv1.Problem) {
	if !connected {
		out = append(out, s.problem(adminv1.Problem_WARNING, "controller",
			"not followed: "+lastError, "the last good configuration stays in force; check that the controller runs and can be reached"))
	}
	if nack != "" {
		out = append(out, s.problem(adminv1.Problem_ERROR, "configuration",
			"an update was refused: "+nack, "the last good configuration stays in force; see the controller's log"))
	}
	return out
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
