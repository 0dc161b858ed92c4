// Package observe turns the one record of each connection into its log line, its metrics and its flow. Who follows flows
// gets each as it opens and ends.
package observe

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/flowlog"
	"github.com/warren-mesh/warren/ztunnel"
)

// Observer receives every connection's record. Its methods may be called from any goroutine.
type Observer struct {
	node    string
	log     *slog.Logger
	metrics *metrics
	flows   *flowlog.Log
}

// New returns an observer for a node, whose metrics it registers.
func New(node string, log *slog.Logger, reg prometheus.Registerer) *Observer {
	m := newMetrics(reg)
	return &Observer{node: node, log: log, metrics: m, flows: flowlog.New(m.lost.Inc)}
}

// Flows are those of the connections that ended, and what follows them.
func (o *Observer) Flows() *flowlog.Log { return o.flows }

// Sink takes a record when its connection opens and when it ends.
func (o *Observer) Sink(r ztunnel.Record) {
	flow := FlowOf(o.node, r)
	if r.End.IsZero() {
		o.flows.Tell(flow)
		return
	}
	o.metrics.observe(r)
	o.write(flow, r)
	o.flows.Add(flow)
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
