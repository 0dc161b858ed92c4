package upstream

import (
	"context"
	"errors"
	"time"
)

// ErrAway is wrapped by errors of Config.Dial, and of RoundTrip, if the agent of the endpoint's node is being replaced: in a
// moment the endpoint may be reached again.
var ErrAway = errors.New("nobody takes tunnels on the endpoint's node at the moment")

const (
	// maxAway is how long a request waits for the agent of a node that has none, as connections without a waypoint do.
	maxAway   = 4 * time.Second
	awayPause = 100 * time.Millisecond
)

// WhileAway tries until the error is not ErrAway, or has been for long, or ctx ends. It is for who has no other endpoint.
func WhileAway(ctx context.Context, try func() error) error {
	t := time.NewTicker(awayPause)
	defer t.Stop()
	for until := time.Now().Add(maxAway); ; {
		err := try()
		if !errors.Is(err, ErrAway) || time.Now().After(until) {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return err
		}
	}
}
