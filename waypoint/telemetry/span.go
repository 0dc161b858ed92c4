package telemetry

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

const scope = "github.com/warren-mesh/warren/waypoint"

// newTracer returns a tracer whose spans have the ids that their context gives, and end up in to.
func newTracer(cfg Config, to sdktrace.SpanProcessor) trace.Tracer {
	namespace, gateway, _ := strings.Cut(cfg.Gateway, "/")
	_, pod, _ := strings.Cut(cfg.Pod, "/")
	limits := sdktrace.NewSpanLimits()
	limits.AttributeValueLengthLimit = 1024
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // only what is sampled comes here
		sdktrace.WithIDGenerator(givenIDs{}),
		sdktrace.WithSpanProcessor(to),
		sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithResource(resource.NewWithAttributes(semconv.SchemaURL,
			semconv.ServiceName(gateway), semconv.ServiceNamespace(namespace), semconv.ServiceInstanceID(cfg.Pod),
			semconv.ServiceVersion(cfg.Version), semconv.K8SNamespaceName(namespace), semconv.K8SPodName(pod),
			semconv.K8SNodeName(cfg.Node), attribute.String("warren.gateway", cfg.Gateway),
		)),
	)
	return provider.Tracer(scope, trace.WithInstrumentationVersion(cfg.Version), trace.WithSchemaURL(semconv.SchemaURL))
}

type idsKey struct{}

// givenIDs takes the ids of spans from their context: they were chosen when the request began, and peers know them.
type givenIDs struct{}

func (givenIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	c, _ := ctx.Value(idsKey{}).(trace.SpanContextConfig)
	return c.TraceID, c.SpanID
}

func (g givenIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	_, id := g.NewIDs(ctx)
	return id
}

// record makes the spans of a request: one of kind SERVER, and under it one of kind CLIENT for each try.
func record(tracer trace.Tracer, r *exchange.Record) {
	id, err := trace.TraceIDFromHex(r.TraceID)
	if err != nil {
		return // nobody placed it
	}
	own, err := trace.SpanIDFromHex(r.SpanID)
	if err != nil {
		return
	}
	ctx := context.Background()
	if parent, err := trace.SpanIDFromHex(r.ParentID); err == nil {
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: id, SpanID: parent, TraceFlags: trace.FlagsSampled, Remote: true,
		}))
	}
	ctx, span := tracer.Start(withIDs(ctx, id, own), nameOf(r), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithTimestamp(r.Start), trace.WithAttributes(serverAttributes(r)...))
	if isError, text := serverError(r); isError {
		span.SetStatus(otelcodes.Error, text)
	}
	if r.Header > 0 {
		span.AddEvent("response header", trace.WithTimestamp(r.Start.Add(r.Header)))
	}
	for i := range r.Tries {
		recordTry(ctx, tracer, r, i)
	}
	span.End(trace.WithTimestamp(r.Start.Add(r.Took)))
}

func withIDs(ctx context.Context, id trace.TraceID, span trace.SpanID) context.Context {
	return context.WithValue(ctx, idsKey{}, trace.SpanContextConfig{TraceID: id, SpanID: span})
}

