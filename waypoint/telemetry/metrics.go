package telemetry

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

const (
	// maxSeries bounds the combinations of names that have series of their own. What comes after has the names "other".
	maxSeries = 1000
	// other stands for every name beyond the bound, unknown for what has none.
	other   = "other"
	unknown = "unknown"
)

// names are the labels whose values are names of the mesh's objects: their combinations are bounded.
type names struct{ source, service, backend, route string }

// parts are what names are made of, each a namespace and a name, so that nothing is joined for a request whose series is
// known. An empty name is unknown, or no route.
type parts struct {
	source, service [2]string
	backend         string
	route           [2]string
}

// maxParts bounds the combinations whose series are found at once.
const maxParts = 4 * maxSeries

// fate are the labels from closed sets.
type fate struct {
	code, grpc int
	outcome    exchange.Outcome
}

// series are the metrics of one combination of names, found once.
type series struct {
	names    names
	requests *prometheus.CounterVec // by code, grpc_code and outcome
	duration prometheus.Observer
	in, out  prometheus.Counter

	mu    sync.RWMutex
	fates map[fate]prometheus.Counter
}

type metrics struct {
	conns     *prometheus.CounterVec
	connBytes *prometheus.CounterVec
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	bytes     *prometheus.CounterVec
	tries     *prometheus.CounterVec
	opened    atomic.Int64
	flowsLost prometheus.Counter
	spans     *prometheus.CounterVec

	mu     sync.RWMutex
	series map[names]*series
	known  map[parts]*series
	rate   rate

	firstAnswered func() prometheus.Counter // of tries: nearly all
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		series: make(map[names]*series), known: make(map[parts]*series),
		conns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_connections_total", Help: "Connections that ended and were carried unread, by how they fared.",
		}, []string{"reporter", "verdict", "reason", "security"}),
		connBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_connection_bytes_total", Help: "Payload bytes of connections that were carried unread; in is from the client.",
		}, []string{"reporter", "direction", "security"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_requests_total", Help: "Requests that ended, by who asked whom and how they fared.",
		}, []string{"source", "service", "backend", "route", "code", "grpc_code", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "warren_request_duration_seconds", Help: "From a request's header to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60},
		}, []string{"source", "service", "backend", "route"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_request_bytes_total", Help: "Bodies of ended requests and their answers; in is from the client.",
		}, []string{"source", "service", "backend", "route", "direction"}),
		tries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_request_tries_total", Help: "Attempts to have requests answered; retry is every one after a request's first.",
		}, []string{"try", "result"}),
		flowsLost: prometheus.NewCounter(prometheus.CounterOpts{Name: "warren_flows_lost_total", Help: "Flows not sent to a follower that read too slowly."}),
		spans: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_spans_total", Help: "Spans of sampled requests: sent; dropped, because too many waited; or failed, because the collector did not take them.",
		}, []string{"result"}),
	}
	m.firstAnswered = sync.OnceValue(func() prometheus.Counter { return m.tries.WithLabelValues("first", "answered") })
	for _, result := range []string{spansSent, spansDropped, spansFailed} {
		m.spans.WithLabelValues(result)
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "warren_requests_open", Help: "Requests that have not ended."},
		func() float64 { return float64(m.opened.Load()) })
	var errs []error
	for _, c := range []prometheus.Collector{m.conns, m.connBytes, m.requests, m.duration, m.bytes, m.tries, open, m.flowsLost, m.spans} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// observe counts a request that ended.
func (m *metrics) observe(r *exchange.Record) {
	m.rate.add(time.Now())
	s := m.of(partsOf(r))
	s.counter(fate{code: code(r.Status), grpc: grpcOf(r), outcome: r.Outcome}).Inc()
	s.duration.Observe(r.Took.Seconds())
	s.in.Add(float64(r.BytesIn))
	s.out.Add(float64(r.BytesOut))
	for i := range r.Tries {
		if i == 0 && r.Tries[i].Status != 0 {
			m.firstAnswered().Inc()
			continue
		}
		try, result := "first", "answered"
		if i > 0 {
			try = "retry"
		}
		if r.Tries[i].Status == 0 {
			result = "failed"
		}
		m.tries.WithLabelValues(try, result).Inc()
	}
}

