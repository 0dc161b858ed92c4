package telemetry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// logging returns a Telemetry that writes its access log to handler, without tracing.
func logging(t testing.TB, handler slog.Handler) (*Telemetry, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	tel, err := New(Config{Gateway: "shop/waypoint", Pod: "shop/waypoint-1", Node: "n1", Log: slog.New(handler), AccessLog: true, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	return tel, reg
}

func simple() *exchange.Record {
	return &exchange.Record{
		TraceID: traceA, SpanID: spanA, Protocol: "HTTP/1.1", Method: "GET", Host: "pay.shop", Path: "/cart", UserAgent: "curl/8", Backend: "shop/pay",
		Route: &route.Route{Kind: route.HTTP, Namespace: "shop", Name: "pay"}, Rule: "0", Outcome: exchange.Answered, Status: 200, GRPCStatus: -1,
		Start: time.Now(), Header: time.Millisecond, Took: 2 * time.Millisecond, BytesIn: 3, BytesOut: 4,
		Conn: &exchange.Conn{
			TraceID: traceB, ClientAddr: netip.MustParseAddrPort("10.0.0.1:40000"), Dialled: netip.MustParseAddrPort("10.96.0.1:80"),
			Workload: &mesh.Workload{Namespace: "front", Name: "web-0", App: "web"}, Service: &mesh.Service{Namespace: "shop", Name: "pay"},
		},
		Tries: []exchange.Try{{Addr: netip.MustParseAddrPort("10.0.1.7:8080"), Status: 200}},
	}
}

const evil = "x\nlevel=ERROR msg=forged\r\n\x00\x1b[2J\x9b\xff\x7f\u009b\u2028\" outcome=answered {}"

// TestForeignTextForgesNothing: whatever a client wrote stays inside its own field of one line, is no label, and can be
// encoded for agentctl and the collector.
func TestForeignTextForgesNothing(t *testing.T) {
	r := simple()
	r.Method, r.Host, r.Path, r.UserAgent, r.Detail = evil, evil, evil+strings.Repeat("é", 5000), evil, evil
	r.Outcome, r.Status, r.Tries[0].Err = exchange.NoRoute, 404, evil
	for format, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		t.Run(format, func(t *testing.T) {
			var out bytes.Buffer
			tel, reg := logging(t, handler(&out))
			tel.Sink(r)
			line, rest, _ := strings.Cut(out.String(), "\n")
			if rest != "" || len(line) > 8000 || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == '\u2028' || r >= 0x7f && r <= 0x9f }) {
				t.Errorf("the log is not one short printable line: %q", out.String())
			}
			var fields map[string]any
			switch {
			case format == "json" && json.Unmarshal([]byte(line), &fields) != nil:
				t.Errorf("it is no JSON: %s", line)
			case format == "json" && (fields["reason"] != "no_route" || fields["msg"] != "request"):
				t.Errorf("the fields are %v", fields)
			case format == "text" && strings.Count(line, " reason=no_route ") != 1:
				t.Errorf("the outcome is forged: %s", line)
			}
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if strings.Contains(f.String(), "forged") {
					t.Errorf("foreign text is in metric %s", f.GetName())
				}
			}
			flow := tel.Flows().Ended()[0]
			if _, err := proto.Marshal(flow); err != nil || len(flow.GetHttp().GetPath()) > maxPath+3 || !utf8.ValidString(flow.GetHttp().GetPath()) {
				t.Errorf("%v; the flow's path has %d bytes", err, len(flow.GetHttp().GetPath()))
			}
		})
	}
	to := &receiver{}
	addr, _ := to.listenGRPC(t, "127.0.0.1:0")
	tel := telemetryTo(t, Tracing{Endpoint: addr, Insecure: true, Ratio: 1})
	r.Sampled = true
	tel.Sink(r)
	if err := closeSoon(t, tel, 5*time.Second); err != nil || len(to.got()) != 2 {
		t.Fatalf("%v; %d spans came", err, len(to.got()))
	}
	for _, span := range to.got() {
		for key, text := range textOf(span.GetAttributes()) {
			if len(text) > 2*maxPath || !utf8.ValidString(text) {
				t.Errorf("%s has %d bytes", key, len(text))
			}
		}
	}
	if span := to.got()[1]; span.GetName() != "HTTP shop/pay" || textOf(span.GetAttributes())["http.request.method"] != "_OTHER" {
		t.Errorf("a method that nobody knows names the span %q", span.GetName())
	}
}

