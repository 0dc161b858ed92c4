// Package observe turns the one record of each connection into its log line, its metrics and its flow. Who follows flows
// gets each as it opens and ends.
package observe

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/flowlog"
	"github.com/warren-mesh/warren/internal/logging"
	"github.com/warren-mesh/warren/ztunnel"
)

const (
	// maxUnwritten is how many lines may wait to be written. Whoever comes then writes its own.
	maxUnwritten = 1024
	// collecting is how long lines may collect before they are written, with few wake-ups and writes.
	collecting = 2 * time.Millisecond
)

// Observer receives every connection's record. Its methods may be called from any goroutine.
type Observer struct {
	node    string
	log     *slog.Logger
	metrics *metrics
	flows   *flowlog.Log

	mu      sync.RWMutex
	writing bool           // Run takes lines
	lines   chan *recorded // those that wait for it
}

// New returns an observer for a node, whose metrics it registers.
func New(node string, log *slog.Logger, reg prometheus.Registerer) *Observer {
	m := newMetrics(reg)
	return &Observer{node: node, log: log, metrics: m, flows: flowlog.New(m.lost.Inc), lines: make(chan *recorded, maxUnwritten)}
}

// Run writes the lines of connections until ctx ends, so that they do not pay for that; without it each writes its own. It
// returns when all that were given to it are written.
func (o *Observer) Run(ctx context.Context) error {
	o.setWriting(true)
	for {
		select {
		case line := <-o.lines:
			time.Sleep(collecting)
			logging.Together(o.log.Handler(), func() {
				o.write(&line.record)
				o.writeWaiting()
			})
		case <-ctx.Done():
			o.setWriting(false) // from here on nothing is put into lines
			logging.Together(o.log.Handler(), o.writeWaiting)
			return nil
		}
	}
}

// writeWaiting writes the lines that wait now.
func (o *Observer) writeWaiting() {
	for range len(o.lines) { // Run is called once: nobody else takes any
		o.write(&(<-o.lines).record)
	}
}

func (o *Observer) setWriting(on bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writing = on
}

// leave gives a line to Run, and tells whether it takes it.
func (o *Observer) leave(line *recorded) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if !o.writing {
		return false
	}
	select {
	case o.lines <- line:
		return true
	default:
		return false
	}
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
	ended := &recorded{o.node, r}
	o.metrics.observe(&ended.record)
	o.flows.AddSource(ended)
	if !o.leave(ended) {
		o.write(&ended.record)
	}
}

// recorded is a record whose flow is made when somebody asks for it.
type recorded struct {
	node   string
	record ztunnel.Record
}

// Flow makes it.
func (r *recorded) Flow() *adminv1.Flow { return FlowOf(r.node, r.record) }

// write logs an ended connection, as of when it ended. Keys are the same everywhere; values that a peer chose are quoted by
// slog.
func (o *Observer) write(r *ztunnel.Record) {
	ctx, handler := context.Background(), o.log.Handler()
	if !handler.Enabled(ctx, slog.LevelInfo) {
		return
	}
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
	line := slog.NewRecord(r.End, slog.LevelInfo, "connection", 0)
	line.AddAttrs(attrs...)
	_ = handler.Handle(ctx, line) // as slog's own methods do: there is nowhere to say it
}

// verdictOf is a record's verdict, which says of what was forwarded whether a rule has it audited.
func verdictOf(r *ztunnel.Record) string {
	if r.Audit != "" && r.Verdict == ztunnel.Forwarded {
		return "audited"
	}
	return string(r.Verdict)
}
