package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// receiver is a collector: OTLP's service over gRPC, and over HTTP.
type receiver struct {
	collectorv1.UnimplementedTraceServiceServer
	mu       sync.Mutex
	spans    []*tracev1.Span
	resource map[string]string
	header   string // of what came last
	hang     chan struct{}
	refuse   error
}

func (r *receiver) Export(ctx context.Context, q *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		r.note(md.Get("x-tenant"))
	}
	if r.hang != nil {
		select {
		case <-r.hang:
		case <-ctx.Done():
		}
	}
	return r.take(q)
}

func (r *receiver) note(header []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.header = fmt.Sprint(header)
}

func (r *receiver) take(q *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return nil, r.refuse
	}
	for _, rs := range q.GetResourceSpans() {
		r.resource = textOf(rs.GetResource().GetAttributes())
		for _, ss := range rs.GetScopeSpans() {
			r.spans = append(r.spans, ss.GetSpans()...)
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

// ServeHTTP is OTLP over HTTP with protobuf.
func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.note(q.Header.Values("X-Tenant"))
	body := io.Reader(q.Body)
	if q.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(body)
	}
	raw, err := io.ReadAll(body)
	msg := &collectorv1.ExportTraceServiceRequest{}
	if err != nil || proto.Unmarshal(raw, msg) != nil || q.URL.Path != "/v1/traces" {
		http.Error(w, "no OTLP", http.StatusBadRequest)
		return
	}
	reply, err := r.take(msg)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	raw, _ = proto.Marshal(reply)
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(raw)
}

func textOf(kvs []*commonv1.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range kvs {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonv1.AnyValue_StringValue:
			out[kv.GetKey()] = v.StringValue
		case *commonv1.AnyValue_IntValue:
			out[kv.GetKey()] = fmt.Sprint(v.IntValue)
		default:
			out[kv.GetKey()] = kv.GetValue().String()
		}
	}
	return out
}

// listenGRPC serves a receiver and returns its address.
func (r *receiver) listenGRPC(t *testing.T, addr string) (string, func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(s, r)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	stop := func() { s.Stop(); <-done }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func (r *receiver) got() []*tracev1.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*tracev1.Span(nil), r.spans...)
}