// TestLabelsAreBounded: however many routes and clients there are, and whatever backends answer.
func TestLabelsAreBounded(t *testing.T) {
	tel, reg := logging(t, slog.DiscardHandler)
	for i := range 3 * maxSeries {
		r := simple()
		r.Route = &route.Route{Namespace: "shop", Name: fmt.Sprint("r", i)}
		tel.Sink(r)
	}
	for code := range 2000 {
		r := simple()
		r.Protocol, r.Status, r.GRPCStatus = "gRPC", code, code
		r.Route = &route.Route{Namespace: "shop", Name: "r1"}
		tel.Sink(r)
	}
	if n := testutil.CollectAndCount(tel.metrics.duration); n != maxSeries+1 {
		t.Errorf("%d histograms, want %d", n, maxSeries+1)
	}
	if n := testutil.CollectAndCount(tel.metrics.requests); n > maxSeries+1+600 {
		t.Errorf("%d counters of requests", n)
	}
	if got := testutil.ToFloat64(tel.metrics.requests.WithLabelValues(other, other, other, other, "200", "", "answered")); got != 2*maxSeries {
		t.Errorf("%v requests are among the others, want %d", got, 2*maxSeries)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var labels []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "code" && !slices.Contains(labels, l.GetValue()) {
					labels = append(labels, l.GetValue())
				}
			}
		}
	}
	if len(labels) != 501 {
		t.Errorf("%d codes", len(labels))
	}
}

func TestARequestIsCountedByWhoAskedWhom(t *testing.T) {
	tel, _ := logging(t, slog.DiscardHandler)
	before, _, _ := tel.Requests()
	c := tel.Start(request(headers()), nil)
	if open, _, _ := tel.Requests(); open != before+1 {
		t.Errorf("%d are open", open)
	}
	r := simple()
	c.Describe(r)
	r.Tries = append(r.Tries, exchange.Try{})
	tel.Sink(r)
	if open, ended, _ := tel.Requests(); open != 0 || ended != 1 {
		t.Errorf("%d are open, %d ended", open, ended)
	}
	m := tel.metrics
	names := []string{"front/web", "shop/pay", "shop/pay", "shop/pay"}
	for want, got := range map[string]float64{
		"requests 1":          testutil.ToFloat64(m.requests.WithLabelValues(append(names, "200", "", "answered")...)),
		"bytes in 3":          testutil.ToFloat64(m.bytes.WithLabelValues(append(names, "in")...)),
		"bytes out 4":         testutil.ToFloat64(m.bytes.WithLabelValues(append(names, "out")...)),
		"first, answered 1":   testutil.ToFloat64(m.tries.WithLabelValues("first", "answered")),
		"retry, unanswered 1": testutil.ToFloat64(m.tries.WithLabelValues("retry", "failed")),
	} {
		if !strings.HasSuffix(want, fmt.Sprint(" ", got)) {
			t.Errorf("%s: got %v", want, got)
		}
	}
}

func TestAnUnreadConnectionIsNoRequest(t *testing.T) {
	var out bytes.Buffer
	tel, _ := logging(t, slog.NewTextHandler(&out, nil))
	r := simple()
	r.Protocol, r.SpanID, r.Outcome, r.Policy = TCP, "", exchange.Denied, "shop/deny"
	tel.Sink(r)
	f := tel.Flows().Ended()[0]
	if f.GetHttp() != nil || f.GetVerdict() != "denied" || f.GetReporter() != "waypoint" || f.GetId() != traceB {
		t.Errorf("its flow is %v", f)
	}
	if _, ended, _ := tel.Requests(); ended != 0 || testutil.CollectAndCount(tel.metrics.requests) != 0 {
		t.Errorf("%d requests are counted", ended)
	}
	if n := testutil.ToFloat64(tel.metrics.conns.WithLabelValues("waypoint", "denied", "denied", "mtls")); n != 1 {
		t.Errorf("%v connections are counted", n)
	}
	if !strings.Contains(out.String(), "msg=connection ") || strings.Contains(out.String(), "status=") {
		t.Errorf("its line is %s", out.String())
	}
	if open := tel.OpenFlow(r); open.GetEndUnixNano() != 0 {
		t.Errorf("an open connection has an end: %v", open)
	}
}

