// Package telemetry tells the world about the requests of a waypoint: it places each in its trace as it begins
// ([Telemetry.Start]), and turns the one record of each, as it ends, into an access log line, metrics, a flow and spans
// ([Telemetry.Sink]).
//
// Nothing here waits: what a collector or a follower is too slow for is dropped and counted. What a peer chose (paths,
// hosts, user agents, trace headers) is checked or cut to a bound, made valid UTF-8 and escaped, and becomes no label of
// a metric.
package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/flowlog"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// Config is what a Telemetry needs.
type Config struct {
	// Gateway is the waypoint's Gateway and Pod this pod of it, "<namespace>/<name>"; Node is where it runs.
	Gateway, Pod, Node string
	Version            string
	Log                *slog.Logger
	// AccessLog writes a line for every request.
	AccessLog  bool
	Registerer prometheus.Registerer
	Tracing    Tracing
}

// Tracing says where spans go. If Endpoint is empty none are made, and trace headers pass as they came.
type Tracing struct {
	// Endpoint of an OTLP collector: "host:port", or a URL whose scheme says whether TLS is used.
	Endpoint string
	// Protocol is "grpc" (the default) or "http" (protobuf).
	Protocol string
	// Ratio of the traces that begin here that are sampled, 0 to 1. A trace that began elsewhere was decided there.
	Ratio float64
	// Insecure: no TLS, if Endpoint does not say.
	Insecure bool
	// CAFile holds the roots that vouch for the collector, empty: the system's. CertFile and KeyFile are shown to it.
	CAFile, CertFile, KeyFile string
	// Headers are sent with every export: a collector's credentials.
	Headers map[string]string
	// Queue bounds the requests whose spans wait to be sent, 0: 2048.
	Queue int
	// Dial reaches the collector in place of a plain TCP connection, if set.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Telemetry is safe for concurrent use.
type Telemetry struct {
	cfg     Config
	tracing bool
	bound   uint64 // of sampling
	flows   *flowlog.Log
	metrics *metrics
	spans   *pipeline // nil without tracing
}

// New returns a Telemetry, whose metrics it registers. It does not wait for the collector. Returns an error if the
// configuration can not be meant.
func New(cfg Config) (*Telemetry, error) {
	if err := cfg.Tracing.check(); err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	t := &Telemetry{cfg: cfg, metrics: m, flows: flowlog.New(m.flowsLost.Inc)}
	if cfg.Tracing.Endpoint == "" {
		return t, nil
	}
	t.tracing, t.bound = true, boundOf(cfg.Tracing.Ratio)
	if t.spans, err = newPipeline(cfg, m); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	return t, nil
}

// Start places a request in its trace and counts it as open; c is nil if its connection is not known. Exactly one
// [Telemetry.Sink] of a record that the context described must follow.
func (t *Telemetry) Start(r *http.Request, c *exchange.Conn) Context {
	t.metrics.opened.Add(1)
	return t.place(r.Header, c)
}

// TCP is the protocol of a record about a whole connection, of which nothing was read.
const TCP = "tcp"

// Sink takes the record of a request that ended, or of a connection that was carried unread. The record must not change
// afterwards. It never waits.
func (t *Telemetry) Sink(r *exchange.Record) {
	if r.SpanID != "" {
		t.metrics.opened.Add(-1)
	}
	if r.Protocol == TCP {
		t.metrics.connection(r, verdict(r))
	} else {
		t.metrics.observe(r)
	}
	t.flows.AddSource(ended{t, r})
	if t.cfg.AccessLog {
		t.write(t.flowOf(r))
	}
	if t.spans != nil && r.Sampled {
		t.spans.offer(r)
	}
}

// ended is a record that has come to its end, and becomes a flow when somebody asks.
type ended struct {
	t *Telemetry
	r *exchange.Record
}

// Flow makes it.
func (e ended) Flow() *adminv1.Flow { return e.t.flowOf(e.r) }

// Flows are those of the requests that ended.
func (t *Telemetry) Flows() *flowlog.Log { return t.flows }

// Requests returns how many requests are open and how many ended, and how many a second did lately.
func (t *Telemetry) Requests() (open, ended uint64, perSecond float64) {
	m := t.metrics
	return uint64(max(m.opened.Load(), 0)), m.rate.total.Load(), m.rate.perSecond(time.Now())
}

// Close sends the spans that wait, until ctx ends. Records that come later are logged and counted, and have no spans.
func (t *Telemetry) Close(ctx context.Context) error {
	if t.spans == nil {
		return nil
	}
	return t.spans.close(ctx)
}