func telemetryTo(t *testing.T, tracing Tracing) *Telemetry {
	t.Helper()
	tel, err := New(Config{
		Gateway: "shop/waypoint", Pod: "shop/waypoint-1", Node: "n1", Version: "v1", Log: slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry(), Tracing: tracing,
	})
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

func closeSoon(t *testing.T, tel *Telemetry, within time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	began := time.Now()
	err := tel.Close(ctx)
	if took := time.Since(began); took > within+time.Second {
		t.Errorf("Close took %s of %s", took, within)
	}
	return err
}

// finished runs a request through: placed, two tries, described.
func finished(t *testing.T, tel *Telemetry, h http.Header) *exchange.Record {
	t.Helper()
	id, err := identity.New("cluster.local", "front", "web")
	if err != nil {
		t.Fatal(err)
	}
	conn := &exchange.Conn{
		Client: id, ClientAddr: netip.MustParseAddrPort("10.0.0.1:40000"), Dialled: netip.MustParseAddrPort("10.96.0.1:80"),
		Workload: &mesh.Workload{Namespace: "front", Name: "web-0", App: "web"}, TraceID: traceB,
		Service: &mesh.Service{Namespace: "shop", Name: "pay"},
	}
	pod := &mesh.Workload{Namespace: "shop", Name: "pay-0", ServiceAccount: "pay", TrustDomain: "cluster.local", Enrolled: true, Node: "n2"}
	start := time.Now().Add(-time.Second)
	r := &exchange.Record{
		Conn: conn, Protocol: "HTTP/1.1", Method: "GET", Host: "pay.shop:8080", Path: "/cart", UserAgent: "curl/8",
		Route: &route.Route{Kind: route.HTTP, Namespace: "shop", Name: "pay-route"}, Rule: "0", Backend: "shop/pay-v2",
		Outcome: exchange.Answered, Status: 200, GRPCStatus: -1, Start: start, Header: 30 * time.Millisecond, Took: 40 * time.Millisecond,
	}
	c := tel.Start(request(h), conn)
	c.Describe(r)
	for i, code := range []int{503, 200} {
		up := h.Clone()
		r.Tries = append(r.Tries, exchange.Try{
			Endpoint: pod, Addr: netip.MustParseAddrPort("10.0.1.7:8080"), Start: start.Add(time.Duration(i*10) * time.Millisecond),
			Took: 10 * time.Millisecond, Status: code, SpanID: c.Inject(up),
		})
		if up.Get("traceparent") != "00-"+c.TraceID+"-"+r.Tries[i].SpanID+"-01" {
			t.Errorf("the endpoint was told %q", up.Get("traceparent"))
		}
	}
	return r
}

// TestSpansArriveWithTheRightParents: at a real collector, by both protocols, in the clear and over TLS.
func TestSpansArriveWithTheRightParents(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, protocol := range []string{"grpc", "http", "https"} {
		t.Run(protocol, func(t *testing.T) {
			to := &receiver{}
			tracing := Tracing{Protocol: protocol, Headers: map[string]string{"X-Tenant": "t1"}}
			switch protocol {
			case "grpc":
				addr, _ := to.listenGRPC(t, "127.0.0.1:0")
				tracing.Endpoint, tracing.Insecure = addr, true
			case "http":
				s := httptest.NewServer(to)
				t.Cleanup(s.Close)
				tracing.Endpoint = s.URL
			case "https":
				s := httptest.NewUnstartedServer(to)
				tracing.CAFile, tracing.CertFile, tracing.KeyFile = withTLS(t, s)
				t.Cleanup(s.Close)
				tracing.Protocol, tracing.Endpoint = "http", s.URL
			}
			tel := telemetryTo(t, tracing)
			r := finished(t, tel, headers("traceparent", "00-"+traceA+"-"+spanA+"-01"))
			tel.Sink(r)
			if err := closeSoon(t, tel, 5*time.Second); err != nil {
				t.Fatal(err)
			}
			checkSpans(t, to, r)
			if to.header != "[t1]" {
				t.Errorf("the collector's header came as %s", to.header)
			}
			if n := testutil.ToFloat64(tel.metrics.spans.WithLabelValues(spansSent)); n != 3 {
				t.Errorf("%v spans are counted as sent", n)
			}
		})
	}
}

func checkSpans(t *testing.T, to *receiver, r *exchange.Record) {
	t.Helper()
	spans := to.got()
	if len(spans) != 3 {
		t.Fatalf("%d spans came", len(spans))
	}
	first, second, server := spans[0], spans[1], spans[2]
	for i, c := range []struct {
		span         *tracev1.Span
		kind         tracev1.Span_SpanKind
		id, parent   string
		status       tracev1.Status_StatusCode
		from, to     time.Duration
		attrs        map[string]string
		absent, name string
	}{
		{first, tracev1.Span_SPAN_KIND_CLIENT, r.Tries[0].SpanID, r.SpanID, tracev1.Status_STATUS_CODE_ERROR, 0, 10 * time.Millisecond, map[string]string{
			"http.response.status_code": "503", "error.type": "503", "network.peer.address": "10.0.1.7", "server.port": "8080",
			"warren.destination.id": "spiffe://cluster.local/ns/shop/sa/pay", "url.full": "http://pay.shop:8080/cart",
		}, "http.request.resend_count", "GET shop/pay-route"},
		{second, tracev1.Span_SPAN_KIND_CLIENT, r.Tries[1].SpanID, r.SpanID, tracev1.Status_STATUS_CODE_UNSET, 10 * time.Millisecond, 40 * time.Millisecond, map[string]string{
			"http.response.status_code": "200", "http.request.resend_count": "1",
		}, "error.type", "GET shop/pay-route"},
		{server, tracev1.Span_SPAN_KIND_SERVER, r.SpanID, spanA, tracev1.Status_STATUS_CODE_UNSET, 0, 40 * time.Millisecond, map[string]string{
			"http.request.method": "GET", "url.path": "/cart", "url.scheme": "http", "server.address": "pay.shop", "server.port": "8080",
			"http.response.status_code": "200", "user_agent.original": "curl/8", "client.address": "10.0.0.1",
			"network.protocol.name": "http", "network.protocol.version": "1.1",
			"warren.route": "HTTPRoute shop/pay-route", "warren.rule": "0", "warren.backend": "shop/pay-v2", "warren.service": "shop/pay",
			"warren.source.id": "spiffe://cluster.local/ns/front/sa/web", "warren.destination.id": "spiffe://cluster.local/ns/shop/sa/pay",
			"warren.source.workload": "front/web-0", "warren.destination.workload": "shop/pay-0", "warren.retries": "1",
			"warren.outcome": "answered", "warren.connection.id": traceB,
		}, "error.type", "GET shop/pay-route"},
	} {
		attrs := textOf(c.span.GetAttributes())
		if c.span.GetKind() != c.kind || hex.EncodeToString(c.span.GetSpanId()) != c.id || hex.EncodeToString(c.span.GetParentSpanId()) != c.parent ||
			hex.EncodeToString(c.span.GetTraceId()) != traceA || c.span.GetStatus().GetCode() != c.status || c.span.GetName() != c.name {
			t.Errorf("span %d is %v; want kind %v, id %s under %s, %v", i, c.span, c.kind, c.id, c.parent, c.status)
		}
		for key, want := range c.attrs {
			if attrs[key] != want {
				t.Errorf("span %d: %s is %q, want %q", i, key, attrs[key], want)
			}
		}
		if v, ok := attrs[c.absent]; ok {
			t.Errorf("span %d has %s %q", i, c.absent, v)
		}
		from, until := time.Unix(0, int64(c.span.GetStartTimeUnixNano())).Sub(r.Start), time.Unix(0, int64(c.span.GetEndTimeUnixNano())).Sub(r.Start)
		if from.Round(time.Microsecond) != c.from || until.Round(time.Microsecond) != c.to {
			t.Errorf("span %d lasts from %s to %s, want %s to %s", i, from, until, c.from, c.to)
		}
	}
	for key, want := range map[string]string{"service.name": "waypoint", "service.namespace": "shop", "k8s.pod.name": "waypoint-1", "k8s.node.name": "n1"} {
		if to.resource[key] != want {
			t.Errorf("resource: %s is %q, want %q", key, to.resource[key], want)
		}
	}
}

// withTLS starts s with a certificate of its own making, which it asks its clients for too.
func withTLS(t *testing.T, s *httptest.Server) (ca, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}
	s.StartTLS()
	return cert, cert, key
}

