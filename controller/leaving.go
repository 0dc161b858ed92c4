package controller

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warren-mesh/warren/controller/kube"
	"github.com/warren-mesh/warren/controller/manifest"
	"github.com/warren-mesh/warren/controller/waypoints"
)

// waypoints prepares what runs waypoints while this replica leads.
func (r *replica) waypoints(c *Controller) (*waypoints.Manager, error) {
	_, port, err := net.SplitHostPort(c.AgentsAddr().String())
	if err != nil {
		return nil, fmt.Errorf("controller: its address for waypoints: %w", err)
	}
	return waypoints.New(waypoints.Config{
		Client: r.cluster.Client(), Dynamic: r.cluster.Dynamic(), Namespace: r.kube.Namespace,
		Controller:  net.JoinHostPort(kube.Service+"."+r.kube.Namespace+".svc", port),
		TrustDomain: r.cfg.TrustDomain, Roots: bundlePEM(c.authority), Leaving: r.cluster.Leaving,
		Template: r.kube.Waypoints, Log: r.cfg.Log,
	})
}

// reportLeaving says how far the mesh is in leaving, while it leaves. Waypoints go last: until an agent has let its pods
// go they still dial them.
func (r *replica) reportLeaving(ctx context.Context, c *Controller, w *waypoints.Manager) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if !r.cluster.Leaving() || !c.state.leavePublished() {
			said = ""
			continue
		}
		now, all := r.left(c)
		if all && now != said {
			now += r.waypointsLeft(ctx, w)
		}
		if now == said {
			continue
		}
		if err := r.cluster.ReportLeft(ctx, now); err != nil {
			r.cfg.Log.Warn("cannot report how far the mesh is in leaving", "err", err)
			continue
		}
		said = now
	}
}

// waypointsLeft removes waypoints, and is what there is to say about that, "" once there are none.
func (r *replica) waypointsLeft(ctx context.Context, w *waypoints.Manager) string {
	found, err := w.Remove(ctx)
	switch {
	case err != nil:
		r.cfg.Log.Warn("cannot remove waypoints", "err", err)
		return kube.LeftMore + "waypoints cannot be removed: " + err.Error()
	case found > 0:
		return kube.LeftMore + "waypoints are being removed, " + strconv.Itoa(found) + " objects"
	}
	return ""
}

// left is "<n> of <m>" agents that enforce what is newest, and who does not; all tells whether every one does. An agent
// that never connected counts too: its pods are captured all the same.
func (r *replica) left(c *Controller) (text string, all bool) {
	newest := c.publisher.Version()
	done := make(map[string]bool)
	for _, n := range c.watchers.Nodes() {
		done[n.Node] = n.Connected && n.Acked >= newest
	}
	agents, late := 0, []string(nil)
	for _, o := range r.cluster.Pods() {
		spec := o.Spec.(*manifest.Pod)
		if o.Namespace != r.kube.Namespace || spec.Spec.ServiceAccountName != r.kube.AgentServiceAccount ||
			spec.Status.Phase != "Running" {
			continue
		}
		if agents++; !done[spec.Spec.NodeName] {
			late = append(late, spec.Spec.NodeName)
		}
	}
	text = fmt.Sprintf("%d of %d", agents-len(late), agents)
	if len(late) > 0 {
		slices.Sort(late)
		text += kube.LeftMore + "not " + strings.Join(late[:min(len(late), 5)], ", ")
	}
	return text, len(late) == 0
}
