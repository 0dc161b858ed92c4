package coalesce

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
)

// sink takes a write for each time it is let, and keeps them apart.
type sink struct {
	let    chan struct{} // nil: always
	mu     sync.Mutex
	writes [][]byte
	err    error
}

func (s *sink) Write(b []byte) (int, error) {
	if s.let != nil {
		<-s.let
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.writes = append(s.writes, bytes.Clone(b))
	return len(b), nil
}

func (s *sink) fail(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
}

func TestWhatComesInARowIsOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{let: make(chan struct{})}
		w := NewWriter(s)
		write(t, w, "first ")
		synctest.Wait() // the sink has it
		for i := range 10 {
			write(t, w, fmt.Sprint(i))
		}
		s.let <- struct{}{}
		s.let <- struct{}{}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s", s.writes); got != "[first  0123456789]" {
			t.Errorf("written: %s", got)
		}
	})
}

func TestNothingIsLostOrChangesPlacesOfManyWriters(t *testing.T) {
	const writers, each = 8, 2000
	s := &sink{}
	w := NewWriter(s)
	var all sync.WaitGroup
	for id := range writers {
		all.Go(func() {
			for i := range each {
				write(t, w, fmt.Sprintf("%d %d\n", id, i))
			}
		})
	}
	all.Wait()
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	var next [writers]int
	for line := range bytes.Lines(bytes.Join(s.writes, nil)) {
		var id, i int
		if _, err := fmt.Sscanf(string(line), "%d %d\n", &id, &i); err != nil || i != next[id] {
			t.Fatalf("%q, want %d of this writer's: %v", line, next[id], err)
		}
		next[id]++
	}
	for id, n := range next {
		if n != each {
			t.Errorf("writer %d: %d lines of %d", id, n, each)
		}
	}
}

func TestWhoWritesTooMuchWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{let: make(chan struct{})}
		w := NewWriter(s)
		taken := 0
		go func() {
			for range 8 {
				_, _ = w.Write(make([]byte, maxWaiting/2))
				taken++
			}
		}()
		synctest.Wait()
		if taken < 3 || taken > 4 { // one or two are being written, two wait
			t.Errorf("%d writes were taken while none is written, want 3 or 4", taken)
		}
		close(s.let)
		synctest.Wait()
		total := 0
		for _, b := range s.writes {
			total += len(b)
		}
		if taken != 8 || total != 4*maxWaiting {
			t.Errorf("%d writes taken, %d bytes written, want 8 and %d", taken, total, 4*maxWaiting)
		}
		if len(w.waiting)+cap(w.waiting)+cap(w.spare) > 2*maxKept {
			t.Errorf("an idle writer keeps %d and %d bytes", cap(w.waiting), cap(w.spare))
		}
	})
}

func TestOneThatIsLargerThanAllThatMayWaitIsTaken(t *testing.T) {
	s := &sink{}
	w := NewWriter(s)
	write(t, w, string(make([]byte, 3*maxWaiting)))
	if err := w.Flush(); err != nil || len(s.writes) != 1 || len(s.writes[0]) != 3*maxWaiting {
		t.Errorf("%d writes, %v", len(s.writes), err)
	}
}

func TestAnErrorIsSaidToAllWhoComeLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("gone")
		s := &sink{let: make(chan struct{})}
		w := NewWriter(s)
		write(t, w, "to be lost")
		synctest.Wait()
		waits := make(chan error, 3)
		for range 3 {
			go func() { // the first waits for its turn, the others for room
				_, err := w.Write(make([]byte, maxWaiting))
				waits <- err
			}()
		}
		synctest.Wait()
		s.fail(gone)
		close(s.let)
		synctest.Wait()
		var told int
		for range 3 {
			if errors.Is(<-waits, gone) {
				told++
			}
		}
		if told != 2 {
			t.Errorf("%d of those who waited were told", told)
		}
		if _, err := w.Write([]byte("x")); !errors.Is(err, gone) {
			t.Errorf("Write: %v", err)
		}
		if err := w.Flush(); !errors.Is(err, gone) {
			t.Errorf("Flush: %v", err)
		}
	})
}

func write(t *testing.T, w *Writer, text string) {
	t.Helper()
	if n, err := w.Write([]byte(text)); n != len(text) || err != nil {
		t.Errorf("Write: %d, %v", n, err)
	}
}
