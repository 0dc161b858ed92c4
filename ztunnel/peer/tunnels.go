package peer

import (
	"sync"
	"time"

	"github.com/warren-mesh/warren/identity"
)

// Tunnels are those that are up, each T one of them.
type Tunnels[T comparable] struct {
	bundle identity.GetBundle

	mu     sync.Mutex
	live   map[T]Proof
	judged *identity.Bundle // that all of live were last judged by
}

// NewTunnels returns an empty set; bundle gives the trust bundle in force.
func NewTunnels[T comparable](bundle identity.GetBundle) *Tunnels[T] {
	return &Tunnels[T]{bundle: bundle, live: map[T]Proof{}}
}

// Add makes a tunnel known until Remove. `before` is the bundle from before its handshake: one that came since may have
// missed the tunnel, so it is asked here. After an error the tunnel is not known.
func (s *Tunnels[T]) Add(t T, p Proof, before *identity.Bundle) error {
	s.mu.Lock()
	s.live[t] = p
	s.mu.Unlock()
	now := s.bundle()
	if now == before {
		return nil
	}
	err := p.vouched(now, time.Now())
	if err != nil {
		s.Remove(t)
	}
	return err
}

// Remove forgets a tunnel.
func (s *Tunnels[T]) Remove(t T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, t)
}

// Distrusted returns the tunnels whose peer the bundle in force no longer vouches for. They stay known until they are
// removed; the same bundle is not asked twice.
func (s *Tunnels[T]) Distrusted() (ended []T) {
	bundle, now := s.bundle(), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if bundle == s.judged {
		return nil // whatever is newer was judged by Add
	}
	s.judged = bundle
	for t, p := range s.live {
		if p.vouched(bundle, now) != nil {
			ended = append(ended, t)
		}
	}
	return ended
}

// All returns the tunnels that are up.
func (s *Tunnels[T]) All() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]T, 0, len(s.live))
	for t := range s.live {
		all = append(all, t)
	}
	return all
}

// Len is how many are up.
func (s *Tunnels[T]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}
