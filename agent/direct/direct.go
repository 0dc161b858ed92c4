// Package direct tells ztunnel of the connections that the kernel makes between pods of this node by itself, and the
// kernel what ztunnel says of them.
package direct

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/ztunnel"
)

// Follower follows one node's connections. It is ztunnel's Kernel.
type Follower struct {
	capture *bpf.Capture
	events  *bpf.Events
	log     *slog.Logger
}

// New returns a Follower that does nothing until Run, for which Advance waits.
func New(capture *bpf.Capture, log *slog.Logger) (*Follower, error) {
	events, err := capture.DirectEvents()
	if err != nil {
		return nil, err
	}
	return &Follower{capture, events, log}, nil
}

// Generation returns the one whose permits count now.
func (f *Follower) Generation() uint64 { return f.capture.Generation() }

// Advance voids the permits of earlier generations, and returns once ztunnel knows of every connection made by those.
func (f *Follower) Advance(generation uint64) {
	if err := f.capture.Advance(generation); err != nil {
		f.log.Error("what the kernel was permitted may be out of date", "err", err)
	}
	f.events.Drain()
}

// lookAfter is how often connections are looked at that are not established, or of whose end nobody could be told.
const lookAfter = time.Second

// Run tells proxy of every connection until ctx ends, of those first that an earlier agent knew.
func (f *Follower) Run(ctx context.Context, proxy *ztunnel.Proxy) error {
	open, err := f.capture.Directs()
	if err != nil {
		return err
	}
	for _, d := range open {
		proxy.DirectOpens(connOf(d))
	}
	rctx, cancel := context.WithCancel(ctx)
	var task sync.WaitGroup
	task.Go(func() { f.look(rctx, proxy) })
	defer task.Wait()
	defer cancel()
	return f.events.Run(ctx, bpf.Followed{
		Opens: func(d bpf.Direct) { proxy.DirectOpens(connOf(d)) },
		Ended: func(d bpf.Direct, e bpf.DirectEnd) { proxy.DirectEnded(connOf(d), endOf(e)) },
	})
}

// look looks after connections that the kernel does not tell about.
func (f *Follower) look(ctx context.Context, proxy *ztunnel.Proxy) {
	tick := time.NewTicker(lookAfter)
	defer tick.Stop()
	var seen uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		proxy.CheckDirects(func(e ztunnel.Ends) bool {
			open, established := f.capture.IsDirect(bpf.Ends(e))
			return established || !open
		})
		counters, err := f.capture.Counters()
		if err != nil || counters["direct_end_lost"] == seen {
			continue
		}
		seen = counters["direct_end_lost"]
		proxy.ForgetDirects(func(e ztunnel.Ends) bool {
			open, _ := f.capture.IsDirect(bpf.Ends(e))
			return open
		})
	}
}

func connOf(d bpf.Direct) ztunnel.DirectConn {
	return ztunnel.DirectConn{
		Ends: ztunnel.Ends(d.Ends), ClientNetns: d.ClientNetns, ServerNetns: d.ServerNetns,
		Dialled: d.Dialled, At: d.At, Connect: d.Connect,
	}
}

func endOf(e bpf.DirectEnd) ztunnel.DirectEnd {
	out := ztunnel.DirectEnd{At: e.At, In: e.In, Out: e.Out, Aborted: e.Aborted, Accelerated: e.Accelerated}
	if e.Err != 0 {
		out.Err = e.Err
	}
	return out
}
