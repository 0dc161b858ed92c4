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
	if r.End.IsZero() {
		if o.flows.Followed() {
			o.flows.Tell(FlowOf(o.node, r))
		}
		return
	}
	o.metrics.observe(&r)
	o.write(&r)
	o.flows.AddSource(&recorded{o.node, r})
}

// recorded is a record whose flow is made when somebody asks for it.
type recorded struct {
	node   string
	record ztunnel.Record
}

// Flow makes it.
func (r *recorded) Flow() *adminv1.Flow { return FlowOf(r.node, r.record) }

// write logs an ended connection. Keys are the same everywhere; values that a peer chose are quoted by slog.
func (o *Observer) write(r *ztunnel.Record) {
	attrs := make([]slog.Attr, 0, 16)
	attrs = append(attrs,
		slog.String("id", r.ID), slog.String("reporter", string(r.Reporter)),
		slog.String("src", r.Src.Addr.String()), slog.String("dst", r.Dst.Addr.String()),
		slog.String("src_id", r.Src.ID.String()), slog.String("dst_id", r.Dst.ID.String()),
		slog.String("verdict", verdictOf(r)), slog.String("reason", string(r.Reason)), slog.String("security", string(r.Security)),
		slog.Uint64("bytes_in", r.In), slog.Uint64("bytes_out", r.Out), slog.Duration("dur", r.End.Sub(r.Start)),
	)
	for _, more := range [...]slog.Attr{
		slog.String("service", r.Service), slog.String("rule", r.Rule), slog.String("detail", r.Detail), slog.String("audit", r.Audit),
	} {
		if more.Value.String() != "" {
			attrs = append(attrs, more)
		}
	}
	o.log.LogAttrs(context.Background(), slog.LevelInfo, "connection", attrs...)
}

// verdictOf is a record's verdict, which says of what was forwarded whether a rule has it audited.
func verdictOf(r *ztunnel.Record) string {
	if r.Audit != "" && r.Verdict == ztunnel.Forwarded {
		return "audited"
	}
	return string(r.Verdict)
}
