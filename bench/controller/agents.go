package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/warren-mesh/warren/agent/feed"
	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/internal/crowd"
)

// agents are all of a run's.
type agents struct {
	*crowd.Crowd
	n      int
	cancel context.CancelFunc
	done   chan error
}

// connect starts an agent for each node, of which the first `feeds` are real ones.
func connect(ctx context.Context, authority *ca.Authority, p *process, o options) *agents {
	ctx, cancel := context.WithCancel(ctx)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	a := &agents{n: o.size.nodes, cancel: cancel, done: make(chan error, 2), Crowd: crowd.New(authority, dial, p.address)}
	var names []string
	for i := o.feeds; i < o.size.nodes; i++ {
		names = append(names, nodeName(i))
	}
	go func() { a.done <- a.Run(ctx, names) }()
	go func() { a.done <- a.follow(ctx, o.feeds) }()
	return a
}

// follow runs the real feeds until ctx ends, and returns the first error.
func (a *agents) follow(ctx context.Context, n int) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = a.feed(ctx, nodeName(i)) })
	}
	all.Wait()
	<-ctx.Done() // also if there is none
	return errors.Join(errs...)
}

// feed is what an agent does with what it is told, but for its pods.
func (a *agents) feed(ctx context.Context, node string) error {
	conn, err := a.Connect(node, feed.DialOptions()...)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := feed.New(feed.Config{
		Client: meshv1.NewMeshClient(conn), AgentVersion: "bench", Log: slog.New(slog.DiscardHandler),
		Enforce: func(_ context.Context, s *feed.State) error {
			a.Acknowledged(node, s.Version) // which is sent next
			return nil
		},
	})
	if err := c.Run(ctx); ctx.Err() == nil {
		return fmt.Errorf("the feed of %s: %w", node, err)
	}
	return nil
}

// stop ends every agent.
func (a *agents) stop() error {
	a.cancel()
	return errors.Join(<-a.done, <-a.done)
}

// awaitAfter waits until every agent has acknowledged a version that is newer than one.
func (a *agents) awaitAfter(ctx context.Context, version uint64, patience time.Duration) (uint64, crowd.Progress, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	tick := time.NewTicker(2 * time.Millisecond) // what is measured are the agents' own times
	defer tick.Stop()
	for {
		newest, p := a.Newest()
		if newest > version && p.Agents == a.n {
			return newest, p, nil
		}
		select {
		case <-ctx.Done():
			return 0, p, ctx.Err()
		case err := <-a.done:
			a.done <- err
			return 0, p, fmt.Errorf("agents ended: %w", err)
		case <-timer.C:
			return 0, p, fmt.Errorf("after %s %d of %d agents have acknowledged version %d", patience, p.Agents, a.n, newest)
		case <-tick.C:
		}
	}
}
