// Package flowlog keeps the flows that a process recorded, tells who follows them of each new one, and finds those that
// somebody asks for: what agents and waypoints answer `agentctl flows` from.
//
// Flows are kept in a ring, newest last. A follower that reads too slowly loses flows, which is counted, and never holds
// up whoever records.
package flowlog

import (
	"context"
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

// Log is safe for concurrent use. Flows given to it must not change any more.
type Log struct {
	lost func()

	mu        sync.Mutex
	ring      []*adminv1.Flow // a circle
	next      int             // where the next goes once the ring is full
	followers map[chan *adminv1.Flow]struct{}
}

// New returns an empty log, which calls lost for each flow that a follower was too slow for.
func New(lost func()) *Log {
	return &Log{lost: lost, followers: map[chan *adminv1.Flow]struct{}{}}
}

// Add remembers a flow that has ended, and tells followers. It never waits for one.
func (l *Log) Add(f *adminv1.Flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < ringSize {
		l.ring = append(l.ring, f)
	} else {
		l.ring[l.next] = f
		l.next = (l.next + 1) % ringSize
	}
	l.tell(f)
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
	defer l.mu.Unlock()
	out := make([]*adminv1.Flow, 0, len(l.ring))
	out = append(out, l.ring[l.next:]...)
	return append(out, l.ring[:l.next]...)
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
