package telemetry

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

const (
	// defaultQueue bounds the records whose spans are not made yet: about 2 KiB each.
	defaultQueue = 2048
	// maxBatch is how many spans are sent at once, flushEvery how long one waits for others.
	maxBatch   = 512
	flushEvery = 2 * time.Second
	// exportTimeout bounds one export with its retries.
	exportTimeout = 10 * time.Second
)

// The results of spans, for their metric.
const (
	spansSent    = "sent"
	spansDropped = "dropped"
	spansFailed  = "failed"
)

// pipeline makes spans of records and sends them, in one goroutine. What finds the queue full is dropped and counted, so
// that a slow or absent collector costs spans and nothing else.
type pipeline struct {
	log      *slog.Logger
	spans    *prometheus.CounterVec
	exporter sdktrace.SpanExporter
	tracer   trace.Tracer
	queue    chan *exchange.Record
	closing  chan struct{}
	closed   atomic.Bool
	done     chan struct{}
	cancel   context.CancelFunc // ends an export that is under way

	// Of the goroutine alone.
	batch   []sdktrace.ReadOnlySpan
	failing bool
}

func newPipeline(cfg Config, m *metrics) (*pipeline, error) {
	exporter, err := newExporter(cfg.Tracing)
	if err != nil {
		return nil, err
	}
	size := cfg.Tracing.Queue
	if size <= 0 {
		size = defaultQueue
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &pipeline{
		log: cfg.Log, spans: m.spans, exporter: exporter, cancel: cancel,
		queue: make(chan *exchange.Record, size), closing: make(chan struct{}), done: make(chan struct{}),
	}
	p.tracer = newTracer(cfg, collector{p})
	go p.run(ctx)
	return p, nil
}

// offer takes a record unless too many wait.
func (p *pipeline) offer(r *exchange.Record) {
	if !p.closed.Load() {
		select {
		case p.queue <- r:
			return
		default:
		}
	}
	p.spans.WithLabelValues(spansDropped).Add(float64(1 + len(r.Tries)))
}

func (p *pipeline) run(ctx context.Context) {
	defer close(p.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case r := <-p.queue:
			p.take(ctx, r)
		case <-tick.C:
			p.flush(ctx)
		case <-p.closing:
			p.drain(ctx)
			return
		}
	}
}

func (p *pipeline) drain(ctx context.Context) {
	for {
		select {
		case r := <-p.queue:
			p.take(ctx, r)
		default:
			p.flush(ctx)
			return
		}
	}
}

func (p *pipeline) take(ctx context.Context, r *exchange.Record) {
	record(p.tracer, r)
	if len(p.batch) >= maxBatch {
		p.flush(ctx)
	}
}

// flush sends what was collected. What the collector does not take in time is lost: newer spans are worth more.
func (p *pipeline) flush(ctx context.Context) {
	if len(p.batch) == 0 {
		return
	}
	n := float64(len(p.batch))
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	err := p.exporter.ExportSpans(ctx, p.batch)
	clear(p.batch)
	p.batch = p.batch[:0]
	if err == nil {
		p.spans.WithLabelValues(spansSent).Add(n)
		if p.failing {
			p.log.Info("the trace collector takes spans again")
		}
		p.failing = false
		return
	}
	p.spans.WithLabelValues(spansFailed).Add(n)
	if !p.failing {
		p.log.Warn("the trace collector does not take spans, which are lost until it does", "err", err)
	}
	p.failing = true
}

// close sends what waits, until ctx ends, and ends the pipeline.
func (p *pipeline) close(ctx context.Context) error {
	if p.closed.Swap(true) {
		return nil
	}
	close(p.closing)
	stop := context.AfterFunc(ctx, p.cancel)
	defer stop()
	<-p.done // soon after ctx's end at the latest: no export outlives its context
	p.cancel()
	if err := p.exporter.Shutdown(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("close the exporter of spans: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("spans were lost: the collector did not take them in time: %w", err)
	}
	return nil
}

// collector is where the SDK leaves finished spans.
type collector struct{ p *pipeline }

func (collector) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (c collector) OnEnd(s sdktrace.ReadOnlySpan)                 { c.p.batch = append(c.p.batch, s) }
func (collector) Shutdown(context.Context) error                  { return nil }
func (collector) ForceFlush(context.Context) error                { return nil }
