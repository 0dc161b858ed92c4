// Package fault decides which requests are disturbed on purpose. It is pure: whoever asks draws the lots, waits and
// answers.
package fault

import (
	"net/http"
	"time"

	"github.com/warren-mesh/warren/route"
)

// Of returns how long a request is to wait, and with which status it is to be answered instead of being sent on; 0 is
// neither. n1 and n2 are two random numbers, over their whole range: one lot for the delay, one for the abort, so that
// one of them says nothing about the other.
func Of(t route.Traffic, r *http.Request, n1, n2 uint32) (delay time.Duration, abort int) {
	f := t.Fault
	if f == nil || !f.Applies(r) {
		return 0, 0
	}
	if drawn(n1, f.DelayPerMyriad) && f.Delay > 0 {
		delay = f.Delay
	}
	if drawn(n2, f.AbortPerMyriad) {
		abort = f.AbortStatus
	}
	return delay, abort
}

// drawn tells whether a random number falls into some parts of 10,000.
func drawn(n, perMyriad uint32) bool {
	const myriad = 10_000
	return uint64(n)*myriad>>32 < uint64(perMyriad)
}
