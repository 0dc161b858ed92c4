package manifest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// newLoop runs a watcher's loop on virtual time with events of our own.
func newLoop(t *testing.T, dir string) (events chan fsnotify.Event, results chan Result, stop func()) {
	w := NewWatcher(Config{Roots: []string{dir}}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	events, results = make(chan fsnotify.Event), make(chan Result, 100)
	done := make(chan error, 1)
	go func() { done <- w.loop(ctx, events, func() {}, func(r Result) { results <- r }) }()
	return events, results, func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("loop returned %v", err)
		}
	}
}

func TestBurstOfEventsIsOneReloadWithinTheSettleTime(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", podYAML("p", ""))
	synctest.Test(t, func(t *testing.T) {
		events, results, stop := newLoop(t, f.dir)
		defer stop()
		synctest.Wait()
		if len(results) != 1 {
			t.Fatalf("%d first results", len(results))
		}
		<-results
		start := time.Now()
		f.write("a.yaml", podYAML("q", ""))
		for range 50 { // an event every 10 ms for half a second must not put the reload off
			events <- fsnotify.Event{Name: filepath.Join(f.dir, "a.yaml"), Op: fsnotify.Write}
			if len(results) > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		r := <-results
		if took := time.Since(start); names(r) != "q" || took < 100*time.Millisecond || took > 120*time.Millisecond {
			t.Errorf("reloaded %q after %v", names(r), took)
		}
		synctest.Wait()
		if len(results) != 0 {
			t.Errorf("%d more results", len(results))
		}
	})
}

func TestWithoutEventsARescanFindsTheChange(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", podYAML("p", ""))
	synctest.Test(t, func(t *testing.T) {
		_, results, stop := newLoop(t, f.dir)
		defer stop()
		<-results
		start := time.Now()
		f.write("a.yaml", podYAML("q", ""))
		r := <-results
		if took := time.Since(start); names(r) != "q" || took > 10*time.Second {
			t.Errorf("found %q after %v", names(r), took)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(results) != 0 {
			t.Error("results without a change")
		}
	})
}

// Through the kernel's own notification: long before the rescan.
func TestReplacedRootIsSeen(t *testing.T) {
	f := newFolder(t)
	f.write("v1/a.yaml", podYAML("p", ""))
	f.write("v2/a.yaml", podYAML("q", ""))
	root := filepath.Join(f.dir, "root")
	if err := os.Symlink("v1", root); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan Result, 100)
	done := make(chan error, 1)
	w := NewWatcher(Config{Roots: []string{root}, Rescan: time.Hour}, slog.New(slog.DiscardHandler))
	go func() { done <- w.Run(ctx, func(r Result) { results <- r }) }()
	defer func() { cancel(); <-done }()
	if got := names(<-results); got != "p" {
		t.Fatalf("loaded %q", got)
	}
	if err := os.Symlink("v2", root+".tmp"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(root+".tmp", root); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-results:
		if names(r) != "q" {
			t.Errorf("loaded %q", names(r))
		}
	case <-time.After(10 * time.Second):
		t.Error("the replaced root was not noticed")
	}
}
