package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/upstream"
)

// try is one attempt: an endpoint, and its answer or why there is none.
type try struct {
	pick   *upstream.Pick
	limits *timeLimit // own, once it has begun
	own    timeLimit
	inform informer
	answer *http.Response
	no     *refusal
	// sent is false if the endpoint cannot have worked on the request.
	sent bool
	// final is true if another try would not end better.
	final bool
}

// forward has the request answered by the backend, in as many tries as it may have.
func (x *passage) forward() *refusal {
	out, err := x.outgoing()
	if err != nil {
		return broken("the rewritten path cannot be sent: " + err.Error())
	}
	x.send = out
	x.openBody()
	x.announceTrailers()
	x.mirror()
	for {
		t := x.try()
		if x.again(t) {
			continue
		}
		if t.no != nil {
			t.limits.end()
			return t.no
		}
		return x.giveBack(t)
	}
}

// announceTrailers copies the names of the trailers that the client announced.
func (x *passage) announceTrailers() {
	for name := range x.in.Trailer {
		if proved(name) || name == "Host" || name == "Authorization" {
			continue
		}
		if x.send.Trailer == nil {
			x.send.Trailer = http.Header{}
		}
		x.send.Trailer[name] = nil
	}
}

// try makes one attempt.
func (x *passage) try() *try {
	t := &try{}
	var err error
	if t.pick, err = x.p.cfg.Upstreams.Pick(x.ask()); err != nil {
		t.no, t.final = unpicked(err), true
		return t
	}
	req, ok := x.requestOf(t)
	x.sending = req
	var no *refusal
	if ok {
		no = x.authenticateFor(t.pick.Endpoint, req)
	} else {
		no = refusalOf(http.StatusBadGateway, exchange.Unreachable, "the request's body was lost")
	}
	if no == nil {
		no = x.decide(targetOf(t.pick.Endpoint), t.pick.Endpoint.Addr)
	}
	if no != nil {
		t.pick.Release()
		t.limits.end()
		t.no, t.final = no, true
		return t
	}
	x.roundTrip(t, req)
	return t
}

// requestOf makes the request that this try sends; false if its body is no longer there.
func (x *passage) requestOf(t *try) (*http.Request, bool) {
	t.limits = t.own.begin(x.ctx, x.tryTimeout(), errTryTimeout)
	t.inform.x = x
	ctx := t.inform.watch(t.limits.ctx)
	req := x.send.WithContext(ctx)
	if len(x.rec.Tries) > 0 || len(x.world.Authentication.All()) > 0 {
		// A transport may still read what the try before sent, and tokens that this one does not send may be read again.
		req = x.send.Clone(ctx)
	}
	if x.body != nil {
		r, ok := x.body.again(req.Trailer)
		if !ok {
			return nil, false
		}
		req.Body = r
		req.GetBody = func() (io.ReadCloser, error) { return x.body.reopen(req.Trailer) }
	}
	if x.in.Method == http.MethodConnect && x.in.ProtoMajor == 1 {
		req.Body, x.uplink = io.Pipe()
		req.ContentLength = -1
	}
	return req, true
}

// roundTrip sends it and waits for the answer's header.
func (x *passage) roundTrip(t *try, req *http.Request) {
	note := exchange.Try{Endpoint: t.pick.Endpoint.Workload, Addr: t.pick.Endpoint.Addr, Start: x.p.now()}
	if x.trace != nil {
		note.SpanID = x.trace.Inject(req.Header)
	}
	x.tried = append(x.tried, note.Addr)
	awake := x.wake(t)
	answer, err := t.pick.RoundTrip(req)
	awake()
	t.inform.stop()
	note.Took = x.p.now().Sub(note.Start)
	if err != nil {
		note.Err = err.Error()
		t.sent = !errors.Is(err, upstream.ErrNotSent)
		x.failed(t, err)
		t.limits.end()
	} else {
		t.answer, t.sent, note.Status = answer, true, answer.StatusCode
	}
	x.rec.Tries = append(x.rec.Tries, note)
}

// wake has a try whose time is up not wait for a client that has stopped sending its body: net/http returns from a round
// trip only once it reads the body no more.
func (x *passage) wake(t *try) (stop func() bool) {
	if x.body == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(t.limits.ctx, func() {
		cause := context.Cause(t.limits.ctx)
		if x.body.goesOn() && (errors.Is(cause, errRequestTimeout) || errors.Is(cause, errTryTimeout)) {
			_ = http.NewResponseController(x.w).SetReadDeadline(time.Unix(1, 0)) // a client that has gone is told nothing
		}
	})
}

// failed says why a try got no answer.
func (x *passage) failed(t *try, err error) {
	cause := context.Cause(t.limits.ctx) // which came first: to wake looks like a client that has gone
	var wrong violation
	switch {
	case x.body != nil && errors.As(x.body.failure(), &wrong):
		t.no, t.final = refusalOf(http.StatusBadRequest, exchange.Malformed, wrong.Error()), true
	case errors.Is(cause, errRequestTimeout), errors.Is(cause, upstream.ErrClientDeadline):
		t.no, t.final = timedOut(cause), true
	case errors.Is(cause, errTryTimeout) && x.in.Context().Err() != nil: // nobody is there to try again for
		t.no, t.final = timedOut(cause), true
	case x.in.Context().Err() != nil:
		t.no, t.final = gone(), true
	case x.body != nil && x.body.failure() != nil:
		t.no, t.final = refusalOf(http.StatusBadRequest, exchange.Malformed, "the request's body ended early").because(x.body.failure()), true
	case errors.Is(cause, errTryTimeout):
		t.no, t.sent = timedOut(cause), true
	case errors.Is(err, upstream.ErrOverloaded):
		t.no, t.final = overloaded(err), true
	case t.sent:
		t.no = refusalOf(http.StatusBadGateway, exchange.Unreachable, "the backend ended the connection without an answer").because(err)
	default:
		t.no = refusalOf(http.StatusServiceUnavailable, exchange.Unreachable, "the backend cannot be reached").because(err)
	}
}

func timedOut(cause error) *refusal {
	return refusalOf(http.StatusGatewayTimeout, exchange.TimedOut, "the backend did not answer in time").because(cause)
}

func overloaded(err error) *refusal {
	return refusalOf(http.StatusServiceUnavailable, exchange.Overloaded, "too many requests at once").because(err)
}

// unpicked says why there is no endpoint.
func unpicked(err error) *refusal {
	if errors.Is(err, upstream.ErrOverloaded) {
		return overloaded(err)
	}
	return refusalOf(http.StatusServiceUnavailable, exchange.NoEndpoint, "the backend has no endpoint that may be used").because(err)
}
