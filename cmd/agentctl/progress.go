package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/cluster"
)

// maxWaiting bounds how many pods a line of progress names.
const maxWaiting = 3

// waitReady prints a line whenever something changes, until controller and agents are ready.
func (a *app) waitReady(ctx context.Context, c *cluster.Cluster, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var said string
	var parts []cluster.Part
	for {
		now, err := c.Rollout(ctx)
		if err == nil {
			parts = now
			if text := rolloutText(parts); text != said {
				a.printf("%s\n", clean(text))
				said = text
			}
			if !slices.ContainsFunc(parts, func(p cluster.Part) bool { return !p.Done() }) {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return a.notInTime(c, timeout, parts, err)
		}
	}
}

// waitMesh waits until controller and agents are ready, and every agent follows the controller: one that cannot is ready
// for Kubernetes all the same, as it goes on with what it knew.
func (a *app) waitMesh(ctx context.Context, c *cluster.Cluster, timeout time.Duration) error {
	if err := a.waitReady(ctx, c, timeout); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	said := ""
	for {
		text, err := a.unconnected(ctx, c)
		if err == nil && text == "" {
			return nil
		}
		if err == nil && text != said {
			a.printf("%s\n", clean(text))
			said = text
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &failure{text: fmt.Sprintf("not ready after %s: %s", timeout, said), err: context.DeadlineExceeded,
				hint: fmt.Sprintf("see why: kubectl -n %s logs -l app.kubernetes.io/name=%s", c.Namespace, cluster.Agent)}
		}
	}
}

// unconnected says how many agents do not follow the controller yet, "" if all do.
func (a *app) unconnected(ctx context.Context, c *cluster.Cluster) (string, error) {
	parts, err := c.Rollout(ctx)
	if err != nil {
		return "", err
	}
	reply, err := ask(ctx, a, adminv1.AdminClient.Status, &adminv1.StatusRequest{})
	if err != nil {
		return "", err
	}
	connected, want := 0, 0
	for _, n := range reply.Nodes {
		if n.Connected {
			connected++
		}
	}
	for _, p := range parts {
		if p.Name == "agents" {
			want = int(p.Want)
		}
	}
	if connected >= want {
		return "", nil
	}
	return fmt.Sprintf("agents %d/%d connected", connected, want), nil
}

func (a *app) notInTime(c *cluster.Cluster, timeout time.Duration, parts []cluster.Part, err error) error {
	if err != nil && parts == nil {
		return a.explainKube(c, err)
	}
	return &failure{
		text: fmt.Sprintf("not ready after %s: %s", timeout, rolloutText(parts)),
		hint: fmt.Sprintf("look at the pods: kubectl -n %s get pods -o wide; it goes on by itself, see: agentctl check", c.Namespace),
		err:  context.DeadlineExceeded,
	}
}

// rolloutText is one line: "controller 2/2, agents 1/2 ready: node-b: ImagePullBackOff".
func rolloutText(parts []cluster.Part) string {
	var counts, reasons []string
	for _, p := range parts {
		counts = append(counts, fmt.Sprintf("%s %d/%d", p.Name, p.Ready, p.Want))
		if !p.Done() {
			for _, w := range p.Waiting {
				reasons = append(reasons, p.Name+" on "+w)
			}
		}
	}
	text := strings.Join(counts, ", ") + " ready"
	if len(reasons) == 0 {
		return text
	}
	more := ""
	if len(reasons) > maxWaiting {
		more = fmt.Sprintf("; and %d more", len(reasons)-maxWaiting)
		reasons = reasons[:maxWaiting]
	}
	return text + ": " + strings.Join(reasons, "; ") + more
}
