package proxy

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

const (
	// maxFree is how many more tries a request has that was never sent, whatever its route says.
	maxFree = 2
	// defaultBackoff is the least time before a route's first retry if it says none; maxBackoff bounds its doubling.
	defaultBackoff = 25 * time.Millisecond
	maxBackoff     = 10 * time.Second
	// maxDiscard is how much of an answer that is not good enough is read to keep its connection.
	maxDiscard = 16 << 10
)

// tryTimeout is the route's for one try, 0 if it has none.
func (x *passage) tryTimeout() time.Duration {
	if x.hit.Rule == nil {
		return 0
	}
	return x.hit.Rule.BackendTimeout
}

// again tells whether there is another try, and waits until it is due.
//
// A request that cannot have reached an app is tried elsewhere, twice at most, whatever the route says: a pod that goes
// away costs nobody anything. One that may have reached an app is only sent again if the route says so, for what it
// says: its codes, and no answer at all, but neither denials nor the route's own timeout. It does not matter whether the
// method is idempotent: whoever writes a route for POST means it.
func (x *passage) again(t *try) bool {
	if t.final || !x.wants(t) {
		return false
	}
	free := !t.sent && x.free < maxFree
	wait := time.Duration(0)
	if !free {
		n := len(x.rec.Tries) - 1 - x.free
		if x.hit.Rule == nil || x.hit.Rule.Retry == nil || n >= x.hit.Rule.Retry.Attempts {
			return false
		}
		if wait = x.backoff(n); !x.limits.leaves(wait) || !x.p.cfg.Upstreams.MayRetry(x.serviceName()) {
			return false
		}
	}
	if x.body != nil && !x.body.repeatable() {
		return false
	}
	x.discard(t)
	if err := sleep(x.ctx, wait); err != nil {
		x.failed(t, err)
		return false
	}
	if free {
		x.free++
	}
	return true
}

// wants tells whether a try's end is one to be tried again.
func (x *passage) wants(t *try) bool {
	if t.answer == nil {
		return true
	}
	if x.hit.Rule == nil || x.hit.Rule.Retry == nil {
		return false
	}
	return slices.Contains(x.hit.Rule.Retry.Codes, statusOf(t.answer, x.asked.grpc))
}

// statusOf is an answer's HTTP status; for a gRPC answer of a header only that which its gRPC status counts as.
func statusOf(r *http.Response, grpc bool) int {
	if value := r.Header.Get("Grpc-Status"); grpc && value != "" && r.StatusCode == http.StatusOK {
		if n, err := strconv.Atoi(value); err == nil {
			return httpStatusOf(n)
		}
	}
	return r.StatusCode
}

// backoff is how long the route waits before its retry n, from 0: at least what it says, doubled each time, and up to
// half as long again so that clients do not come back together.
func (x *passage) backoff(n int) time.Duration {
	base := x.hit.Rule.Retry.Backoff
	if base <= 0 {
		base = defaultBackoff
	}
	base = min(base<<min(n, 16), max(maxBackoff, base))
	return base + time.Duration(uint64(base/2)*uint64(x.p.random())>>32)
}

// discard gives up a try's answer.
func (x *passage) discard(t *try) {
	if t.answer == nil {
		return
	}
	if n := t.answer.ContentLength; n >= 0 && n <= maxDiscard {
		_, _ = io.CopyN(io.Discard, t.answer.Body, n)
	}
	_ = t.answer.Body.Close()
	t.limits.end()
	t.answer = nil
}

func (x *passage) serviceName() string {
	if x.to.service == nil {
		return ""
	}
	return x.to.service.FullName()
}

// repeatable tells whether all that was read of the body is still there.
func (b *body) repeatable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = nil
	return !b.lost && (b.end == nil || b.end == io.EOF)
}

// abort ends the client's stream so that nobody takes what was sent for a whole answer.
func (x *passage) abort(outcome exchange.Outcome, why string) {
	x.rec.Outcome, x.rec.Detail = outcome, why
	x.reset()
	panic(http.ErrAbortHandler)
}
