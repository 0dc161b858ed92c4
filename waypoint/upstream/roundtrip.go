package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http2"

	tunnelpeer "github.com/warren-mesh/warren/ztunnel/peer"
)

// maxResends is how often a request is sent again as the connection that it was sent on turned out to be dead.
const maxResends = 3

// RoundTrip sends the request to the pick's endpoint, at once if a connection is free. The request's Host is what the
// endpoint sees; scheme and host of its URL do not matter. The answer's body must be read to its end or closed: that
// ends the pick, as an error does. Trailers are intact, and the body of a 101 is an io.ReadWriteCloser.
//
// A request that met a connection which the endpoint had just closed is sent again on another, if it cannot have been
// seen or may be sent twice, as net/http does. Any other error is the caller's to judge: see ErrNotSent and
// ErrOverloaded.
func (p *Pick) RoundTrip(req *http.Request) (*http.Response, error) {
	if p.over.Load() {
		return nil, errors.New("upstream: the pick is over")
	}
	out, body := p.outgoing(req)
	started := p.u.now()
	res, err := p.send(out, &body)
	now := p.u.now()
	if err != nil {
		body.finish(true)
		p.failed(req.Context(), err, !body.wasBroken(), now)
		return nil, fmt.Errorf("%s: %w", p.entry, err)
	}
	body.finish(false)
	res.Request = req
	p.answered(res, now.Sub(started), now)
	return res, nil
}

// outgoing returns the request as it is sent.
func (p *Pick) outgoing(req *http.Request) (*http.Request, *sentBody) {
	copied := &struct { // one allocation
		req http.Request
		url url.URL
	}{req: *req}
	out := &copied.req
	if req.URL != nil {
		copied.url = *req.URL
	}
	out.URL = &copied.url
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", p.entry.peer.host, ""
	if out.Header == nil {
		out.Header = http.Header{}
	}
	if _, ok := out.Header["User-Agent"]; !ok { // net/http would name itself
		out.Header = maps.Clone(out.Header)
		out.Header["User-Agent"] = nil
	}
	body := newSentBody(req)
	if body != nil {
		out.Body = body
	}
	return out, body
}

// send tries connections until one gets an answer, or an error that is not the connection's being old. body is the one
// that was sent last.
func (p *Pick) send(req *http.Request, body **sentBody) (*http.Response, error) {
	pool := p.entry.peer.pool(p.http2)
	for resend := 0; ; resend++ {
		c, err := p.acquire(req.Context(), pool)
		if err != nil {
			return nil, err
		}
		reused := c.uses.Add(1) > 1
		read, written := c.wire.read.Load(), c.wire.written.Load()
		if !p.http2 && switches(req) {
			c.last.Store(true)
		}
		res, err := c.roundTrip(req, *body)
		if err == nil {
			return res, nil
		}
		unseen := c.wire.written.Load() == written || unprocessed(err)
		closed := !p.http2 && c.wire.read.Load() == read
		if req.Context().Err() == nil && reused && resend < maxResends && (unseen || closed && replayable(req)) {
			if next, ok := resent(req, body); ok {
				req = next
				continue
			}
		}
		switch {
		case c.Err() == nil && !unprocessed(err) && (unseen || invalid(err)):
			err = fmt.Errorf("%w: %w", ErrUnsendable, err)
		case unseen:
			err = fmt.Errorf("%w: %w", err, ErrNotSent)
		}
		return nil, err
	}
}

// acquire is the pool's. A patient pick waits for an agent that is being replaced.
func (p *Pick) acquire(ctx context.Context, from *pool) (c *conn, err error) {
	tunnelpeer.WhileAway(ctx, func() (away bool) {
		c, err = from.acquire(ctx, &waiter{endpoint: p.Endpoint, client: p.conn}, p.limits)
		return p.patient && errors.Is(err, ErrAway)
	})
	return c, err
}

// goneGrace is how long net/http may take to tell of a connection that has ended. If it takes longer, it waits for the
// request's body.
const goneGrace = time.Second

var errGone = errors.New("the endpoint closed the connection before it had all of the request")

