package kube

import (
	"context"
	"sync"
)

// term is one replica's time as leader. It begins once, however often the lease is lost and taken again meanwhile.
type term struct {
	serve func(context.Context) error
	done  chan error // what serve returned; capacity 1

	mu     sync.Mutex
	cancel context.CancelCauseFunc // nil before it began
}

// begin runs serve, unless it runs already. wake is called when it has returned.
func (t *term) begin(ctx context.Context, wake func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel != nil {
		return
	}
	sctx, cancel := context.WithCancelCause(ctx)
	t.cancel = cancel
	go func() {
		err := t.serve(sctx)
		if cause := context.Cause(sctx); cause == ErrDeposed {
			err = ErrDeposed
		}
		t.done <- err
		wake()
	}()
}

// depose ends serve because another replica leads.
func (t *term) depose() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel != nil {
		t.cancel(ErrDeposed)
	}
}

// over tells whether serve has returned, and what.
func (t *term) over() (bool, error) {
	select {
	case err := <-t.done:
		t.done <- err
		return true, err
	default:
		return false, nil
	}
}

// end stops serve and waits for it.
func (t *term) end(cause error) error {
	t.mu.Lock()
	cancel := t.cancel
	t.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel(cause)
	err := <-t.done
	t.done <- err
	return err
}
