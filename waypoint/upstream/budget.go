package upstream

import (
	"sync"
	"time"

	"github.com/warren-mesh/warren/route"
)

const (
	// budgetWindow is over how many seconds retries are compared with requests.
	budgetWindow = 10
	// defaultRetryPercent and defaultMinRetries hold where no TrafficPolicy says otherwise.
	defaultRetryPercent = 20
	defaultMinRetries   = 10
)

// budget keeps retries to a part of the requests of the last seconds, so that a service that fails is not buried under
// them; and allows a few a second, so that one that is seldom asked gets its retries too.
type budget struct {
	mu      sync.Mutex
	percent int
	min     int // a second
	given   bool
	last    int64 // the second that the last slot counts
	slots   [budgetWindow]struct{ requests, retries int }
}

// request counts a request, and takes the settings of its policies. The last one's hold: MayRetry does not say which
// request it is for.
func (b *budget) request(r *route.RetryBudget, retry bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.given = r != nil; b.given {
		b.percent, b.min = r.Percent, r.MinRetriesPerSecond
	}
	if !retry {
		b.turn(now)
		b.slots[b.last%budgetWindow].requests++
	}
}

// retry takes one retry out; false if there is none left.
func (b *budget) retry(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	percent, least := defaultRetryPercent, defaultMinRetries
	if b.given {
		percent, least = b.percent, b.min
	}
	requests, retries := 0, 0
	for _, s := range b.slots {
		requests, retries = requests+s.requests, retries+s.retries
	}
	slot := &b.slots[b.last%budgetWindow]
	if slot.retries >= least && (retries+1)*100 > requests*percent {
		return false
	}
	slot.retries++
	return true
}

// turn empties the slots of seconds that have begun since. Caller holds mu.
func (b *budget) turn(now time.Time) {
	second := now.Unix()
	b.last = max(b.last, second-budgetWindow)
	for b.last < second {
		b.last++
		b.slots[b.last%budgetWindow] = struct{ requests, retries int }{}
	}
}
