package proxy

import (
	"context"
	"errors"
	"time"
)

// Causes of contexts' ends.
var (
	errRequestTimeout = errors.New("the route's timeout passed")
	errTryTimeout     = errors.New("the route's timeout for one try passed")
	errOver           = errors.New("the try is over")
)

// timeLimit is a context that ends after a time, unless the time is lifted: an upgraded connection has none.
type timeLimit struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer // nil: there is no limit
	until  time.Time
}

// begin begins a limit; 0 is none.
func (l *timeLimit) begin(ctx context.Context, d time.Duration, cause error) *timeLimit {
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	if d > 0 {
		l.until = time.Now().Add(d)
		l.timer = time.AfterFunc(d, func() { l.cancel(cause) })
	}
	return l
}

// lift lets what the context is for go on for as long as it likes.
func (l *timeLimit) lift() {
	if l != nil && l.timer != nil {
		l.timer.Stop()
	}
}

// end ends the context.
func (l *timeLimit) end() {
	if l != nil {
		l.lift()
		l.cancel(errOver)
	}
}

// leaves tells whether there is more time left than d.
func (l *timeLimit) leaves(d time.Duration) bool {
	return l == nil || l.timer == nil || time.Until(l.until) > d
}

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
