package mesh

import (
	"context"
	"encoding/hex"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // every collector takes it

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
)

// chain is three services behind a waypoint, each of which asks the next, and a collector outside the mesh.
const chain = `
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {warren.dev/mesh: enabled, warren.dev/use-waypoint: waypoint}}
---
apiVersion: v1
kind: Namespace
metadata: {name: front, labels: {warren.dev/mesh: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: observability}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: waypoint
  namespace: shop
  annotations: {warren.dev/lab-args: "--trace-endpoint=http://collector.observability:4317 --trace-ratio=1 --access-log"}
spec:
  gatewayClassName: warren-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: front}
spec:
  nodeName: n1
  serviceAccountName: web
  containers: [{name: app, image: warren.dev/sample, args: [http, --port, "8080"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {app: cart}}
spec:
  nodeName: n1
  serviceAccountName: cart
  containers: [{name: app, image: warren.dev/sample, args: [http, --name, cart, --port, "8080", --next, "http://pay.shop/next"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: pay, namespace: shop, labels: {app: pay}}
spec:
  nodeName: n2
  serviceAccountName: pay
  containers: [{name: app, image: warren.dev/sample, args: [http, --name, pay, --port, "8080", --next, "http://stock.shop/"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stock, namespace: shop, labels: {app: stock}}
spec:
  nodeName: n1
  serviceAccountName: stock
  containers: [{name: app, image: warren.dev/sample, args: [http, --name, stock, --port, "8080", --port, "8081"]}]
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop}
spec: {selector: {app: pay}, ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: stock, namespace: shop}
spec: {selector: {app: stock}, ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: solo, namespace: shop}
spec: {selector: {app: stock}, ports: [{name: http, port: 80, targetPort: 8081, appProtocol: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: collector, namespace: observability, labels: {app: collector}}
spec:
  nodeName: n2
  containers: [{name: app, image: warren.dev/sample, args: [http, --port, "8080"]}]
---
apiVersion: v1
kind: Service
metadata: {name: collector, namespace: observability}
spec: {clusterIP: None, selector: {app: collector}, ports: [{name: otlp, port: 4317}]}
`

// spans is an OTLP collector.
type spans struct {
	collectorv1.UnimplementedTraceServiceServer
	mu  sync.Mutex
	got []*tracev1.Span
}

func (s *spans) Export(_ context.Context, q *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range q.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			s.got = append(s.got, scope.GetSpans()...)
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

// of returns the spans of one trace, by their ids.
func (s *spans) of(trace string) map[string]*tracev1.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]*tracev1.Span{}
	for _, span := range s.got {
		if hex.EncodeToString(span.GetTraceId()) == trace {
			out[string(span.GetSpanId())] = span
		}
	}
	return out
}

// collect runs a collector in a pod's network namespace.
func collect(t *testing.T, m *labtest.Mesh, pod string) *spans {
	t.Helper()
	path, err := m.PodNetNS(pod)
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends in that namespace
		ns, err := os.Open(path)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			l, err = net.Listen("tcp", ":4317")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s, g := &spans{}, grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(g, s)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-served })
	return s
}

func attribute(span *tracev1.Span, key string) string {
	for _, kv := range span.GetAttributes() {
		if kv.GetKey() == key {
			return kv.GetValue().GetStringValue()
		}
	}
	return ""
}

