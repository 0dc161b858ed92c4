package upstream

import (
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/route"
)

// outlier is one endpoint's record of failures, for one group.
type outlier struct {
	failures atomic.Int32 // in a row
	until    atomic.Int64 // unix nanoseconds; left out before
	times    atomic.Int32 // how often it was left out, less the times that it did well for as long
}

// ejected tells whether the endpoint is left out.
func (o *outlier) ejected(now time.Time) bool { return o.until.Load() > now.UnixNano() }

const (
	defaultErrors      = 5
	defaultEjection    = 30 * time.Second
	defaultMaxEjection = 5 * time.Minute
	defaultPercent     = 10
)

// report tells how a request fared. An endpoint that failed often enough in a row is left out, for twice as long each
// time; one that comes back has one try.
func (g *group) report(e *entry, failed bool, settings *route.Outlier, now time.Time) (ejected bool) {
	o := &e.outlier
	if settings == nil {
		return false
	}
	if !failed {
		o.succeed(settings, now)
		return false
	}
	most := settings.ConsecutiveErrors
	if most <= 0 {
		most = defaultErrors
	}
	if o.failures.Add(1) < int32(most) || o.ejected(now) {
		return false
	}
	return g.eject(e, settings, now)
}

// succeed ends the row of failures, and forgives one ejection for each span that the last one lasted.
func (o *outlier) succeed(settings *route.Outlier, now time.Time) {
	if o.failures.Load() != 0 {
		o.failures.Store(0)
	}
	times := o.times.Load()
	if times == 0 {
		return
	}
	quiet := now.UnixNano() - o.until.Load()
	if quiet > int64(ejection(settings, int(times))) && o.times.CompareAndSwap(times, times-1) {
		o.until.Store(now.UnixNano())
	}
}

// ejection is how long the n-th lasts, from 1.
func ejection(settings *route.Outlier, n int) time.Duration {
	base, most := settings.BaseEjection, settings.MaxEjection
	if base <= 0 {
		base = defaultEjection
	}
	if most <= 0 {
		most = max(defaultMaxEjection, base)
	}
	d := base
	for range n - 1 {
		if d >= most {
			break
		}
		d *= 2
	}
	return min(d, most)
}

// eject leaves an endpoint out, unless too many would be: at least one may be, but never the last one.
func (g *group) eject(e *entry, settings *route.Outlier, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.view.Load()
	if v == nil || e.outlier.ejected(now) {
		return false
	}
	percent := settings.MaxEjectedPercent
	if percent <= 0 {
		percent = defaultPercent
	}
	for _, t := range [...]*tier{v.v4, v.v6} {
		if !t.mayLose(e.member, percent, now) {
			return false
		}
	}
	o := &e.outlier
	until := now.Add(ejection(settings, int(o.times.Add(1)))).UnixNano()
	// One more failure after its return is enough.
	most := settings.ConsecutiveErrors
	if most <= 0 {
		most = defaultErrors
	}
	o.failures.Store(int32(most - 1))
	o.until.Store(until)
	if g.ejectedUntil.Load() < until {
		g.ejectedUntil.Store(until)
	}
	return true
}

// mayLose tells whether a member may be left out of the tier.
func (t *tier) mayLose(m *member, percent int, now time.Time) bool {
	out, in := 0, false
	for _, e := range t.entries {
		if e.member == m {
			in = true
		} else if e.outlier.ejected(now) {
			out++
		}
	}
	n := len(t.entries)
	return !in || out+1 < n && (out == 0 || (out+1)*100 <= n*percent)
}
