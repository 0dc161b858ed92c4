package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

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