// recordTry makes the span of one try, under the request's in ctx. The one that answered lasts until the answer's end.
func recordTry(ctx context.Context, tracer trace.Tracer, r *exchange.Record, i int) {
	try := &r.Tries[i]
	own, err := trace.SpanIDFromHex(try.SpanID)
	if err != nil { // its endpoint was told nothing
		var b [16]byte
		hexOf(b[:], random())
		own, _ = trace.SpanIDFromHex(string(b[:]))
	}
	ctx = withIDs(ctx, trace.SpanContextFromContext(ctx).TraceID(), own)
	_, span := tracer.Start(ctx, nameOf(r), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithTimestamp(try.Start), trace.WithAttributes(clientAttributes(r, i)...))
	end := try.Start.Add(try.Took)
	last := i == len(r.Tries)-1
	if last && try.Status != 0 {
		span.AddEvent("response header", trace.WithTimestamp(end))
		end = later(end, r.Start.Add(r.Took))
	}
	switch {
	case try.Status == 0:
		span.SetStatus(otelcodes.Error, bounded(try.Err, maxDetail))
	case try.Status >= 400, last && grpcOf(r) > 0:
		span.SetStatus(otelcodes.Error, "")
	}
	span.End(trace.WithTimestamp(end))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// nameOf is of low cardinality: a gRPC method, or the HTTP method with the route.
func nameOf(r *exchange.Record) string {
	if name := rpcMethod(r); name != "" {
		return name
	}
	method, _ := methodOf(r.Method)
	if method == otherMethod {
		method = "HTTP"
	}
	if r.Route == nil {
		return method
	}
	return method + " " + r.Route.FullName()
}

// rpcMethod is "<package>.<Service>/<Method>", empty for what is no gRPC.
func rpcMethod(r *exchange.Record) string {
	if r.Protocol != "gRPC" {
		return ""
	}
	service, method, ok := strings.Cut(strings.TrimPrefix(r.Path, "/"), "/")
	if !ok || service == "" || method == "" || strings.Contains(method, "/") {
		return ""
	}
	return bounded(service+"/"+method, maxHost)
}

const otherMethod = "_OTHER"

// methodOf is a method as the conventions have it: one of those that are known, with the original if it is not.
func methodOf(method string) (known, original string) {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY":
		return method, ""
	}
	return otherMethod, bounded(method, maxMethod)
}

// attributes collects those that are not empty.
type attributes []attribute.KeyValue

func (a *attributes) add(more ...attribute.KeyValue) {
	for _, kv := range more {
		if kv.Value.Type() != attribute.STRING || kv.Value.AsString() != "" {
			*a = append(*a, kv)
		}
	}
}

// shared are those of both kinds of span.
func (a *attributes) shared(r *exchange.Record) {
	method, original := methodOf(r.Method)
	a.add(semconv.HTTPRequestMethodKey.String(method), semconv.HTTPRequestMethodOriginal(original))
	if r.Protocol == "gRPC" {
		a.add(semconv.RPCSystemNameGRPC, semconv.RPCMethod(rpcMethod(r)))
	}
	if r.Conn != nil {
		a.add(attribute.String("warren.source.id", r.Conn.Client.String()), attribute.String("warren.source.workload", fullName(r.Conn.Workload)))
	}
	if r.Route != nil {
		a.add(attribute.String("warren.route", r.Route.Kind.String()+" "+r.Route.FullName()))
	}
	a.add(attribute.String("warren.rule", r.Rule), attribute.String("warren.backend", r.Backend))
}

func serverAttributes(r *exchange.Record) []attribute.KeyValue {
	a := make(attributes, 0, 32)
	a.shared(r)
	host, port := hostPort(r.Host)
	a.add(semconv.URLScheme("http"), semconv.URLPath(bounded(r.Path, maxPath)), semconv.ServerAddress(host),
		semconv.UserAgentOriginal(bounded(r.UserAgent, maxAgent)), attribute.String("warren.outcome", string(r.Outcome)),
		attribute.String("warren.policy", bounded(r.Policy, maxDetail)), attribute.String("warren.audit", bounded(r.Audit, maxDetail)),
		attribute.Int("warren.retries", max(0, len(r.Tries)-1)),
		semconv.HTTPRequestBodySize(int(r.BytesIn)), semconv.HTTPResponseBodySize(int(r.BytesOut)))
	if port != 0 {
		a.add(semconv.ServerPort(port))
	}
	a.protocol(r.Protocol)
	if r.Status != 0 {
		a.add(semconv.HTTPResponseStatusCode(r.Status))
	}
	if grpcOf(r) >= 0 {
		a.add(semconv.RPCResponseStatusCode(grpcName(grpcOf(r))))
	}
	a.add(semconv.ErrorTypeKey.String(serverErrorType(r)))
	if r.Authorize > 0 {
		a.add(attribute.Float64("warren.authorize_seconds", r.Authorize.Seconds()))
	}
	if n := len(r.Tries); n > 0 {
		a.add(attribute.String("warren.destination.id", spiffeOf(r.Tries[n-1].Endpoint)),
			attribute.String("warren.destination.workload", fullName(r.Tries[n-1].Endpoint)))
	}
	a.connection(r.Conn)
	return a
}

