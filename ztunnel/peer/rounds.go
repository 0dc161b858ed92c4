package peer

import (
	"sync"
	"time"
)

// maxKeys bounds what is known of destinations. One that is forgotten gets a new tunnel next time, as no number of a round
// is used twice.
const maxKeys = 16384

// Rounds part the tunnels of a key, K, that were made with a certificate of either end that has expired since from later
// ones: a peer refuses new streams on them. New streams get a new tunnel, and an old one goes on with those that it has.
// Of the newest tunnel of a key it also keeps what the caller wants to know, V.
type Rounds[K comparable, V any] struct {
	mu    sync.Mutex
	by    map[K]round[V]
	given uint32 // the last number
}

// round is what is known of the tunnels that were dialled for a key and may still take new streams.
type round[V any] struct {
	number uint32
	// until is when the first certificate of either end of any of them expires; zero before the first is dialled.
	until  time.Time
	newest V
}

// NewRounds returns rounds of which none has begun.
func NewRounds[K comparable, V any]() *Rounds[K, V] {
	return &Rounds[K, V]{by: map[K]round[V]{}}
}

// Of returns the number of the round that a key's new streams belong to.
func (r *Rounds[K, V]) Of(key K, now time.Time) uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	it, ok := r.by[key]
	if !ok || !it.until.IsZero() && now.After(it.until) {
		r.given++
		it = round[V]{number: r.given}
		r.remember(key, it)
	}
	return it.number
}

// remember notes a key's round. Caller holds mu.
func (r *Rounds[K, V]) remember(key K, it round[V]) {
	for k := range r.by {
		if len(r.by) < maxKeys {
			break
		}
		delete(r.by, k)
	}
	r.by[key] = it
}

// Note remembers a tunnel that was dialled in a round, which takes streams until a time that LastStream gave.
func (r *Rounds[K, V]) Note(key K, number uint32, until time.Time, newest V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	it := r.by[key]
	if it.number != number {
		return // a straggler of an earlier round
	}
	it.newest = newest
	if it.until.IsZero() || until.Before(it.until) {
		it.until = until
	}
	r.by[key] = it
}

// Newest returns what was noted of a key's newest tunnel.
func (r *Rounds[K, V]) Newest(key K) V {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.by[key].newest
}

// Forget forgets the keys for which match returns true.
func (r *Rounds[K, V]) Forget(match func(K) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.by {
		if match(k) {
			delete(r.by, k)
		}
	}
}

// LastStream is when a tunnel shall take its last new stream, made of when the certificates of its ends expire: shortly
// before the first of them does, for the peer's clock may be ahead.
func LastStream(now, ours, peers time.Time) time.Time {
	end := ours
	if peers.Before(end) {
		end = peers
	}
	return end.Add(-min(end.Sub(now)/10, time.Minute))
}