// connection counts a connection that was carried unread, as agents count theirs.
func (m *metrics) connection(r *exchange.Record, verdict string) {
	const reporter, security = "waypoint", "mtls"
	m.conns.WithLabelValues(reporter, verdict, string(r.Outcome), security).Inc()
	m.connBytes.WithLabelValues(reporter, "in", security).Add(float64(r.BytesIn))
	m.connBytes.WithLabelValues(reporter, "out", security).Add(float64(r.BytesOut))
}

// partsOf tells who asked whom: workloads by their namespace and owner, as pods come and go.
func partsOf(r *exchange.Record) parts {
	p := parts{backend: r.Backend}
	if c := r.Conn; c != nil {
		p.source = ownerOf(c.Workload)
		switch {
		case c.Service != nil:
			p.service = [2]string{c.Service.Namespace, c.Service.Name}
		case c.Target != nil:
			p.service = ownerOf(c.Target)
		}
	}
	if r.Route != nil {
		p.route = [2]string{r.Route.Namespace, r.Route.Name}
	}
	return p
}

// ownerOf is a workload's namespace and owner.
func ownerOf(w *mesh.Workload) [2]string {
	switch {
	case w == nil:
		return [2]string{}
	case w.App != "":
		return [2]string{w.Namespace, w.App}
	}
	return [2]string{w.Namespace, w.ServiceAccount}
}

// names joins them.
func (p parts) names() names {
	full := func(of [2]string, none string) string {
		if of == [2]string{} {
			return none
		}
		return of[0] + "/" + of[1]
	}
	return names{full(p.source, unknown), full(p.service, unknown), p.backend, full(p.route, "")}
}

// code is a status, 0 for none and for what is no status: a backend may answer with any three digits.
func code(status int) int {
	if status < 100 || status > 599 {
		return 0
	}
	return status
}

// grpcOf is a request's status of gRPC's 17: -1 for what is no gRPC, 2 (UNKNOWN) for what gRPC does not know, as it says.
func grpcOf(r *exchange.Record) int {
	switch {
	case r.Protocol != "gRPC" || r.GRPCStatus < 0:
		return -1
	case r.GRPCStatus > 16:
		return 2
	}
	return r.GRPCStatus
}

// of returns the series of a combination of names.
func (m *metrics) of(p parts) *series {
	m.mu.RLock()
	s := m.known[p]
	m.mu.RUnlock()
	if s != nil {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s = m.find(p.names())
	if len(m.known) < maxParts {
		m.known[p] = s
	}
	return s
}

// find returns the series of names, which it makes if they have none. Caller holds mu.
func (m *metrics) find(n names) *series {
	if s := m.series[n]; s != nil {
		return s
	}
	if len(m.series) >= maxSeries {
		n = names{other, other, other, other}
	}
	if s := m.series[n]; s != nil {
		return s
	}
	s := &series{
		names: n, requests: m.requests, fates: make(map[fate]prometheus.Counter),
		duration: m.duration.WithLabelValues(n.source, n.service, n.backend, n.route),
		in:       m.bytes.WithLabelValues(n.source, n.service, n.backend, n.route, "in"),
		out:      m.bytes.WithLabelValues(n.source, n.service, n.backend, n.route, "out"),
	}
	m.series[n] = s
	return s
}

func (s *series) counter(f fate) prometheus.Counter {
	s.mu.RLock()
	c := s.fates[f]
	s.mu.RUnlock()
	if c != nil {
		return c
	}
	grpc := ""
	if f.grpc >= 0 {
		grpc = strconv.Itoa(f.grpc)
	}
	n := s.names
	c = s.requests.WithLabelValues(n.source, n.service, n.backend, n.route, strconv.Itoa(f.code), grpc, string(f.outcome))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fates[f] = c
	return c
}

// rate counts what happens in each of the last seconds.
type rate struct {
	total atomic.Uint64

	mu      sync.Mutex
	seconds [rateSeconds + 1]struct {
		at int64
		n  uint64
	}
}

// rateSeconds is over how many whole seconds a rate is taken.
const rateSeconds = 10

func (r *rate) add(now time.Time) {
	r.total.Add(1)
	at := now.Unix()
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := &r.seconds[at%int64(len(r.seconds))]
	if slot.at != at {
		slot.at, slot.n = at, 0
	}
	slot.n++
}

// perSecond is over the last whole seconds.
func (r *rate) perSecond(now time.Time) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var n uint64
	for _, slot := range r.seconds {
		if age := now.Unix() - slot.at; age >= 1 && age <= rateSeconds {
			n += slot.n
		}
	}
	return float64(n) / rateSeconds
}
