// Package flowlog keeps the flows that a process recorded, tells who follows them of each new one, and finds those that
// somebody asks for: what agents and waypoints answer `agentctl flows` from.
//
// Flows are kept in a ring, newest last. A follower that reads too slowly loses flows, which is counted, and never holds
// up whoever records.
package flowlog

import (
	"context"
	"slices"
	"sync"

	"github.com/warren-mesh/warren/api/adminv1"
)

const (
	// ringSize is how many flows are remembered: about 1 KiB each, of requests 2.
	ringSize = 4096
	// followBuffer is how many flows a follower may lag behind.
	followBuffer = 1024
	// maxFollowers bounds who follows at once.
	maxFollowers = 32
)

// Source is what a flow can be made of, at any time and by anybody. It must not change.
type Source interface{ Flow() *adminv1.Flow }

// made is a flow that was made already.
type made struct{ flow *adminv1.Flow }

// Flow returns it.
func (m made) Flow() *adminv1.Flow { return m.flow }

// Log is safe for concurrent use. Flows given to it must not change any more.
type Log struct {
	lost func()

	mu        sync.Mutex
	ring      []Source // a circle
	next      int      // where the next goes once the ring is full
	followers map[chan *adminv1.Flow]struct{}
}

// New returns an empty log, which calls lost for each flow that a follower was too slow for.
func New(lost func()) *Log {
	return &Log{lost: lost, followers: map[chan *adminv1.Flow]struct{}{}}
}

// Add remembers a flow that has ended, and tells followers. It never waits for one.
func (l *Log) Add(f *adminv1.Flow) { l.AddSource(made{f}) }

// AddSource is Add of a flow that is made when somebody asks: most are forgotten before.
func (l *Log) AddSource(s Source) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < ringSize {
		l.ring = append(l.ring, s)
	} else {
		l.ring[l.next] = s
		l.next = (l.next + 1) % ringSize
	}
	if len(l.followers) > 0 {
		l.tell(s.Flow())
	}
}

// Followed tells whether anybody follows.
func (l *Log) Followed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.followers) > 0
}

// Tell tells followers of a flow that has not ended yet.
func (l *Log) Tell(f *adminv1.Flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell(f)
}

func (l *Log) tell(f *adminv1.Flow) {
	for ch := range l.followers {
		select {
		case ch <- f:
		default:
			l.lost()
		}
	}
}

// Ended returns the flows that were added, oldest first.
func (l *Log) Ended() []*adminv1.Flow {
	l.mu.Lock()
	sources := append(slices.Clone(l.ring[l.next:]), l.ring[:l.next]...)
	l.mu.Unlock()
	out := make([]*adminv1.Flow, 0, len(sources))
	for _, s := range sources {
		out = append(out, s.Flow())
	}
	return out
}

// Follow returns the flows from now on, until ctx ends. It returns false if too many follow already.
func (l *Log) Follow(ctx context.Context) (<-chan *adminv1.Flow, bool) {
	ch := make(chan *adminv1.Flow, followBuffer)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.followers) >= maxFollowers {
		return nil, false
	}
	l.followers[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.followers, ch)
		close(ch)
	})
	return ch, true
}
