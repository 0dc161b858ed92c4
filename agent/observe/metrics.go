package observe

import (
	"sync"
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
	known       sync.Map // of kind to *series
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

// series are those that a connection of one kind counts in: to look them up by label costs more than to count.
type series struct {
	connections, in, out prometheus.Counter
	phases               [6]prometheus.Observer
}

// kind is all of a record that becomes a label.
type kind struct {
	reporter ztunnel.Reporter
	verdict  ztunnel.Verdict
	reason   ztunnel.Reason
	security ztunnel.Security
}

// seriesOf looks them up once for each kind. There are few: all of it comes from closed sets.
func (m *metrics) seriesOf(k kind) *series {
	if s, ok := m.known.Load(k); ok {
		return s.(*series)
	}
	reporter, security := string(k.reporter), string(k.security)
	s := &series{
		connections: m.connections.WithLabelValues(reporter, string(k.verdict), string(k.reason), security),
		in:          m.bytes.WithLabelValues(reporter, "in", security),
		out:         m.bytes.WithLabelValues(reporter, "out", security),
	}
	for i, name := range [len(s.phases)]string{"capture", "route", "connect", "tls", "authorize", "app"} { // as observe has them
		s.phases[i] = m.phases.WithLabelValues(reporter, name)
	}
	m.known.Store(k, s)
	return s
}

func (m *metrics) observe(r *ztunnel.Record) {
	s := m.seriesOf(kind{r.Reporter, r.Verdict, r.Reason, r.Security})
	s.connections.Inc()
	s.in.Add(float64(r.In))
	s.out.Add(float64(r.Out))
	p := &r.Phases
	for i, took := range [6]time.Duration{p.Capture, p.Route, p.Connect, p.TLS, p.Authorize, p.App} {
		if took > 0 {
			s.phases[i].Observe(took.Seconds())
		}
	}
}
