package controller

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/controller/kube"
	"github.com/warren-mesh/warren/controller/manifest"
)

const (
	// reportEvery is how often conditions of policies and pods are looked at.
	reportEvery = time.Second
	// maxReports bounds what is written at a time: the rest follows.
	maxReports = 20
)

// policyReporter writes on each policy whether it is accepted, and on how many of the agents that it concerns it is
// enforced.
type policyReporter struct {
	replica    *replica
	controller *Controller
	said       map[manifest.Key]verdict
}

// verdict is what is said about one policy.
type verdict struct {
	uid             string
	generation      int64
	rejected        string
	enforced, wants uint32
	unenforced      string
}

func (p *policyReporter) run(ctx context.Context) error { return p.controller.regularly(ctx, p.report) }

// regularly calls report every reportEvery once there is something to report, until ctx ends.
func (c *Controller) regularly(ctx context.Context, report func(context.Context)) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if c.state.ready() {
			report(ctx)
		}
	}
}

func (p *policyReporter) report(ctx context.Context) {
	reply, err := p.controller.admin.Policies(ctx, &adminv1.ListRequest{})
	if err != nil {
		return // it only reads memory: only a context that ended
	}
	known := make(map[manifest.Key]*adminv1.PolicyInfo, len(reply.GetPolicies()))
	for _, info := range reply.GetPolicies() {
		known[manifest.Key{Kind: info.GetKind(), Namespace: info.GetNamespace(), Name: info.GetName()}] = info
	}
	there := make(map[manifest.Key]bool)
	written := 0
	for _, policy := range p.replica.cluster.Policies() {
		there[policy.Key] = true
		info := known[policy.Key]
		now := verdict{policy.UID, policy.Generation, policy.Rejected, info.GetEnforced(), info.GetWanted(), info.GetUnenforced()}
		if info == nil && policy.Rejected == "" || p.said[policy.Key] == now || written >= maxReports {
			continue
		}
		written++
		if err := p.replica.cluster.SetConditions(ctx, policy, now.conditions()...); err != nil {
			p.replica.cfg.Log.Warn("cannot write a policy's status", "err", err)
			continue
		}
		p.said[policy.Key] = now
	}
	for key := range p.said {
		if !there[key] {
			delete(p.said, key)
		}
	}
}

func (v verdict) conditions() []metav1.Condition {
	if v.rejected != "" {
		return []metav1.Condition{
			{Type: kube.Accepted, Status: metav1.ConditionFalse, Reason: "Invalid", Message: clipped(v.rejected)},
			{Type: kube.Programmed, Status: metav1.ConditionFalse, Reason: "Invalid",
				Message: "what it said before stays in force; if it never said anything else, it is not in force"},
		}
	}
	out := []metav1.Condition{{Type: kube.Accepted, Status: metav1.ConditionTrue, Reason: "Accepted", Message: "every field is understood"}}
	programmed := metav1.Condition{Type: kube.Programmed, Status: metav1.ConditionTrue, Reason: "Programmed",
		Message: fmt.Sprintf("enforced on %d of %d nodes and waypoints", v.enforced, v.wants)}
	switch {
	case v.wants == 0 && v.unenforced != "":
		programmed.Status, programmed.Reason, programmed.Message = metav1.ConditionFalse, "NoWaypoint", clipped(v.unenforced)
		return append(out, programmed)
	case v.wants == 0:
		programmed.Reason, programmed.Message = "NoWorkloads", "it selects no workload that is in the mesh"
	case v.enforced < v.wants:
		programmed.Status, programmed.Reason = metav1.ConditionFalse, "Pending"
	}
	if v.unenforced != "" {
		programmed.Status, programmed.Reason = metav1.ConditionFalse, "NoWaypoint"
		programmed.Message = clipped(programmed.Message + "; " + v.unenforced)
	}
	return append(out, programmed)
}

// clipped bounds a message, as the API does.
func clipped(s string) string {
	const limit = 1024
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}
