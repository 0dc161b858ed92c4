// Package limit holds clients to the rates that TrafficPolicies allow. It counts for one waypoint pod by itself: with n
// replicas, a client that is spread over all of them gets up to n times the rate.
//
// The algorithm is GCRA, which is a token bucket told by one number a client: when its bucket will be full again. A
// client whose bucket is full needs no memory, so that forgetting it changes nothing, and nobody else is ever
// forgotten. If more are remembered than there is room for, those who come new share buckets: they may be held to less
// than their rate while somebody makes up names, but whoever makes them up wins nothing, and nobody's count begins
// anew.
//
// It owns nothing but its counts, reads no clock, and takes constant time.
package limit

import (
	"hash/maphash"
	"net/http"
	"sync"
	"time"

	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

const (
	// clients is how many clients of one limit are remembered before those who come new share buckets; a client takes
	// about 60 bytes.
	clients = 32_768
	// limits is how many limits are counted. Those that come new share one count above it.
	limits = 4096
	// tidyEvery is how often limits are looked for that nobody has used for so long that all buckets are full.
	tidyEvery = time.Minute
)

// Limiter counts requests. Its zero value is not usable: see New.
type Limiter struct {
	seed    maphash.Seed
	clients int

	mu     sync.RWMutex
	tables map[string]*table
	tidied time.Time
}

// New returns a limiter that has seen nothing.
func New() *Limiter { return sized(clients) }

func sized(clients int) *Limiter {
	return &Limiter{seed: maphash.MakeSeed(), clients: clients, tables: map[string]*table{}}
}

// Verdict is whether a request may pass, and what its client is told of the limit that says so: of the one that refused
// it, or the one that leaves it the fewest requests. Name is empty if no limit applies.
type Verdict struct {
	OK   bool
	Name string
	// Limit is how many requests a period has, Remaining how many may come at once after this one.
	Limit, Remaining int
	// Reset is in how long the next request may come, if this one may not; else in how long as many may come at once as
	// ever.
	Reset time.Duration
}

// Allow counts a request against all limits that apply to it. One that any of them refuses counts against none.
func (l *Limiter) Allow(t route.Traffic, c *exchange.Conn, r *http.Request, now time.Time) Verdict {
	verdict := Verdict{OK: true}
	for i := range t.RateLimits {
		rule := &t.RateLimits[i]
		if !rule.Applies(r) {
			continue
		}
		v := l.take(rule, c, r, now)
		if !v.OK {
			for j := range i {
				if before := &t.RateLimits[j]; before.Applies(r) {
					l.giveBack(before, c, r, now)
				}
			}
			return v
		}
		if verdict.Name == "" || v.Remaining < verdict.Remaining {
			verdict = v
		}
	}
	return verdict
}

// take takes one request out of a client's bucket.
func (l *Limiter) take(rule *route.RateLimit, c *exchange.Conn, r *http.Request, now time.Time) Verdict {
	v := Verdict{Name: nameOf(rule), Limit: int(rule.Requests)}
	p := paceOf(rule)
	if p.every == 0 { // no requests at all, or no period: nothing that could be counted is allowed
		v.Reset = rule.Period
		return v
	}
	at := l.table(keyOf(rule), now)
	at.update(l.clientOf(rule, c, r), now.UnixNano(), func(full int64) int64 {
		next := full + p.every
		if ahead := next - now.UnixNano(); ahead > p.burst {
			v.Reset = time.Duration(ahead - p.burst)
			return full
		}
		v.OK, v.Remaining, v.Reset = true, int((now.UnixNano()+p.burst-next)/p.every), time.Duration(next-now.UnixNano())
		return next
	})
	return v
}

// giveBack puts a request back that another limit refused.
func (l *Limiter) giveBack(rule *route.RateLimit, c *exchange.Conn, r *http.Request, now time.Time) {
	p := paceOf(rule)
	l.table(keyOf(rule), now).update(l.clientOf(rule, c, r), now.UnixNano(), func(full int64) int64 {
		return full - p.every
	})
}

// pace is a limit in nanoseconds: the time a request costs, and how much of it may be owed at once.
type pace struct{ every, burst int64 }

func paceOf(rule *route.RateLimit) pace {
	if rule.Requests == 0 || rule.Period <= 0 {
		return pace{}
	}
	every := max(int64(rule.Period)/int64(rule.Requests), 1)
	burst := int64(rule.Burst)
	if burst == 0 {
		burst = int64(rule.Requests)
	}
	return pace{every, every * burst}
}

// clientOf is whom a request counts for. Without the header, or without an identity, it counts for all who have none.
// Of several headers of the name the first counts.
func (l *Limiter) clientOf(rule *route.RateLimit, c *exchange.Conn, r *http.Request) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	_, _ = h.WriteString(keyOf(rule)) // for those that share a count
	switch {
	case rule.By == route.ByIdentity && c != nil:
		for _, s := range [...]string{c.Client.TrustDomain(), c.Client.Namespace(), c.Client.ServiceAccount()} {
			_, _ = h.WriteString(s)
			_ = h.WriteByte(0)
		}
	case rule.By == route.ByHeader:
		_, _ = h.WriteString(r.Header.Get(rule.Header))
	}
	return h.Sum64()
}

func nameOf(rule *route.RateLimit) string {
	if rule.Name != "" {
		return rule.Name
	}
	return rule.Key
}

func keyOf(rule *route.RateLimit) string {
	if rule.Key != "" {
		return rule.Key
	}
	return rule.Name
}

// table returns the counts of one limit.
func (l *Limiter) table(key string, now time.Time) *table {
	l.mu.RLock()
	t := l.tables[key]
	due := now.Sub(l.tidied) >= tidyEvery
	l.mu.RUnlock()
	if t != nil && !due {
		return t
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if due && now.Sub(l.tidied) >= tidyEvery {
		l.tidy(now)
	}
	if len(l.tables) >= limits && l.tables[key] == nil {
		key = "" // which no limit has
	}
	if t = l.tables[key]; t == nil {
		t = newTable(l.clients)
		l.tables[key] = t
	}
	return t
}

// tidy forgets limits all of whose buckets are full. Caller holds mu.
func (l *Limiter) tidy(now time.Time) {
	l.tidied = now
	for key, t := range l.tables {
		if t.full(now.UnixNano()) {
			delete(l.tables, key)
		}
	}
}
