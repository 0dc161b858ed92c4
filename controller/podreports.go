package controller

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/ca"
)

// maxReportedPods bounds what one node may say.
const maxReportedPods = 2000

// podReports is what nodes say about their pods. It serves adminv1.Reports.
type podReports struct {
	adminv1.UnimplementedReportsServer

	mu    sync.Mutex
	nodes map[string]map[string]*adminv1.PodState // by node and uid
}

func newPodReports() *podReports {
	return &podReports{nodes: make(map[string]map[string]*adminv1.PodState)}
}

// Pods implements adminv1.ReportsServer. The node is who its certificate says.
func (r *podReports) Pods(ctx context.Context, req *adminv1.PodsReport) (*adminv1.PodsReportReply, error) {
	node, ok := ca.NodeFromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "no node calls")
	}
	if len(req.GetPods()) > maxReportedPods {
		return nil, status.Errorf(codes.InvalidArgument, "%d pods are more than %d", len(req.GetPods()), maxReportedPods)
	}
	pods := make(map[string]*adminv1.PodState, len(req.GetPods()))
	for _, p := range req.GetPods() {
		p.Reason = clipped(p.GetReason())
		pods[p.GetUid()] = p
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[node] = pods
	return &adminv1.PodsReportReply{}, nil
}

// of returns what a node says about a pod, nil if it says nothing.
func (r *podReports) of(node, uid string) *adminv1.PodState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[node][uid]
}

// keep forgets nodes that are not there any more.
func (r *podReports) keep(there func(node string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for node := range r.nodes {
		if !there(node) {
			delete(r.nodes, node)
		}
	}
}
