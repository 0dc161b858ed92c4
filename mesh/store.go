package mesh

import (
	"sync"
	"sync/atomic"
)

// Store holds the current value of an immutable T. Any number of goroutines may read it; one writer swaps it.
type Store[T any] struct {
	current atomic.Pointer[T]

	mu      sync.Mutex
	changed chan struct{}
}

// NewStore returns a store that holds v.
func NewStore[T any](v *T) *Store[T] {
	s := &Store[T]{changed: make(chan struct{})}
	s.current.Store(v)
	return s
}

// Load returns the current value.
func (s *Store[T]) Load() *T { return s.current.Load() }

// Swap makes v current and wakes everybody who waits on Changed.
func (s *Store[T]) Swap(v *T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.Store(v)
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed returns a channel that is closed at the next Swap. To miss nothing, call Changed before Load.
func (s *Store[T]) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}
