package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

const (
	traceA = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanA  = "00f067aa0ba902b7"
	traceB = "80f198ee56343ba864fe8b2a57d3eff7"
	spanB  = "e457b5a2e4d86bd1"
)

// traced is a Telemetry that places requests and sends nothing.
func traced(ratio float64) *Telemetry {
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		panic(err)
	}
	return &Telemetry{cfg: Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, tracing: true, bound: boundOf(ratio), metrics: m}
}

func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func request(h http.Header) *http.Request { return &http.Request{Header: h} }

func TestAParentIsTakenFromWellFormedHeadersOnly(t *testing.T) {
	for _, c := range []struct {
		name          string
		headers       []string
		trace, parent string // empty: none is taken
		sampled       bool
	}{
		{"w3c sampled", []string{"traceparent", "00-" + traceA + "-" + spanA + "-01"}, traceA, spanA, true},
		{"w3c not sampled", []string{"traceparent", "00-" + traceA + "-" + spanA + "-00"}, traceA, spanA, false},
		{"w3c random flag", []string{"traceparent", "00-" + traceA + "-" + spanA + "-03"}, traceA, spanA, true},
		{"w3c later version", []string{"traceparent", "cc-" + traceA + "-" + spanA + "-01-what-comes"}, traceA, spanA, true},
		{"w3c later version, short", []string{"traceparent", "cc-" + traceA + "-" + spanA + "-01"}, traceA, spanA, true},
		{"w3c later version, no dash", []string{"traceparent", "cc-" + traceA + "-" + spanA + "-01x"}, "", "", false},
		{"w3c version ff", []string{"traceparent", "ff-" + traceA + "-" + spanA + "-01"}, "", "", false},
		{"w3c version 00 with more", []string{"traceparent", "00-" + traceA + "-" + spanA + "-01-x"}, "", "", false},
		{"w3c capitals", []string{"traceparent", "00-" + strings.ToUpper(traceA) + "-" + spanA + "-01"}, "", "", false},
		{"w3c no trace", []string{"traceparent", "00-" + strings.Repeat("0", 32) + "-" + spanA + "-01"}, "", "", false},
		{"w3c no span", []string{"traceparent", "00-" + traceA + "-" + strings.Repeat("0", 16) + "-01"}, "", "", false},
		{"w3c bad flags", []string{"traceparent", "00-" + traceA + "-" + spanA + "-0x"}, "", "", false},
		{"w3c twice", []string{"traceparent", "00-" + traceA + "-" + spanA + "-01", "traceparent", "00-" + traceB + "-" + spanB + "-01"}, "", "", false},
		{"b3 sampled", []string{"b3", traceB + "-" + spanB + "-1"}, traceB, spanB, true},
		{"b3 with parent", []string{"b3", traceB + "-" + spanB + "-1-05e3ac9a4f6e3b90"}, traceB, spanB, true},
		{"b3 debug", []string{"b3", traceB + "-" + spanB + "-d"}, traceB, spanB, true},
		{"b3 denied", []string{"b3", traceB + "-" + spanB + "-0"}, traceB, spanB, false},
		{"b3 short trace", []string{"b3", traceB[16:] + "-" + spanB + "-1"}, strings.Repeat("0", 16) + traceB[16:], spanB, true},
		{"b3 denied alone", []string{"b3", "0"}, "", "", false},
		{"b3 bad parent", []string{"b3", traceB + "-" + spanB + "-1-x"}, "", "", false},
		{"b3 bad decision", []string{"b3", traceB + "-" + spanB + "-2"}, "", "", false},
		{"b3 of length 17", []string{"b3", "1" + traceB[16:] + "-" + spanB + "-1"}, "", "", false},
		{"b3 multi", []string{"X-B3-TraceId", traceB, "X-B3-SpanId", spanB, "X-B3-Sampled", "1"}, traceB, spanB, true},
		{"b3 multi true", []string{"X-B3-TraceId", traceB, "X-B3-SpanId", spanB, "X-B3-Sampled", "true"}, traceB, spanB, true},
		{"b3 multi flags", []string{"X-B3-TraceId", traceB, "X-B3-SpanId", spanB, "X-B3-Flags", "1"}, traceB, spanB, true},
		{"b3 multi denied", []string{"X-B3-TraceId", traceB, "X-B3-SpanId", spanB, "X-B3-Sampled", "0"}, traceB, spanB, false},
		{"b3 multi without span", []string{"X-B3-TraceId", traceB, "X-B3-Sampled", "0"}, "", "", false},
		{"w3c before b3", []string{"traceparent", "00-" + traceA + "-" + spanA + "-00", "b3", traceB + "-" + spanB + "-1"}, traceA, spanA, false},
		{"b3 beside a bad w3c", []string{"traceparent", "00-xyz", "b3", traceB + "-" + spanB + "-1"}, traceB, spanB, true},
		{"b3 single before multi", []string{"b3", traceB + "-" + spanB + "-1", "X-B3-TraceId", traceA, "X-B3-SpanId", spanA, "X-B3-Sampled", "0"}, traceB, spanB, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := traced(0).Start(request(headers(c.headers...)), nil)
			if c.trace == "" && (got.ParentID != "" || got.TraceID == traceA || got.TraceID == traceB || !isID(got.TraceID, 32)) {
				t.Errorf("it took trace %s and parent %q", got.TraceID, got.ParentID)
			}
			if c.trace != "" && (got.TraceID != c.trace || got.ParentID != c.parent) {
				t.Errorf("it took trace %s and parent %q", got.TraceID, got.ParentID)
			}
			if got.Sampled != c.sampled {
				t.Errorf("sampled: %v", got.Sampled)
			}
			if !isID(got.SpanID, 16) || got.SpanID == got.ParentID {
				t.Errorf("its own span is %q", got.SpanID)
			}
		})
	}
}

