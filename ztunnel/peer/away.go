package peer

import (
	"context"
	"time"
)

const (
	// maxAway is how long a connection waits for the agent of a node that has none, as the node's own pods do: it is being
	// replaced, and who is dialled has lost nothing but that.
	maxAway   = 4 * time.Second
	awayPause = 100 * time.Millisecond
)

// WhileAway tries at least once, and again for as long as the agent that is dialled is away: not for ever, and not after
// ctx. It is for who has no other endpoint left.
func WhileAway(ctx context.Context, try func() (away bool)) {
	for until := time.Now().Add(maxAway); try() && time.Now().Before(until) && pause(ctx, awayPause); {
	}
}

// pause waits, and tells whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
