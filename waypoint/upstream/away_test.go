package upstream

import (
	"errors"
	"testing"
)

// TestWhoHasNoOtherEndpointWaitsForItsAgent, and who has is told at once; neither counts against the endpoint.
func TestWhoHasNoOtherEndpointWaitsForItsAgent(t *testing.T) {
	for _, tt := range protocols {
		t.Run(tt.name, func(t *testing.T) {
			f, ask := greeted(t, tt.http2)
			f.away.Store(3)
			if _, err := f.do(ask, get("/")); !errors.Is(err, ErrAway) || !errors.Is(err, ErrNotSent) {
				t.Errorf("error %v, want %v that was not sent", err, ErrAway)
			}
			ask.Patient = true
			if got, err := f.do(ask, get("/")); got != "hello" || err != nil {
				t.Errorf("answer %q, %v", got, err)
			}
			if n := f.dials.Load(); n != 4 {
				t.Errorf("dialled %d times, want 4", n)
			}
		})
	}
}

// TestNoRequestGoesByAConnectionThatIsAboutToEnd: its tunnel takes nothing new.
func TestNoRequestGoesByAConnectionThatIsAboutToEnd(t *testing.T) {
	for _, tt := range protocols {
		t.Run(tt.name, func(t *testing.T) {
			f, ask := greeted(t, tt.http2)
			for i, leave := range []int64{0, 0, 1, 1, 2} {
				f.leave.Store(leave)
				if got, err := f.do(ask, get("/")); got != "hello" || err != nil {
					t.Fatalf("answer %q, %v", got, err)
				}
				if n := f.dials.Load(); n != leave+1 {
					t.Errorf("request %d went by connection %d, want %d", i, n, leave+1)
				}
			}
			f.u.sweep(f.now())
			eventually(t, "the old connections are closed", func() bool {
				return f.metric("warren_waypoint_endpoint_connections", "") == 1
			})
		})
	}
}
