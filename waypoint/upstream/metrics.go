package upstream

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are counted for the waypoint as a whole: no label names a service or an endpoint.
type metrics struct {
	registerer prometheus.Registerer
	collectors []prometheus.Collector

	ejections, overloaded, dials *prometheus.CounterVec
	denied                       prometheus.Counter
	pending                      prometheus.Gauge
	conns                        *prometheus.GaugeVec
	conns1, conns2               prometheus.Gauge
}

func newMetrics(u *Upstreams, r prometheus.Registerer) *metrics {
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_waypoint_" + name, Help: help}, []string{label})
	}
	m := &metrics{
		registerer: r,
		ejections:  counters("ejections_total", "Endpoints left out for their failures, by what the last one was.", "reason"),
		overloaded: counters("overloaded_total", "Requests refused as a limit of their service was reached.", "limit"),
		dials:      counters("dials_total", "Connections to endpoints that were made, or could not be.", "result"),
		denied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "warren_waypoint_retries_denied_total", Help: "Retries that the service's budget did not allow.",
		}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "warren_waypoint_pending_requests", Help: "Requests that wait for a connection to their endpoint.",
		}),
		conns: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "warren_waypoint_endpoint_connections", Help: "Open connections to endpoints.",
		}, []string{"protocol"}),
	}
	m.conns1, m.conns2 = m.conns.WithLabelValues("http1"), m.conns.WithLabelValues("http2")
	m.collectors = []prometheus.Collector{m.ejections, m.overloaded, m.dials, m.denied, m.pending, m.conns, &census{u}}
	if r != nil {
		r.MustRegister(m.collectors...)
	}
	return m
}

func (m *metrics) connections(http2 bool) prometheus.Gauge {
	if http2 {
		return m.conns2
	}
	return m.conns1
}

func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.collectors {
		m.registerer.Unregister(c)
	}
}

// census counts endpoints when it is asked.
type census struct{ u *Upstreams }

func (c *census) desc() *prometheus.Desc {
	return prometheus.NewDesc("warren_waypoint_endpoints", "Endpoints of the services that requests are sent to: "+
		"those that may be chosen, and those that are left out for their failures.", []string{"state"}, nil)
}

// Describe is a prometheus.Collector's.
func (c *census) Describe(out chan<- *prometheus.Desc) { out <- c.desc() }

// Collect is a prometheus.Collector's.
func (c *census) Collect(out chan<- prometheus.Metric) {
	now := c.u.now()
	states := map[string]int{"usable": 0, "ejected": 0}
	for _, g := range c.u.all() {
		g.mu.Lock()
		for _, m := range g.members {
			if m.outlier.ejected(now) {
				states["ejected"]++
			} else {
				states["usable"]++
			}
		}
		g.mu.Unlock()
	}
	for state, n := range states {
		out <- prometheus.MustNewConstMetric(c.desc(), prometheus.GaugeValue, float64(n), state)
	}
}
