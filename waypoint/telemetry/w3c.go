package telemetry

import (
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/trace"
)

// maxState bounds a tracestate that is passed on: what W3C asks everyone to keep at least.
const maxState = 512

// traceparentOf reads the header of W3C Trace Context, level 2. Later versions are read as far as this one goes, as the
// specification says; two headers are as good as none.
func traceparentOf(h http.Header) (o origin, ok bool) {
	values := h["Traceparent"]
	if len(values) != 1 {
		return o, false
	}
	v := strings.Trim(values[0], " \t")
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return o, false
	}
	version, trace, parent, flags := v[:2], v[3:35], v[36:52], v[53:55]
	switch {
	case !isHex(version) || version == "ff",
		version == "00" && len(v) != 55,
		len(v) > 55 && v[55] != '-',
		!isID(trace, 32), !isID(parent, 16), !isHex(flags):
		return o, false
	}
	bits := nibble(flags[1])
	return origin{trace: trace, parent: parent, decided: true, sampled: bits&1 != 0, random: bits&2 != 0}, true
}

// tracestateOf returns the vendors' list if it is well formed. One that is too long loses its longest entries, then its
// oldest, which stand at the right.
func tracestateOf(h http.Header) string {
	values := h["Tracestate"]
	if len(values) == 0 {
		return ""
	}
	joined := strings.Join(values, ",")
	if len(joined) > 16*maxState {
		return ""
	}
	state, err := trace.ParseTraceState(joined)
	if err != nil {
		return ""
	}
	joined = state.String()
	if len(joined) <= maxState {
		return joined
	}
	var kept []string
	room := maxState
	for entry := range strings.SplitSeq(joined, ",") {
		if len(entry) > 128 {
			continue
		}
		if room -= len(entry) + 1; room < -1 {
			break
		}
		kept = append(kept, entry)
	}
	return strings.Join(kept, ",")
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// nibble is the value of a lower-case hex digit.
func nibble(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'a' + 10
}