// TestEachTryGetsASpanOfItsOwn: the endpoint's parent is the try's span, in every form in which the client spoke.
func TestEachTryGetsASpanOfItsOwn(t *testing.T) {
	in := headers("traceparent", "00-"+traceA+"-"+spanA+"-01", "tracestate", "a=1,b=2", "tracestate", "c=3", "baggage", "user=alice",
		"b3", traceB+"-"+spanB+"-1", "X-B3-TraceId", traceB)
	c := traced(0).Start(request(in), nil)
	seen := map[string]bool{c.SpanID: true, spanA: true}
	for range 3 {
		h := in.Clone()
		span := c.Inject(h)
		if seen[span] || !isID(span, 16) {
			t.Fatalf("the try's span is %q, after %v", span, seen)
		}
		seen[span] = true
		for name, want := range map[string]string{
			"traceparent": "00-" + traceA + "-" + span + "-01", "tracestate": "a=1,b=2,c=3", "baggage": "user=alice",
			"b3": traceA + "-" + span + "-1-" + c.SpanID, "X-B3-TraceId": traceA, "X-B3-SpanId": span,
			"X-B3-ParentSpanId": c.SpanID, "X-B3-Sampled": "1",
		} {
			if got := h.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	}
}

func TestB3GoesOnInTheFormInWhichItCame(t *testing.T) {
	for _, c := range []struct {
		name    string
		headers []string
		want    map[string]string // SPAN stands for the try's span, OWN for the request's
	}{
		{"none", nil, map[string]string{}},
		{"short single", []string{"b3", traceB[16:] + "-" + spanB + "-1"}, map[string]string{"B3": traceB[16:] + "-SPAN-1-OWN"}},
		{"debug single", []string{"b3", traceB + "-" + spanB + "-d"}, map[string]string{"B3": traceB + "-SPAN-d-OWN"}},
		{"denied single", []string{"b3", traceB + "-" + spanB + "-0"}, map[string]string{"B3": traceB + "-SPAN-0-" + spanB}},
		{"debug multi", []string{"x-b3-traceid", traceB, "x-b3-spanid", spanB, "x-b3-flags", "1", "x-b3-parentspanid", spanA},
			map[string]string{"X-B3-Traceid": traceB, "X-B3-Spanid": "SPAN", "X-B3-Parentspanid": "OWN", "X-B3-Flags": "1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := headers(c.headers...)
			ctx := traced(0).Start(request(h), nil)
			span := ctx.Inject(h)
			if h.Get("traceparent") == "" {
				t.Error("no traceparent beside")
			}
			got := map[string]string{}
			for name := range h {
				if strings.Contains(name, "B3") {
					got[name] = h.Get(name)
				}
			}
			for name, want := range c.want {
				c.want[name] = strings.NewReplacer("SPAN", span, "OWN", ctx.SpanID).Replace(want)
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestABadTracestateIsDroppedAndALongOneCut(t *testing.T) {
	const parent = "00-" + traceA + "-" + spanA + "-01"
	long := strings.Repeat("x", 200)
	var many []string
	for i := range 33 {
		many = append(many, fmt.Sprintf("k%d=v", i))
	}
	for name, c := range map[string]struct{ in, want string }{
		"good":            {"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"},
		"no key":          {"=x", ""},
		"control":         {"a=\x01", ""},
		"line break":      {"a=b\r\nx: y", ""},
		"twice the same":  {"a=1,a=2", ""},
		"too many":        {strings.Join(many, ","), ""},
		"long entries go": {"a=1,b=" + long + ",c=" + long + ",d=" + long + ",e=5", "a=1,e=5"},
		"old entries go": {strings.Repeat("", 0) + "a=" + long[:120] + ",b=" + long[:120] + ",c=" + long[:120] + ",d=" + long[:120] + ",e=" + long[:120],
			"a=" + long[:120] + ",b=" + long[:120] + ",c=" + long[:120] + ",d=" + long[:120]},
		"huge": {"a=" + strings.Repeat("x", 100_000), ""},
	} {
		h := headers("traceparent", parent, "tracestate", c.in)
		traced(0).Start(request(h), nil).Inject(h)
		if got := h.Get("tracestate"); got != c.want || len(got) > maxState {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	h := headers("tracestate", "a=1")
	traced(0).Start(request(h), nil).Inject(h)
	if got := h.Get("tracestate"); got != "" {
		t.Errorf("a tracestate without its parent went on: %q", got)
	}
}

// TestAConnectionsFirstRequestBeginsInItsTrace: so the flows of ztunnel and the spans have one id; the next ones begin
// traces of their own.
func TestAConnectionsFirstRequestBeginsInItsTrace(t *testing.T) {
	tel := traced(1)
	conn := &exchange.Conn{TraceID: traceB}
	first, second := tel.Start(request(headers()), conn), tel.Start(request(headers()), conn)
	if first.TraceID != traceB || first.ParentID != "" {
		t.Errorf("the first request is in trace %s under %q", first.TraceID, first.ParentID)
	}
	if second.TraceID == traceB || !isID(second.TraceID, 32) {
		t.Errorf("the second request is in trace %s", second.TraceID)
	}
	third := tel.Start(request(headers("traceparent", "00-"+traceA+"-"+spanA+"-00")), &exchange.Conn{TraceID: traceB})
	if third.TraceID != traceA {
		t.Errorf("a request with a parent is in trace %s", third.TraceID)
	}
	if odd := tel.Start(request(headers()), &exchange.Conn{TraceID: "../../x"}); !isID(odd.TraceID, 32) {
		t.Errorf("a connection's bad id was taken: %q", odd.TraceID)
	}
}

// TestSamplingByRatio: within five standard deviations of a binomial distribution, and the same for the same trace.
func TestSamplingByRatio(t *testing.T) {
	const n = 20_000
	for _, ratio := range []float64{0, 0.01, 0.25, 0.5, 1} {
		tel := traced(ratio)
		got := 0
		for range n {
			c := tel.Start(request(http.Header{}), nil)
			if c.Sampled != sampledBy(tel.bound, []byte(c.TraceID[16:])) {
				t.Fatal("the trace id does not decide")
			}
			if c.Sampled {
				got++
			}
		}
		if off := math.Abs(float64(got) - ratio*n); off > 5*math.Sqrt(n*ratio*(1-ratio)) {
			t.Errorf("ratio %v: %d of %d are sampled", ratio, got, n)
		}
	}
}

func TestAParentsDecisionStands(t *testing.T) {
	for _, ratio := range []float64{0, 1} {
		for flag, want := range map[string]bool{"00": false, "01": true} {
			c := traced(ratio).Start(request(headers("traceparent", "00-"+traceA+"-"+spanA+"-"+flag)), nil)
			if c.Sampled != want {
				t.Errorf("ratio %v, parent's flag %s: sampled is %v", ratio, flag, c.Sampled)
			}
		}
		// B3 without a decision leaves it to whoever reads it.
		c := traced(ratio).Start(request(headers("b3", traceB+"-"+spanB)), nil)
		if c.Sampled != (ratio == 1) || c.TraceID != traceB {
			t.Errorf("ratio %v, parent undecided: sampled is %v in %s", ratio, c.Sampled, c.TraceID)
		}
	}
}

// TestWithoutTracingHeadersPassAsTheyCame: a span that nobody writes must be nobody's parent.
func TestWithoutTracingHeadersPassAsTheyCame(t *testing.T) {
	tel := traced(1)
	tel.tracing = false
	in := headers("traceparent", "00-"+traceA+"-"+spanA+"-01", "tracestate", "a=1", "b3", traceB+"-"+spanB+"-1")
	h := in.Clone()
	c := tel.Start(request(h), nil)
	if span := c.Inject(h); span != "" || fmt.Sprint(h) != fmt.Sprint(in) {
		t.Errorf("span %q, headers %v", span, h)
	}
	if c.TraceID != traceA || c.ParentID != spanA {
		t.Errorf("the record would say %s under %s", c.TraceID, c.ParentID)
	}
	h = http.Header{}
	if tel.Start(request(h), nil).Inject(h); len(h) != 0 {
		t.Errorf("headers were added: %v", h)
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add("00-"+traceA+"-"+spanA+"-01", "a=1,b=2", traceB+"-"+spanB+"-1", traceB, spanB, "1")
	f.Add("cc-"+traceA+"-"+spanA+"-01-", "a=1,a=2", "0", traceB[16:], spanB, "true")
	tel := traced(0.5)
	f.Fuzz(func(t *testing.T, parent, state, single, trace, span, sampled string) {
		h := headers("traceparent", parent, "tracestate", state, "b3", single, "X-B3-TraceId", trace, "X-B3-SpanId", span, "X-B3-Sampled", sampled)
		c := tel.Start(request(h), nil)
		id := c.Inject(h)
		if !isID(c.TraceID, 32) || !isID(c.SpanID, 16) || !isID(id, 16) || c.ParentID != "" && !isID(c.ParentID, 16) {
			t.Fatalf("ids %q %q %q %q", c.TraceID, c.SpanID, c.ParentID, id)
		}
		again := tel.Start(request(h), nil)
		if again.TraceID != c.TraceID || again.ParentID != id || again.Sampled != c.Sampled || again.state != c.state {
			t.Fatalf("the next hop reads %+v of %+v", again, c)
		}
		for _, name := range []string{"traceparent", "tracestate", "b3"} {
			if strings.ContainsFunc(h.Get(name), func(r rune) bool { return r < ' ' || r >= 0x7f }) || len(h.Get(name)) > maxState {
				t.Fatalf("%s: %q", name, h.Get(name))
			}
		}
	})
}

// TestWhatIsNotSampledCostsTwoAllocations: the header's text, of which the ids are parts, and the list that holds it.
func TestWhatIsNotSampledCostsTwoAllocations(t *testing.T) {
	tel, r := traced(0), request(headers("traceparent", "00-"+traceA+"-"+spanA+"-00"))
	if n := testing.AllocsPerRun(1000, func() { tel.Start(r, nil).Inject(r.Header) }); n > 2 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkStartAndInjectNotSampled(b *testing.B) {
	tel := traced(0)
	for name, h := range map[string]http.Header{
		"no parent": {}, "w3c parent": headers("traceparent", "00-"+traceA+"-"+spanA+"-00"),
	} {
		b.Run(name, func(b *testing.B) {
			r := request(h.Clone())
			b.ReportAllocs()
			for b.Loop() {
				tel.Start(r, nil).Inject(r.Header)
				if name == "no parent" {
					delete(r.Header, "Traceparent")
				}
			}
		})
	}
}
