package telemetry

import (
	"math/rand/v2"
	"net/http"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

// Context is one request's place in its trace. The zero value is of no trace, and injects nothing.
type Context struct {
	// TraceID (32 hex digits) and SpanID (16) are the request's span's at the waypoint. ParentID is that of whoever asked,
	// empty if it said nothing.
	TraceID, SpanID, ParentID string
	Sampled                   bool

	// header is the traceparent that names the request's span; TraceID and SpanID are parts of it.
	header string
	state  string // tracestate, checked
	b3     b3Form
	// silent: this waypoint writes no spans, so that its span must be nobody's parent, and the headers stay as they came.
	silent bool
}

// origin is what a request's headers say about its trace.
type origin struct {
	trace, parent string // empty if there is no usable parent
	decided       bool
	sampled       bool
	random        bool // the trace id's right half is random: the flag of W3C Trace Context, level 2
	state         string
	b3            b3Form
}

// originOf reads the headers. W3C's count if they are well formed, else B3's; what is not well formed is as if it were not there.
func originOf(h http.Header) origin {
	b3 := b3Of(h)
	o, ok := traceparentOf(h)
	if !ok {
		o = b3.origin
	} else {
		o.state = tracestateOf(h)
	}
	o.b3 = b3.form
	return o
}

// place decides where a request belongs: into its parent's trace; else, if it is the first of its connection, into the
// connection's, which the flows of ztunnel have too; else into one of its own, because a connection may carry millions.
func (t *Telemetry) place(h http.Header, c *exchange.Conn) Context {
	o := originOf(h)
	out := Context{ParentID: o.parent, state: o.state, b3: o.b3, silent: !t.tracing}
	trace := o.trace
	first := c != nil && c.Begin() == 1
	switch {
	case trace != "":
	case first && isID(c.TraceID, 32):
		trace = c.TraceID
	}
	var b [55]byte
	copy(b[:], "00-")
	if trace != "" {
		copy(b[3:], trace)
	} else {
		hexOf(b[3:19], random())
		hexOf(b[19:35], random())
	}
	b[35], b[52], b[53] = '-', '-', '0'
	hexOf(b[36:52], random())
	out.Sampled = o.sampled
	if !o.decided {
		out.Sampled = t.tracing && sampledBy(t.bound, b[19:35])
	}
	b[54] = flags(out.Sampled, o.random)
	out.header = string(b[:])
	out.TraceID, out.SpanID = out.header[3:35], out.header[36:52]
	return out
}

func flags(sampled, random bool) byte {
	f := byte('0')
	if sampled {
		f++
	}
	if random {
		f += 2
	}
	return f
}

// Inject puts what the endpoint of one try is to take for its parent into the headers of the request to it, and returns
// that span's id, which belongs into [exchange.Try]. Call it once for each try. Baggage is not its business.
func (c Context) Inject(h http.Header) (spanID string) {
	if c.Silent() {
		return ""
	}
	header, span := c.header, c.SpanID
	if c.Sampled {
		var b [55]byte
		copy(b[:], c.header)
		hexOf(b[36:52], random())
		header = string(b[:])
		span = header[36:52]
	}
	h["Traceparent"] = []string{header}
	if c.state != "" {
		h["Tracestate"] = []string{c.state}
	} else {
		delete(h, "Tracestate")
	}
	c.b3.inject(h, c, span)
	return span
}

// Silent tells that Inject changes nothing.
func (c Context) Silent() bool { return c.silent || c.header == "" }

// Describe notes the request's place in its record.
func (c Context) Describe(r *exchange.Record) {
	r.TraceID, r.SpanID, r.ParentID, r.Sampled = c.TraceID, c.SpanID, c.ParentID, c.Sampled
}

// boundOf is the ratio in the form that sampledBy takes.
func boundOf(ratio float64) uint64 {
	if ratio >= 1 {
		return 1 << 63
	}
	return uint64(max(ratio, 0) * (1 << 63))
}

// sampledBy decides from the right half of a trace id, as OpenTelemetry's TraceIdRatioBased does, so that everyone who asks
// for the same ratio decides the same.
func sampledBy(bound uint64, half []byte) bool {
	var n uint64
	for _, c := range half {
		n = n<<4 | uint64(nibble(c))
	}
	return n>>1 < bound
}

// random returns 64 random bits that are not all 0.
func random() uint64 {
	for {
		if n := rand.Uint64(); n != 0 {
			return n
		}
	}
}

// hexOf writes 16 hex digits.
func hexOf(to []byte, n uint64) {
	const digits = "0123456789abcdef"
	for i := range 16 {
		to[i] = digits[n>>(60-4*i)&15]
	}
}

// isID tells whether s is n lower-case hex digits, not all 0.
func isID(s string, n int) bool {
	if len(s) != n {
		return false
	}
	zero := true
	for i := range len(s) {
		switch c := s[i]; {
		case c == '0':
		case '1' <= c && c <= '9', 'a' <= c && c <= 'f':
			zero = false
		default:
			return false
		}
	}
	return !zero
}
