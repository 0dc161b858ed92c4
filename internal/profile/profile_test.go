package profile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/profile"
)

// pprof's files are gzip.
var gzipMagic = []byte{0x1f, 0x8b}

func TestProfilesAreServedUntilStopped(t *testing.T) {
	dir := t.TempDir()
	stop, err := profile.Serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"heap", "cpu 10ms"} {
		got, err := profile.Fetch(t.Context(), dir, os.Getpid(), what)
		if err != nil || !bytes.HasPrefix(got, gzipMagic) {
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
	}
	if info, err := os.Stat(profile.Socket(dir, os.Getpid())); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	stop()
	if _, err := profile.Fetch(t.Context(), dir, os.Getpid(), "heap"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after it was stopped: %v", err)
	}
}

func TestWhatIsNoProfileIsRefused(t *testing.T) {
	dir := t.TempDir()
	stop, err := profile.Serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for _, what := range []string{"", "trace", "cpu", "cpu 0s", "cpu 1h", "cpu -1s", strings.Repeat("x", 100)} {
		if got, err := profile.Fetch(t.Context(), dir, os.Getpid(), what); err == nil {
			t.Errorf("%q: %d bytes", what, len(got))
		}
	}
}

// TestStopDoesNotWaitForALongProfile: an agent that is told to end does.
func TestStopDoesNotWaitForALongProfile(t *testing.T) {
	dir := t.TempDir()
	stop, err := profile.Serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for {
			if _, err := profile.Fetch(t.Context(), dir, os.Getpid(), "cpu 10m"); !inUse(err) {
				done <- err
				return
			}
		}
	}()
	for { // until that one is at it
		if _, err := profile.Fetch(t.Context(), dir, os.Getpid(), "cpu 1ms"); inUse(err) {
			break
		}
	}
	began := time.Now()
	stop()
	if err := <-done; err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

// inUse tells that another CPU profile is being taken.
func inUse(err error) bool { return err != nil && strings.Contains(err.Error(), "in use") }

// TestStopWaitsForNoClient: one that connects and says nothing keeps nobody.
func TestStopWaitsForNoClient(t *testing.T) {
	dir := t.TempDir()
	stop, err := profile.Serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", profile.Socket(dir, os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := profile.Fetch(t.Context(), dir, os.Getpid(), "heap"); err != nil { // the silent one was accepted before
		t.Fatal(err)
	}
	began := time.Now()
	stop()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestNoFolderServesNothing(t *testing.T) {
	stop, err := profile.Serve("")
	if err != nil {
		t.Fatal(err)
	}
	stop()
}
