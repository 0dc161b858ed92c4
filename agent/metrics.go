package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/agent/enroll"
)

// maxConns leaves a reserve of fds for listeners, stocks and tunnels: an open connection holds two.
func maxConns() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 4096
	}
	return int(min(limit.Cur, 1<<20)) * 3 / 8
}

func (a *Agent) registerMetrics() error {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("warren_connections_open", "Connections open now.", func() float64 { return float64(a.proxy.OpenConnections()) }),
		gauge("warren_config_version", "Version of the mesh that this node enforces.", func() float64 { return float64(a.feed.Status().Enforced) }),
		gauge("warren_controller_connected", "1 while the controller is followed.", func() float64 {
			if a.feed.Status().Connected {
				return 1
			}
			return 0
		}),
		gauge("warren_direct_permits", "Kinds of connections that the kernel makes by itself.", func() float64 {
			given, _ := a.proxy.DirectPermits()
			return float64(given)
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "warren_direct_permits_full_total", Help: "Connections that stayed carried because the kernel has all the permits that there is room for.",
		}, func() float64 {
			_, full := a.proxy.DirectPermits()
			return float64(full)
		}),
		gauge("warren_session_affinity_clients", "Clients remembered to stay with an endpoint.", func() float64 {
			kept, _ := a.proxy.Affinities()
			return float64(kept)
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "warren_session_affinity_displaced_total", Help: "Clients forgotten before their time: there were too many.",
		}, func() float64 {
			_, displaced := a.proxy.Affinities()
			return float64(displaced)
		}),
		podCollector{a.enroller}, captureCollector{a}, certCollector{a},
	} {
		if err := a.reg.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

var (
	podsDesc = prometheus.NewDesc("warren_pods", "Registered pods by state.", []string{"state"}, nil)
	capDesc  = prometheus.NewDesc("warren_capture_total", "Decisions of the kernel programs by reason.", []string{"reason"}, nil)
	certDesc = prometheus.NewDesc("warren_svid_not_after_seconds", "When the first SVID of this node's workloads ends, Unix time.", nil, nil)
)

type podCollector struct{ *enroll.Enroller }

func (c podCollector) Describe(ch chan<- *prometheus.Desc) { ch <- podsDesc }

func (c podCollector) Collect(ch chan<- prometheus.Metric) {
	n := map[enroll.State]int{enroll.Unknown: 0, enroll.Unmanaged: 0, enroll.Pending: 0, enroll.Enrolled: 0}
	for _, p := range c.Pods() {
		n[p.State]++
	}
	for state, count := range n {
		ch <- prometheus.MustNewConstMetric(podsDesc, prometheus.GaugeValue, float64(count), string(state))
	}
}

type captureCollector struct{ *Agent }

func (c captureCollector) Describe(ch chan<- *prometheus.Desc) { ch <- capDesc }

func (c captureCollector) Collect(ch chan<- prometheus.Metric) {
	counters, err := c.capture.Counters()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(capDesc, err)
		return
	}
	for reason, n := range counters {
		ch <- prometheus.MustNewConstMetric(capDesc, prometheus.CounterValue, float64(n), reason)
	}
}

type certCollector struct{ *Agent }

func (c certCollector) Describe(ch chan<- *prometheus.Desc) { ch <- certDesc }

func (c certCollector) Collect(ch chan<- prometheus.Metric) {
	var first time.Time
	for _, s := range c.manager.Snapshot() {
		if !s.NotAfter.IsZero() && (first.IsZero() || s.NotAfter.Before(first)) {
			first = s.NotAfter
		}
	}
	if !first.IsZero() {
		ch <- prometheus.MustNewConstMetric(certDesc, prometheus.GaugeValue, float64(first.Unix()))
	}
}

// serveMetrics serves what a scraper and a kubelet read. It says nothing about any connection.
func (a *Agent) serveMetrics(ctx context.Context) error {
	if a.cfg.MetricsListen == "" {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", a.cfg.MetricsListen)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := a.notReady(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// notReady says why the node does not serve its pods yet, "" if it does.
func (a *Agent) notReady() string {
	if a.feed.Store().Load().Version == 0 {
		return "the controller has not said yet what the mesh looks like"
	}
	for _, p := range a.enroller.Pods() {
		if p.State == enroll.Pending {
			return "pod " + p.Namespace + "/" + p.Name + " is pending: " + p.Reason
		}
	}
	return ""
}
