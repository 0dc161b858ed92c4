package relay

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
)

// link is one agent's stream.
type link struct {
	node   string
	ctx    context.Context // the stream's
	cancel context.CancelCauseFunc
	out    chan *adminv1.RelayCall

	mu    sync.Mutex
	next  uint64
	calls map[uint64]*call
	ended bool
}

// call is one question that is under way.
type call struct {
	id      uint64
	replies chan *adminv1.RelayReply // closed when no more will come
	err     error                    // why it was closed early; set before that
}

// failure says why replies was closed before the call's end.
func (c *call) failure(l *link) error {
	if errors.Is(c.err, ErrSlowReader) {
		return status.Errorf(codes.ResourceExhausted, "node %s: %v", l.node, c.err)
	}
	return status.Errorf(codes.Unavailable, "node %s: %v", l.node, c.err)
}

// start registers a call and queues it.
func (l *link) start(method string, request []byte) (*call, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil, status.Errorf(codes.Unavailable, "node %s: %v", l.node, ErrNotConnected)
	}
	if len(l.calls) >= maxCalls {
		return nil, status.Errorf(codes.ResourceExhausted, "node %s: %v: %d are under way", l.node, ErrBusy, maxCalls)
	}
	c := &call{id: l.next + 1, replies: make(chan *adminv1.RelayReply, maxBuffered)}
	select {
	case l.out <- &adminv1.RelayCall{Id: c.id, Method: method, Request: request}:
	default:
		return nil, status.Errorf(codes.ResourceExhausted, "node %s: %v: it does not take them", l.node, ErrBusy)
	}
	l.next++
	l.calls[c.id] = c
	return c, nil
}

// stop forgets a call and, if the agent may still be at it, cancels it there.
func (l *link) stop(c *call) {
	l.mu.Lock()
	_, running := l.calls[c.id]
	delete(l.calls, c.id)
	l.mu.Unlock()
	if running {
		l.cancelCall(c.id)
	}
}

// cancelCall tells the agent to stop. An agent that does not take even that loses its stream, which ends the call too.
func (l *link) cancelCall(id uint64) {
	select {
	case l.out <- &adminv1.RelayCall{Id: id, Cancel: true}:
	default:
		l.cancel(errStuck)
	}
}

var errStuck = errors.New("the agent does not read its calls")

// send is the only sender on the stream. It returns when the stream ends.
func (l *link) send(stream adminv1.Relay_ConnectServer) error {
	for {
		select {
		case <-l.ctx.Done():
			switch cause := context.Cause(l.ctx); cause {
			case errReplaced, errStuck, errClosing:
				return status.Errorf(codes.Aborted, "relay: %v", cause)
			}
			return status.FromContextError(l.ctx.Err()).Err()
		case msg := <-l.out:
			if err := stream.Send(msg); err != nil {
				return err
			}
		}
	}
}

// receive hands replies to their calls until the stream ends.
func (l *link) receive(stream adminv1.Relay_ConnectServer) {
	for {
		r, err := stream.Recv()
		if err != nil {
			l.cancel(err)
			return
		}
		l.deliver(r)
	}
}

// deliver never waits: a reader that fell behind by maxBuffered answers is cut.
func (l *link) deliver(r *adminv1.RelayReply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[r.GetId()]
	if c == nil {
		return // it was stopped meanwhile
	}
	select {
	case c.replies <- r:
		if r.GetEnd() {
			delete(l.calls, c.id)
		}
	default:
		delete(l.calls, c.id)
		c.err = ErrSlowReader
		close(c.replies)
		l.cancelCall(c.id)
	}
}

// end closes every call that is under way.
func (l *link) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for id, c := range l.calls {
		c.err = ErrNotConnected
		close(c.replies)
		delete(l.calls, id)
	}
}
