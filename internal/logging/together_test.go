package logging

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// writes keeps what each Write got.
type writes struct {
	mu  sync.Mutex
	got []string
}

func (w *writes) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, string(b))
	return len(b), nil
}

func newLogger(t *testing.T, format string) (*slog.Logger, *writes) {
	t.Helper()
	w := &writes{}
	log, err := New(w, "info", format)
	if err != nil {
		t.Fatal(err)
	}
	return log, w
}

func TestTogether(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			log, w := newLogger(t, format)
			log.Info("before")
			Together(log.With("node", "n1").WithGroup("g").Handler(), func() {
				for i := range 5 {
					log.Info("line", "n", i)
				}
				log.With("pod", "a").Warn("another's")
				if len(w.got) != 1 {
					t.Errorf("%d writes before it returned, want 1", len(w.got))
				}
			})
			log.Info("after")
			if len(w.got) != 3 {
				t.Fatalf("%d writes, want 3: %q", len(w.got), w.got)
			}
			lines := strings.Split(strings.TrimSpace(w.got[1]), "\n")
			if len(lines) != 6 || !strings.Contains(lines[5], "another's") || !strings.Contains(lines[4], "4") {
				t.Errorf("lines are not whole or in order: %q", lines)
			}
		})
	}
}

// TestTogetherIsBounded: what does not fit into one write that nobody's lines get into goes before, and in order.
func TestTogetherIsBounded(t *testing.T) {
	log, w := newLogger(t, "text")
	long := strings.Repeat("x", maxTogether)
	Together(log.Handler(), func() {
		for i := range 100 {
			log.Info(fmt.Sprintf("line %d", i), "pad", long[:100])
		}
		log.Info("longer than a write", "pad", long)
		log.Info("last")
	})
	all := strings.Join(w.got, "")
	if n := strings.Count(all, "\n"); n != 102 {
		t.Errorf("%d lines, want 102", n)
	}
	for i, b := range w.got {
		if !strings.HasSuffix(b, "\n") || !strings.HasPrefix(b, "time=") {
			t.Errorf("write %d is not of whole lines", i)
		}
		if len(b) > maxTogether && strings.Count(b, "\n") > 1 {
			t.Errorf("write %d has %d bytes", i, len(b))
		}
	}
	if !strings.HasSuffix(strings.TrimSpace(all), "msg=last") || len(w.got) > 10 {
		t.Errorf("%d writes, the last one %q", len(w.got), w.got[len(w.got)-1])
	}
}

// TestTogetherAtOnce: several may hold, and a line that comes from elsewhere is not lost.
func TestTogetherAtOnce(t *testing.T) {
	log, w := newLogger(t, "text")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				Together(log.Handler(), func() { log.Info("one"); log.Info("two") })
				log.Info("three")
			}
		})
	}
	all.Wait()
	if n := strings.Count(strings.Join(w.got, ""), "\n"); n != 8*50*3 {
		t.Errorf("%d lines, want %d", n, 8*50*3)
	}
}

func TestTogetherWithAnotherHandler(t *testing.T) {
	called := false
	Together(slog.DiscardHandler, func() { called = true })
	if !called {
		t.Error("it was not called")
	}
}

// failing fails the first write.
type failing struct {
	writes
	failed bool
}

func (f *failing) Write(b []byte) (int, error) {
	if !f.failed {
		f.failed = true
		return 0, errors.New("no space left on device")
	}
	return f.writes.Write(b)
}

// TestTogetherAfterAnError: what cannot be written is dropped, and what comes after is not.
func TestTogetherAfterAnError(t *testing.T) {
	w := &failing{}
	log, err := New(w, "info", "text")
	if err != nil {
		t.Fatal(err)
	}
	Together(log.Handler(), func() {
		log.Info("kept", "pad", strings.Repeat("x", maxTogether/2))
		log.Info("next", "pad", strings.Repeat("x", maxTogether/2))
	})
	if all := strings.Join(w.got, ""); strings.Count(all, "\n") != 1 || !strings.Contains(all, "msg=next") {
		t.Errorf("wrote %q", w.got)
	}
}