func TestVerdictsAndErrorsOfEveryOutcome(t *testing.T) {
	for _, c := range []struct {
		outcome      exchange.Outcome
		status, grpc int
		audit        string
		verdict      string
		failed       bool
		kind         string
	}{
		{exchange.Answered, 200, -1, "", "forwarded", false, ""},
		{exchange.Answered, 200, -1, "shop/watch", "audited", false, ""},
		{exchange.Answered, 404, -1, "", "forwarded", false, ""},
		{exchange.Answered, 503, -1, "", "forwarded", true, "503"},
		{exchange.Answered, 200, 0, "", "forwarded", false, ""},
		{exchange.Answered, 200, 5, "", "forwarded", false, ""},            // NOT_FOUND is the client's
		{exchange.Answered, 200, 14, "", "forwarded", true, "UNAVAILABLE"}, // the server's
		{exchange.Answered, 200, 99, "", "forwarded", true, "UNKNOWN"},
		{exchange.Redirected, 301, -1, "", "forwarded", false, ""},
		{exchange.Preflight, 204, -1, "", "forwarded", false, ""},
		{exchange.Denied, 403, -1, "", "denied", false, ""},
		{exchange.Refused, 401, -1, "", "denied", false, ""},
		{exchange.Limited, 429, -1, "", "denied", false, ""},
		{exchange.Injected, 503, -1, "", "failed", true, "fault"},
		{exchange.NoRoute, 404, -1, "", "failed", false, ""},
		{exchange.Broken, 500, -1, "", "failed", true, "broken_route"},
		{exchange.NoEndpoint, 503, -1, "", "failed", true, "no_endpoint"},
		{exchange.Overloaded, 503, -1, "", "failed", true, "overloaded"},
		{exchange.TimedOut, 504, -1, "", "failed", true, "timeout"},
		{exchange.Unreachable, 503, -1, "", "failed", true, "unreachable"},
		{exchange.Malformed, 400, -1, "", "failed", false, ""},
		{exchange.Gone, 0, -1, "", "failed", false, ""},
		{exchange.Gone, 499, -1, "", "failed", false, ""},
		{exchange.BackendGone, 200, -1, "", "failed", true, "backend_gone"},
	} {
		r := simple()
		r.Outcome, r.Status, r.GRPCStatus, r.Audit = c.outcome, c.status, c.grpc, c.audit
		if c.grpc >= 0 {
			r.Protocol = "gRPC"
		}
		if got := verdict(r); got != c.verdict {
			t.Errorf("%s %d: verdict %s, want %s", c.outcome, c.status, got, c.verdict)
		}
		if failed, _ := serverError(r); failed != c.failed || serverErrorType(r) != c.kind {
			t.Errorf("%s %d/%d: error %v %q, want %v %q", c.outcome, c.status, c.grpc, failed, serverErrorType(r), c.failed, c.kind)
		}
	}
}

func TestAGRPCSpanIsNamedByItsMethod(t *testing.T) {
	r := simple()
	r.Protocol, r.Path, r.GRPCStatus = "gRPC", "/pay.Pay/Charge", 0
	if got := nameOf(r); got != "pay.Pay/Charge" {
		t.Errorf("its name is %q", got)
	}
	r.Path = "/not/a/method"
	if got := nameOf(r); got != "GET shop/pay" {
		t.Errorf("what is no method names it %q", got)
	}
}

func TestTheRateIsOfTheLastSeconds(t *testing.T) {
	var r rate
	now := time.Unix(1_000_000, 0)
	for i := range 60 { // one in the first second, two in the next, …
		for range i + 1 {
			r.add(now.Add(time.Duration(i) * time.Second))
		}
	}
	// Over seconds 50 to 59, of 51 to 60 requests: 55.5.
	if got := r.perSecond(now.Add(60 * time.Second)); got != 55.5 {
		t.Errorf("%v a second", got)
	}
	if got := r.perSecond(now.Add(time.Hour)); got != 0 {
		t.Errorf("%v a second an hour later", got)
	}
}

func TestTextIsCutBetweenCharacters(t *testing.T) {
	for in, want := range map[string]string{"": "", "abc": "abc", "abcdef": "abcd…", "abcé": "abc…", "a\xff": "a\ufffd", "é\xff\xff\xff": "é…", "a\x7f\u009b": "a\ufffd…"} {
		if got := bounded(in, 4); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestRecordsWithoutAConnectionAreTakenToo(t *testing.T) {
	tel, _ := logging(t, slog.DiscardHandler)
	tel.Sink(&exchange.Record{Protocol: "HTTP/1.1", Outcome: exchange.Malformed, Status: 400, GRPCStatus: -1, Start: time.Now()})
	if f := tel.Flows().Ended()[0]; f.GetVerdict() != "failed" || f.GetSrc() == nil {
		t.Errorf("its flow is %v", f)
	}
	var _ *adminv1.Flow = tel.OpenFlow(&exchange.Record{})
}

func BenchmarkSinkNotSampled(b *testing.B) {
	for name, access := range map[string]bool{"without log": false, "with log": true} {
		b.Run(name, func(b *testing.B) {
			tel, _ := logging(b, slog.NewJSONHandler(nowhere{}, nil))
			tel.cfg.AccessLog = access
			r := simple()
			b.ReportAllocs()
			for b.Loop() {
				tel.Sink(r)
			}
		})
	}
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