// TestAnAbsentCollectorCostsSpansOnly: nobody waits for it, nothing leaks, what was lost is counted, and once it is there
// spans arrive.
func TestAnAbsentCollectorCostsSpansOnly(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	const queue, n = 16, 2000
	tel := telemetryTo(t, Tracing{Endpoint: addr, Insecure: true, Queue: queue})
	r := finished(t, tel, headers("traceparent", "00-"+traceA+"-"+spanA+"-01"))
	began := time.Now()
	for range n {
		tel.Sink(r)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("%d records took %s", n, took)
	}
	if dropped := testutil.ToFloat64(tel.metrics.spans.WithLabelValues(spansDropped)); dropped == 0 {
		t.Error("no span is counted as dropped")
	}
	if err := closeSoon(t, tel, 300*time.Millisecond); err == nil {
		t.Error("Close lost spans and says nothing")
	}
	lost := 0.0
	for _, result := range []string{spansDropped, spansFailed, spansSent} {
		lost += testutil.ToFloat64(tel.metrics.spans.WithLabelValues(result))
	}
	if lost != 3*n {
		t.Errorf("%v spans are accounted for, want %d", lost, 3*n)
	}
}

func TestACollectorThatComesLateOrHangsOrRefusesIsSurvived(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("hangs", func(t *testing.T) {
		to := &receiver{hang: make(chan struct{})}
		defer close(to.hang)
		addr, _ := to.listenGRPC(t, "127.0.0.1:0")
		tel := telemetryTo(t, Tracing{Endpoint: addr, Insecure: true})
		tel.Sink(finished(t, tel, headers("traceparent", "00-"+traceA+"-"+spanA+"-01")))
		if err := closeSoon(t, tel, 300*time.Millisecond); err == nil {
			t.Error("Close lost spans and says nothing")
		}
	})
	t.Run("refuses, then takes", func(t *testing.T) {
		to := &receiver{refuse: status.Error(codes.InvalidArgument, "not today")}
		addr, _ := to.listenGRPC(t, "127.0.0.1:0")
		var log bytes.Buffer
		tel := telemetryTo(t, Tracing{Endpoint: addr, Insecure: true})
		tel.spans.log = slog.New(slog.NewTextHandler(&log, nil))
		r := finished(t, tel, headers("traceparent", "00-"+traceA+"-"+spanA+"-01"))
		tel.Sink(r)
		eventually(t, func() bool { return testutil.ToFloat64(tel.metrics.spans.WithLabelValues(spansFailed)) == 3 })
		to.mu.Lock()
		to.refuse = nil
		to.mu.Unlock()
		tel.Sink(r)
		if err := closeSoon(t, tel, 5*time.Second); err != nil || len(to.got()) != 3 {
			t.Errorf("%v, and %d spans came", err, len(to.got()))
		}
		if text := log.String(); bytes.Count(log.Bytes(), []byte("level=WARN")) != 1 || !bytes.Contains(log.Bytes(), []byte("not today")) || !bytes.Contains(log.Bytes(), []byte("again")) {
			t.Errorf("the log says %s", text)
		}
	})
	t.Run("comes late", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		tel := telemetryTo(t, Tracing{Endpoint: addr, Insecure: true})
		r := finished(t, tel, headers("traceparent", "00-"+traceA+"-"+spanA+"-01"))
		tel.Sink(r)
		time.Sleep(flushEvery + 500*time.Millisecond) // its first export is under way
		to := &receiver{}
		to.listenGRPC(t, addr)
		eventually(t, func() bool { tel.Sink(r); return len(to.got()) >= 3 })
		if err := closeSoon(t, tel, 5*time.Second); err != nil {
			t.Error(err)
		}
	})
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

