package controller

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/warren-mesh/warren/ca"
)

// metrics are the controller's own; the CA adds its counters. None has a label that a user or a node can choose.
type metrics struct {
	registry    *prometheus.Registry
	propagation prometheus.Histogram
}

// newMetrics registers metrics that read c when they are scraped.
func newMetrics(c *Controller) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.propagation = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "warren_controller_propagation_seconds",
		Help:    "From a version being compiled to a node's agent enforcing it.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	})
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	m.registry.MustRegister(
		m.propagation, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("warren_controller_leading", "1 on the replica that serves.", func() float64 { return 1 }),
		gauge("warren_controller_config_version", "Newest version that was published.", func() float64 { return float64(c.publisher.Version()) }),
		gauge("warren_controller_agents_connected", "Agents that watch.", func() float64 { return float64(c.connected(false)) }),
		gauge("warren_controller_waypoints_connected", "Waypoints' pods that watch.", func() float64 { return float64(c.connected(true)) }),
		gauge("warren_controller_agents_behind", "Agents that watch and do not enforce the newest version yet.", func() float64 { return float64(c.behind()) }),
		gauge("warren_controller_manifests_rejected", "Manifest files and objects that are rejected.", func() float64 { return float64(len(c.state.rejected())) }),
		gauge("warren_controller_ca_not_after_seconds", "Unix time at which the CA's certificate ends.", func() float64 { return float64(c.authority.NotAfter().Unix()) }),
	)
	return m
}

// connected counts the agents that watch, or else the waypoints' pods.
func (c *Controller) connected(waypoints bool) (n int) {
	for _, node := range c.watchers.Nodes() {
		if node.Connected && strings.HasPrefix(node.Node, ca.WaypointCaller) == waypoints {
			n++
		}
	}
	return n
}

func (c *Controller) behind() (n int) {
	newest := c.publisher.Version()
	for _, node := range c.watchers.Nodes() {
		if node.Connected && node.Acked < newest {
			n++
		}
	}
	return n
}

// handler serves /metrics, /healthz and /readyz.
func (m *metrics) handler(ready func() bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready() {
			http.Error(w, "the manifests have not been read yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
