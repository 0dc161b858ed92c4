package observe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/ztunnel"
)

// metrics have labels from closed sets only: no address, name or header of a peer's becomes one.
type metrics struct {
	connections *prometheus.CounterVec
	bytes       *prometheus.CounterVec
	phases      *prometheus.HistogramVec
	lost        prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_connections_total", Help: "Connections that ended, by how they fared.",
		}, []string{"reporter", "verdict", "reason", "security"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_connection_bytes_total", Help: "Payload bytes of ended connections; in is from the client.",
		}, []string{"reporter", "direction", "security"}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "warren_connection_phase_seconds", Help: "How long each step of opening a connection took.",
			Buckets: prometheus.ExponentialBuckets(10e-6, 4, 10),
		}, []string{"reporter", "phase"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "warren_flows_lost_total", Help: "Flows not sent to a follower that read too slowly.",
		}),
	}
	reg.MustRegister(m.connections, m.bytes, m.phases, m.lost)
	return m
}

func (m *metrics) observe(r ztunnel.Record) {
	reporter, security := string(r.Reporter), string(r.Security)
	m.connections.WithLabelValues(reporter, string(r.Verdict), string(r.Reason), security).Inc()
	m.bytes.WithLabelValues(reporter, "in", security).Add(float64(r.In))
	m.bytes.WithLabelValues(reporter, "out", security).Add(float64(r.Out))
	for _, p := range []struct {
		name string
		took time.Duration
	}{
		{"capture", r.Phases.Capture}, {"route", r.Phases.Route}, {"connect", r.Phases.Connect},
		{"tls", r.Phases.TLS}, {"authorize", r.Phases.Authorize}, {"app", r.Phases.App},
	} {
		if p.took > 0 {
			m.phases.WithLabelValues(reporter, p.name).Observe(p.took.Seconds())
		}
	}
}