// roundTrip is net/http's, which returns only once it reads the request's body no more. It does not wait for that if the
// connection has ended: a client that has stopped sending would not be told, nor its request tried elsewhere.
func (c *conn) roundTrip(req *http.Request, body *sentBody) (*http.Response, error) {
	if body == nil {
		return c.RoundTrip(req)
	}
	type end struct {
		res *http.Response
		err error
	}
	ended := make(chan end, 1)
	go func() {
		res, err := c.RoundTrip(req)
		ended <- end{res, err}
	}()
	select {
	case e := <-ended:
		return e.res, e.err
	case <-c.wire.closed:
	}
	patience := time.NewTimer(goneGrace)
	defer patience.Stop()
	select {
	case e := <-ended:
		return e.res, e.err
	case <-patience.C:
	}
	go func() {
		if e := <-ended; e.err == nil {
			_ = e.res.Body.Close()
		}
	}()
	return nil, errGone
}

// switches tells whether a request asks for another protocol on its connection. If it does not get it, nobody's request
// may follow: servers differ in what they take the bytes behind it for. Node's, for one, throws away those that come with
// the end of its body (llhttp pauses there), and another client's request would never be answered.
func switches(r *http.Request) bool {
	return r.Method == http.MethodConnect || len(r.Header["Upgrade"]) > 0
}

// resent returns the request for another connection; false if its body is gone.
func resent(req *http.Request, body **sentBody) (*http.Request, bool) {
	again, ok := (*body).again()
	if !ok || again == nil {
		return req, ok
	}
	next := *req
	next.Body, *body = again, again
	return &next, true
}

// unprocessed tells whether an error says that the endpoint did not work on the request (RFC 9113, section 8.7).
// net/http names some of these errors by their text only.
func unprocessed(err error) bool {
	var se http2.StreamError
	if errors.As(err, &se) {
		return se.Code == http2.ErrCodeRefusedStream
	}
	text := err.Error()
	return strings.Contains(text, "graceful shutdown GOAWAY") || strings.Contains(text, "http2: client conn not usable") ||
		strings.Contains(text, "http2: client conn could not be established")
}

// invalid tells whether net/http would not have the request's header. Of an HTTP/2 connection that others use too,
// nothing else tells that nothing was sent.
func invalid(err error) bool {
	text := err.Error()
	return strings.HasPrefix(text, "http: invalid ") || strings.HasPrefix(text, "net/http: invalid ") ||
		strings.HasPrefix(text, "http2: invalid ")
}

// replayable tells whether a request may come to the endpoint twice (RFC 9110, section 9.2.2).
func replayable(r *http.Request) bool {
	if r.Body != nil && r.Body != http.NoBody {
		return false
	}
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// failed ends the pick of a request that got no answer. whole tells whether the request was.
func (p *Pick) failed(ctx context.Context, err error, whole bool, now time.Time) {
	p.Release()
	for _, own := range [...]error{ErrOverloaded, ErrUnsendable, errRetired} {
		whole = whole && !errors.Is(err, own)
	}
	if !whole || clientEnded(ctx) {
		return
	}
	p.entry.peer.latency.observe(failed, now)
	if !errors.Is(err, ErrAway) { // which says nothing about the endpoint
		p.report(true, "unanswered", now)
	}
}

// clientEnded tells whether a request ended by the will of whoever sent it.
func clientEnded(ctx context.Context) bool {
	cause := context.Cause(ctx)
	return errors.Is(cause, context.Canceled) || errors.Is(cause, ErrClientDeadline)
}

// answered takes the answer's header in, and follows its body.
func (p *Pick) answered(res *http.Response, took time.Duration, now time.Time) {
	status := res.StatusCode
	if status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout {
		took = max(took, failed)
	}
	p.entry.peer.latency.observe(took, now)
	grpc := status == http.StatusOK && strings.HasPrefix(res.Header.Get("Content-Type"), "application/grpc")
	if !grpc {
		p.report(status >= http.StatusInternalServerError, "status", now)
	}
	p.follow(res, grpc)
}

// report tells outlier detection.
func (p *Pick) report(failed bool, why string, now time.Time) {
	if !p.group.report(p.entry, failed, p.outlier, now) {
		return
	}
	p.u.metrics.ejections.WithLabelValues(why).Inc()
	p.u.cfg.Log.Info("endpoint left out", "endpoint", p.entry.String(), "of", p.group.key.String(), "reason", why,
		"until", time.Unix(0, p.entry.outlier.until.Load()))
}
