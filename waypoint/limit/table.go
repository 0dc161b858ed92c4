package limit

import (
	"sync"
	"sync/atomic"
)

const (
	shards = 16
	// shared is how many buckets of a shard those share who find no room.
	shared = 64
	// examined is how many buckets are looked at for one that is full, and so can be given to somebody else.
	examined = 4
)

// table is the buckets of one limit.
type table struct {
	latest atomic.Int64 // when the last bucket will be full
	shards [shards]shard
}

// shard is a part of a table under a lock of its own.
type shard struct {
	max int

	mu      sync.Mutex
	index   map[uint64]int32
	buckets []bucket
	hand    int // of the clock that goes round the buckets in search of a full one
	shared  *[shared]int64
}

// bucket says when a client's will be full again, in unix nanoseconds.
type bucket struct {
	client uint64
	full   int64
}

func newTable(clients int) *table {
	t := &table{}
	for i := range t.shards {
		t.shards[i] = shard{max: max(clients/shards, 1), index: map[uint64]int32{}}
	}
	return t
}

// update changes when a client's bucket is full, which is never told as before now.
func (t *table) update(client uint64, now int64, change func(full int64) int64) {
	s := &t.shards[client%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.find(client, now)
	*at = change(max(*at, now))
	for latest := t.latest.Load(); *at > latest; latest = t.latest.Load() {
		if t.latest.CompareAndSwap(latest, *at) {
			break
		}
	}
}

// find returns a client's bucket. Caller holds mu.
func (s *shard) find(client uint64, now int64) *int64 {
	if i, ok := s.index[client]; ok {
		return &s.buckets[i].full
	}
	if len(s.buckets) < s.max {
		s.index[client] = int32(len(s.buckets))
		s.buckets = append(s.buckets, bucket{client: client})
		return &s.buckets[len(s.buckets)-1].full
	}
	for range examined {
		i := s.hand
		s.hand = (s.hand + 1) % len(s.buckets)
		if b := &s.buckets[i]; b.full <= now {
			delete(s.index, b.client)
			s.index[client] = int32(i)
			*b = bucket{client: client}
			return &b.full
		}
	}
	if s.shared == nil {
		s.shared = new([shared]int64)
	}
	return &s.shared[client/shards%shared]
}

// full tells whether all buckets are.
func (t *table) full(now int64) bool { return t.latest.Load() <= now }