// TestOneTraceAcrossThreeServices: apps that forward the headers get one trace, each span under the one that caused it,
// and the first connection's flows have its id.
func TestOneTraceAcrossThreeServices(t *testing.T) {
	m := labtest.Up(t, chain)
	collector := collect(t, m, "observability/collector")
	labtest.Await(t, "three services that answer", 20*time.Second, func() bool {
		return strings.Contains(m.Run("front/web", "sample", "client", "http://cart.shop/next").Out, `"service": "stock"`)
	})
	const trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	m.MustRun("front/web", "sample", "client", "--header", "traceparent: 00-"+trace+"-"+caller+"-01", "http://cart.shop/next")
	var all map[string]*tracev1.Span
	labtest.Await(t, "six spans of one trace", 15*time.Second, func() bool { all = collector.of(trace); return len(all) == 6 })
	checkChain(t, all, caller)
	// Without a parent the trace has the id of the connection, which every flow about it has; the destination's too if the
	// waypoint had no connection to it yet.
	m.MustRun("front/web", "sample", "client", "http://solo.shop/joined")
	request := m.AwaitFlow("the request", &adminv1.FlowsRequest{Path: "/joined"}, func(f *adminv1.Flow) bool { return f.GetHttp() != nil })
	if request.GetHttp().GetTraceId() != request.GetId() || request.GetReporter() != "waypoint" || request.GetHttp().GetStatus() != 200 {
		t.Errorf("the request's flow is %v", request)
	}
	m.AwaitFlow("the client's side of its connection", &adminv1.FlowsRequest{Id: request.GetId()}, func(f *adminv1.Flow) bool {
		return f.GetReporter() == "outbound" && f.GetNode() == "n1" && f.GetSrc().GetWorkload() == "web"
	})
	m.AwaitFlow("the server's side", &adminv1.FlowsRequest{Id: request.GetId()}, func(f *adminv1.Flow) bool {
		return f.GetReporter() == "inbound" && f.GetDst().GetWorkload() == "stock"
	})
	labtest.Await(t, "its spans", 15*time.Second, func() bool { return len(collector.of(request.GetId())) == 2 })
	seen := m.Agentctl("flows", "--type", "request", "--path", "/joined")
	if !strings.Contains(seen.Out, "waypoint shop/waypoint-0") || !strings.Contains(seen.Out, "GET /joined → 200") || strings.Contains(seen.Out, "/next") {
		t.Errorf("agentctl flows says\n%s%s", seen.Out, seen.Err)
	}
	status := m.Agentctl("status")
	if status.Code != 0 || !strings.Contains(status.Out, "shop/waypoint   waypoint-0   n2") {
		t.Errorf("agentctl status says\n%s%s", status.Out, status.Err)
	}
	t.Logf("%s\n%s", m.Agentctl("flows", "--id", request.GetId()).Out, status.Out)
}

// checkChain walks the spans from the last to the caller.
func checkChain(t *testing.T, all map[string]*tracev1.Span, caller string) {
	t.Helper()
	var last *tracev1.Span
	parents := map[string]bool{}
	for _, span := range all {
		parents[string(span.GetParentSpanId())] = true
	}
	for id, span := range all {
		if !parents[id] {
			if last != nil {
				t.Errorf("two spans have no child: %v and %v", last, span)
			}
			last = span
		}
	}
	want := []struct {
		kind   tracev1.Span_SpanKind
		source string
		dest   string
	}{
		{tracev1.Span_SPAN_KIND_CLIENT, "shop/sa/pay", "shop/sa/stock"}, {tracev1.Span_SPAN_KIND_SERVER, "shop/sa/pay", "shop/sa/stock"},
		{tracev1.Span_SPAN_KIND_CLIENT, "shop/sa/cart", "shop/sa/pay"}, {tracev1.Span_SPAN_KIND_SERVER, "shop/sa/cart", "shop/sa/pay"},
		{tracev1.Span_SPAN_KIND_CLIENT, "front/sa/web", "shop/sa/cart"}, {tracev1.Span_SPAN_KIND_SERVER, "front/sa/web", "shop/sa/cart"},
	}
	span := last
	for i, w := range want {
		if span == nil {
			t.Fatalf("span %d has a parent that never came", i-1)
		}
		if span.GetKind() != w.kind || !strings.HasSuffix(attribute(span, "warren.source.id"), w.source) || !strings.HasSuffix(attribute(span, "warren.destination.id"), w.dest) {
			t.Errorf("span %d from the end is %v; want %v from %s to %s", i, span, w.kind, w.source, w.dest)
		}
		if i == len(want)-1 && hex.EncodeToString(span.GetParentSpanId()) != caller {
			t.Errorf("the first span's parent is %x, want %s", span.GetParentSpanId(), caller)
		}
		span = all[string(span.GetParentSpanId())]
	}
}