// connection are those of whoever asked, and what it dialled.
func (a *attributes) connection(c *exchange.Conn) {
	if c == nil {
		return
	}
	a.add(attribute.String("warren.connection.id", c.TraceID))
	if c.ClientAddr.IsValid() {
		a.add(semconv.ClientAddress(c.ClientAddr.Addr().String()))
		if c.ClientAddr.Port() != 0 {
			a.add(semconv.ClientPort(int(c.ClientAddr.Port())))
		}
	}
	if c.Service != nil {
		a.add(attribute.String("warren.service", c.Service.FullName()))
	}
}

func (a *attributes) protocol(p string) {
	switch p {
	case "":
	case "gRPC":
		a.add(semconv.NetworkProtocolName("http"), semconv.NetworkProtocolVersion("2"))
	case "websocket":
		a.add(semconv.NetworkProtocolName("websocket"))
	default:
		name, version, _ := strings.Cut(p, "/")
		a.add(semconv.NetworkProtocolName(strings.ToLower(name)), semconv.NetworkProtocolVersion(version))
	}
}

func clientAttributes(r *exchange.Record, i int) []attribute.KeyValue {
	try := &r.Tries[i]
	a := make(attributes, 0, 20)
	a.shared(r)
	a.add(semconv.URLFull("http://"+bounded(r.Host, maxHost)+bounded(r.Path, maxPath)),
		attribute.String("warren.destination.id", spiffeOf(try.Endpoint)), attribute.String("warren.destination.workload", fullName(try.Endpoint)))
	if try.Addr.IsValid() {
		addr, port := try.Addr.Addr().String(), int(try.Addr.Port())
		a.add(semconv.ServerAddress(addr), semconv.ServerPort(port), semconv.NetworkPeerAddress(addr), semconv.NetworkPeerPort(port))
	}
	if i > 0 {
		a.add(semconv.HTTPRequestResendCount(i))
	}
	last := i == len(r.Tries)-1
	switch {
	case try.Status == 0:
		a.add(semconv.ErrorTypeKey.String("no_answer"))
	case try.Status >= 400:
		a.add(semconv.ErrorTypeKey.String(strconv.Itoa(try.Status)))
	case last && grpcOf(r) > 0:
		a.add(semconv.ErrorTypeKey.String(grpcName(grpcOf(r))))
	}
	if try.Status != 0 {
		a.add(semconv.HTTPResponseStatusCode(try.Status))
	}
	if last && grpcOf(r) >= 0 {
		a.add(semconv.RPCResponseStatusCode(grpcName(grpcOf(r))))
	}
	return a
}

// serverError tells whether a request failed by the server's fault, and how: what a client did wrong, or broke off, is
// no error of the server's span.
func serverError(r *exchange.Record) (failed bool, text string) {
	switch {
	case r.Outcome == exchange.Gone:
		return false, ""
	case r.Status >= 500, r.Outcome == exchange.BackendGone, r.Outcome == exchange.TimedOut:
		return true, bounded(r.Detail, maxDetail)
	case grpcOf(r) > 0:
		switch codes.Code(grpcOf(r)) {
		case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
			return true, bounded(r.Detail, maxDetail)
		}
	}
	return false, ""
}

// serverErrorType names the kind of failure: the waypoint's own word if it answered itself, else the backend's code.
func serverErrorType(r *exchange.Record) string {
	failed, _ := serverError(r)
	switch {
	case !failed:
		return ""
	case r.Outcome != exchange.Answered:
		return string(r.Outcome)
	case grpcOf(r) > 0:
		return grpcName(grpcOf(r))
	}
	return strconv.Itoa(r.Status)
}

// grpcName is a status as gRPC's documents write it.
func grpcName(status int) string {
	names := [...]string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
		"UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}
	if status < 0 || status >= len(names) {
		return strconv.Itoa(status)
	}
	return names[status]
}

func fullName(w *mesh.Workload) string {
	if w == nil {
		return ""
	}
	return w.FullName()
}

// hostPort takes a Host header apart; port is 0 if it has none.
func hostPort(host string) (name string, port int) {
	if ap, err := netip.ParseAddrPort(host); err == nil {
		return ap.Addr().String(), int(ap.Port())
	}
	name, text, err := net.SplitHostPort(host)
	if err != nil {
		return bounded(host, maxHost), 0
	}
	n, _ := strconv.ParseUint(text, 10, 16)
	return bounded(name, maxHost), int(n)
}
