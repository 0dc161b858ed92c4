// Package observe turns the one record of each connection into its log line, its metrics and its flow.
//
// Flows are kept in a ring, newest last; who follows them gets each as it opens and ends. A follower that reads too
// slowly loses flows, which is counted, and never holds up a connection.
package observe

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/ztunnel"
)

const (
	// ringSize is how many ended connections are remembered: about 1 KiB each.
	ringSize = 4096
	// followBuffer is how many flows a follower may lag behind.
	followBuffer = 1024
	// maxFollowers bounds who follows at once.
	maxFollowers = 32
)

// Observer receives every connection's record. Its methods may be called from any goroutine.
type Observer struct {
	node    string
	log     *slog.Logger
	metrics *metrics

	mu        sync.Mutex
	ring      []*adminv1.Flow // ended connections, a circle
	next      int             // where the next goes once the ring is full
	followers map[chan *adminv1.Flow]struct{}
}

// New returns an observer for a node, whose metrics it registers.
func New(node string, log *slog.Logger, reg prometheus.Registerer) *Observer {
	return &Observer{node: node, log: log, metrics: newMetrics(reg), followers: map[chan *adminv1.Flow]struct{}{}}
}

// Sink takes a record when its connection opens and when it ends.
func (o *Observer) Sink(r ztunnel.Record) {
	flow := FlowOf(o.node, r)
	ended := !r.End.IsZero()
	if ended {
		o.metrics.observe(r)
		o.write(flow, r)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if ended {
		o.remember(flow)
	}
	for f := range o.followers {
		select {
		case f <- flow:
		default:
			o.metrics.lost.Inc()
		}
	}
}

func (o *Observer) remember(f *adminv1.Flow) {
	if len(o.ring) < ringSize {
		o.ring = append(o.ring, f)
		return
	}
	o.ring[o.next] = f
	o.next = (o.next + 1) % ringSize
}

// Ended returns the flows of ended connections, oldest first.
func (o *Observer) Ended() []*adminv1.Flow {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]*adminv1.Flow, 0, len(o.ring))
	out = append(out, o.ring[o.next:]...)
	return append(out, o.ring[:o.next]...)
}

// Follow returns the flows from now on, until ctx ends. It returns false if too many follow already.
func (o *Observer) Follow(ctx context.Context) (<-chan *adminv1.Flow, bool) {
	ch := make(chan *adminv1.Flow, followBuffer)
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.followers) >= maxFollowers {
		return nil, false
	}
	o.followers[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.followers, ch)
		close(ch)
	})
	return ch, true
}

// write logs an ended connection. Keys are the same everywhere; values that a peer chose are quoted by slog.
func (o *Observer) write(f *adminv1.Flow, r ztunnel.Record) {
	attrs := []slog.Attr{
		slog.String("id", f.Id), slog.String("reporter", f.Reporter),
		slog.String("src", r.Src.Addr.String()), slog.String("dst", r.Dst.Addr.String()),
		slog.String("src_id", f.Src.SpiffeId), slog.String("dst_id", f.Dst.SpiffeId),
		slog.String("verdict", f.Verdict), slog.String("reason", f.Reason), slog.String("security", f.Security),
		slog.Uint64("bytes_in", r.In), slog.Uint64("bytes_out", r.Out), slog.Duration("dur", r.End.Sub(r.Start)),
	}
	for _, more := range [...]slog.Attr{
		slog.String("service", f.Dst.Service), slog.String("rule", f.Rule), slog.String("detail", f.Detail), slog.String("audit", f.Audit),
	} {
		if more.Value.String() != "" {
			attrs = append(attrs, more)
		}
	}
	o.log.LogAttrs(context.Background(), slog.LevelInfo, "connection", attrs...)
}
