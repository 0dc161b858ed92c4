package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/adminv1"
)

const (
	reportEvery   = time.Second
	reportTimeout = 5 * time.Second
)

// reportPods tells the controller where this node's pods stand, whenever that changes and to every controller anew.
func (a *Agent) reportPods(ctx context.Context) error {
	client := adminv1.NewReportsClient(a.channel)
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	var said *adminv1.PodsReport
	var to string // the epoch that said was said to
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		feed := a.feed.Status()
		now := a.podStates()
		if !feed.Connected || feed.Epoch == to && proto.Equal(now, said) {
			continue
		}
		rctx, cancel := context.WithTimeout(ctx, reportTimeout)
		_, err := client.Pods(rctx, now)
		cancel()
		switch {
		case err == nil, status.Code(err) == codes.Unimplemented, status.Code(err) == codes.PermissionDenied:
			said, to = now, feed.Epoch // a controller of an older version does not want to know
		default:
			a.cfg.Log.Debug("the controller was not told about pods", "err", err)
		}
	}
}

func (a *Agent) podStates() *adminv1.PodsReport {
	out := &adminv1.PodsReport{}
	for _, p := range a.enroller.Pods() {
		out.Pods = append(out.Pods, &adminv1.PodState{Uid: string(p.UID), State: string(p.State), Reason: p.Reason})
	}
	for _, w := range a.enroller.Lost() {
		out.Pods = append(out.Pods, &adminv1.PodState{Uid: string(w.UID), State: "lost", Reason: "its network namespace was not found on the node"})
	}
	slices.SortFunc(out.Pods, func(x, y *adminv1.PodState) int { return strings.Compare(x.Uid, y.Uid) })
	return out
}
