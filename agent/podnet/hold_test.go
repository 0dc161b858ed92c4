package podnet

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWhatIsDialledBetweenTwoAgentsWaitsForTheNext: nothing is refused, and nothing but the next agent gets it.
func TestWhatIsDialledBetweenTwoAgentsWaitsForTheNext(t *testing.T) {
	n := newPair(t)
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	n.relay(t)
	if err := n.capture.Hold(20 * time.Second); err != nil {
		t.Fatalf("%+v", err)
	}
	n.closePod()
	if err := n.capture.Close(); err != nil {
		t.Fatal(err)
	}
	type end struct {
		f    family
		took time.Duration
		err  error
	}
	ends := make(chan end, len(families))
	for _, f := range families {
		go func() {
			took, err := n.dialled(t, f)
			ends <- end{f, took, err}
		}()
	}
	time.Sleep(300 * time.Millisecond)
	select {
	case e := <-ends:
		t.Errorf("%s: %v after %s, while there is no agent", e.f.name, e.err, e.took)
		ends <- e
	default:
	}
	n.nextAgent(t)
	for range families {
		if e := <-ends; e.err != nil || e.took < 250*time.Millisecond {
			t.Errorf("%s: %v after %s", e.f.name, e.err, e.took)
		} else {
			t.Logf("%s: served after %s", e.f.name, e.took)
		}
	}
	for _, f := range families { // nothing is held where an agent listens
		if took, err := n.dialled(t, f); err != nil || took > 500*time.Millisecond {
			t.Errorf("%s: %v after %s although an agent listens", f.name, err, took)
		}
	}
}

// TestAConnectionIsHeldForItsTimeOnly: if no agent comes, the app hears that as without Hold; and once it is over.
func TestAConnectionIsHeldForItsTimeOnly(t *testing.T) {
	n := newPair(t)
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	if err := n.capture.Hold(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := n.capture.Hold(200 * time.Millisecond); err != nil { // in place of the first
		t.Fatal(err)
	}
	n.closePod()
	if took, err := n.dialled(t, families[0]); err != unix.ECONNREFUSED || took < 200*time.Millisecond {
		t.Errorf("%v after %s, want it refused when the time is over", err, took)
	}
	if err := n.capture.Hold(time.Minute); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing
		if err := n.capture.Unhold(); err != nil {
			t.Fatal(err)
		}
	}
	_, took, err := families[0].connect(t, n.a, n.b, tcpPort)
	checkRefused(t, "after Unhold", err, unix.ECONNREFUSED, took)
}

// dialled connects from pod a to pod b, asks who it is and tells how long that took.
func (n *node) dialled(t *testing.T, f family) (took time.Duration, err error) {
	start := time.Now()
	if rerr := n.a.Run(func() error {
		err = n.knockOnce(f)
		return nil
	}); rerr != nil {
		t.Error(rerr)
	}
	return time.Since(start), err
}

// nextAgent takes over what an agent left that has ended, and serves.
func (n *node) nextAgent(t *testing.T) {
	t.Helper()
	n.capture = n.openCapture(t)
	next, err := Open(context.Background(), n.thread, n.capture, Spec{Netns: n.a.Path})
	if err != nil {
		t.Fatal(err)
	}
	n.pod = next
	n.relay(t)
	if err := next.Enroll(); err != nil {
		t.Fatal(err)
	}
}
