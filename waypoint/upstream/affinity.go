package upstream

import (
	"container/list"
	"sync"
	"time"
)

// maxAffinities bounds what is remembered of who stays with which endpoint. One takes about 300 bytes.
const maxAffinities = 16_384

// affinities remembers which endpoint a client had of a service that wants clients to stay (sessionAffinity ClientIP).
// Whoever is not remembered gets the endpoint with the highest hash: all replicas of a waypoint choose the same, and
// one that forgot, or never knew, mostly chooses the same again. Time runs from a client's last request.
type affinities struct {
	max int

	mu     sync.Mutex
	byKey  map[affinityKey]*list.Element
	recent list.List // of *affinity, the longest unused first
}

type affinityKey struct {
	group  groupKey
	client uint64
	v4     bool
}

type affinity struct {
	key   affinityKey
	peer  peerKey
	until time.Time
}

func newAffinities(most int) *affinities {
	return &affinities{max: most, byKey: map[affinityKey]*list.Element{}}
}

// settle returns the entry that the request's client stays with, of those that are usable.
func (a *affinities) settle(c *chooser, usable []*entry) *entry {
	client := c.ask.clientHash()
	key := affinityKey{c.g.key, client, c.ask.V4}
	until := c.now.Add(c.v.service.Affinity)
	a.mu.Lock()
	defer a.mu.Unlock()
	known := a.byKey[key]
	if known != nil && c.now.Before(known.Value.(*affinity).until) {
		for _, e := range usable {
			if e.peer.key == known.Value.(*affinity).peer {
				known.Value.(*affinity).until = until
				a.recent.MoveToBack(known)
				return e
			}
		}
	}
	e := highest(c.nearest(c.v.tier(c.ask.V4), usable), client)
	if known != nil {
		a.recent.MoveToBack(known)
		*known.Value.(*affinity) = affinity{key, e.peer.key, until}
		return e
	}
	for len(a.byKey) >= a.max {
		first := a.recent.Front()
		delete(a.byKey, first.Value.(*affinity).key)
		a.recent.Remove(first)
	}
	a.byKey[key] = a.recent.PushBack(&affinity{key, e.peer.key, until})
	return e
}