func TestTracingIsCheckedBeforeItIsUsed(t *testing.T) {
	for want, c := range map[string]Tracing{
		`tracing: endpoint "collector" has no host and port: write host:port`:                             {Endpoint: "collector"},
		`tracing: endpoint "ftp://c:1" must be host:port, http://host:port or https://host:port`:          {Endpoint: "ftp://c:1"},
		`tracing: endpoint "http://u:xxxxx@c:1" must be host:port, http://host:port or https://host:port`: {Endpoint: "http://u:secret@c:1"},
		`tracing: endpoint "http://c:1/x" has a path, which only the protocol http has`:                   {Endpoint: "http://c:1/x"},
		`tracing: protocol "udp" is neither grpc nor http`:                                                {Endpoint: "c:1", Protocol: "udp"},
		`tracing: ratio 1.5 is not from 0 to 1`:                                                           {Endpoint: "c:1", Ratio: 1.5},
		`tracing: header "a b" is not a valid header`:                                                     {Endpoint: "c:1", Headers: map[string]string{"a b": "x"}},
		`tracing: header "a" is not a valid header`:                                                       {Endpoint: "c:1", Headers: map[string]string{"a": "x\r\ny"}},
		`tracing: a certificate file and a key file are given together or not at all`:                     {Endpoint: "c:1", CertFile: "x"},
		`telemetry: tracing: roots of the collector: open /nonexistent/ca.pem: no such file or directory`: {Endpoint: "c:1", CAFile: "/nonexistent/ca.pem"},
	} {
		_, err := New(Config{Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Tracing: c})
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	for _, c := range []Tracing{
		{Endpoint: "http://[::1]:4317"}, {Endpoint: "https://collector"}, {Endpoint: "http://collector/custom", Protocol: "http"}, {Endpoint: "[::1]:4317", Ratio: 1},
	} {
		if err := c.check(); err != nil {
			t.Error(err)
		}
	}
}
