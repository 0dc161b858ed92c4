package telemetry

import (
	"net/http"
	"strings"
)

// B3's headers, in canonical form: one, or one for each thing (github.com/openzipkin/b3-propagation).
const (
	b3Single  = "B3"
	b3Trace   = "X-B3-Traceid"
	b3Span    = "X-B3-Spanid"
	b3Parent  = "X-B3-Parentspanid"
	b3Sampled = "X-B3-Sampled"
	b3Flags   = "X-B3-Flags"
)

// b3Form is how B3 came, and so how it goes on.
type b3Form struct {
	single, multi bool
	debug         bool
	short         bool // its trace id has 16 digits
}

// b3 is what B3 headers say.
type b3 struct {
	origin origin
	form   b3Form
}

// b3Of reads both forms; the single header counts more, as B3 says.
func b3Of(h http.Header) (out b3) {
	single, multi := h[b3Single], h[b3Trace]
	out.form.single = len(single) > 0
	out.form.multi = len(multi) > 0 || len(h[b3Span]) > 0 || len(h[b3Sampled]) > 0 || len(h[b3Flags]) > 0
	if !out.form.single && !out.form.multi {
		return out
	}
	if read := out; len(single) == 1 && read.takeSingle(single[0]) {
		return read
	}
	out.takeMulti(h)
	return out
}

// takeSingle reads "<trace>-<span>[-<sampled>[-<parent>]]", or the decision alone.
func (b *b3) takeSingle(v string) bool {
	if len(v) > 32+1+16+1+1+1+16 {
		return false
	}
	if len(v) == 1 {
		return b.decide(v)
	}
	parts := strings.Split(v, "-")
	if len(parts) < 2 || len(parts) > 4 || len(parts) == 4 && !isID(parts[3], 16) {
		return false
	}
	if len(parts) > 2 && !b.decide(parts[2]) {
		return false
	}
	return b.ids(parts[0], parts[1])
}

func (b *b3) takeMulti(h http.Header) {
	switch {
	case one(h, b3Flags) == "1":
		b.decide("d")
	case one(h, b3Sampled) == "true":
		b.decide("1")
	case one(h, b3Sampled) == "false":
		b.decide("0")
	default:
		b.decide(one(h, b3Sampled))
	}
	b.ids(one(h, b3Trace), one(h, b3Span))
}

// one is a header's value if it has exactly one.
func one(h http.Header, name string) string {
	if v := h[name]; len(v) == 1 {
		return v[0]
	}
	return ""
}

func (b *b3) ids(trace, span string) bool {
	if !isID(span, 16) || !isID(trace, 16) && !isID(trace, 32) {
		return false
	}
	b.form.short = len(trace) == 16
	if b.form.short {
		trace = strings.Repeat("0", 16) + trace
	}
	b.origin.trace, b.origin.parent = trace, span
	return true
}

func (b *b3) decide(v string) bool {
	switch v {
	case "0":
		b.origin.decided = true
	case "1":
		b.origin.decided, b.origin.sampled = true, true
	case "d":
		b.origin.decided, b.origin.sampled, b.form.debug = true, true, true
	default:
		return false
	}
	return true
}

// inject writes the forms that came, about a span whose parent is the request's.
func (f b3Form) inject(h http.Header, c Context, span string) {
	if !f.single && !f.multi {
		return
	}
	trace, parent, decision := c.TraceID, c.SpanID, "0"
	if f.short && strings.HasPrefix(trace, "0000000000000000") {
		trace = trace[16:]
	}
	if span == parent {
		parent = c.ParentID
	}
	switch {
	case c.Sampled && f.debug:
		decision = "d"
	case c.Sampled:
		decision = "1"
	}
	if f.single {
		v := trace + "-" + span + "-" + decision
		if parent != "" {
			v += "-" + parent
		}
		h[b3Single] = []string{v}
	}
	if f.multi {
		f.injectMulti(h, [...]string{trace, span, parent, decision})
	}
}

func (f b3Form) injectMulti(h http.Header, v [4]string) {
	for _, name := range [...]string{b3Parent, b3Sampled, b3Flags} {
		delete(h, name)
	}
	h[b3Trace], h[b3Span] = []string{v[0]}, []string{v[1]}
	if v[2] != "" {
		h[b3Parent] = []string{v[2]}
	}
	if v[3] == "d" {
		h[b3Flags] = []string{"1"}
		return
	}
	h[b3Sampled] = []string{v[3]}
}
