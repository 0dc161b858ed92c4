package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync"

	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/upstream"
)

// informer hands on what a backend says before its answer (1xx), until there is one or the try has failed.
type informer struct {
	x     *passage
	trace httptrace.ClientTrace
	mu    sync.Mutex
	over  bool
}

func (i *informer) watch(ctx context.Context) context.Context {
	i.trace.Got1xxResponse = i.got
	return httptrace.WithClientTrace(ctx, &i.trace)
}

// got: 100 is net/http's to say, when the body is first read; 101 is an answer.
func (i *informer) got(code int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over || code <= http.StatusSwitchingProtocols || !i.x.in.ProtoAtLeast(1, 1) {
		return nil
	}
	stripHop(http.Header(header))
	h := i.x.w.Header()
	for name, values := range header {
		h[name] = values
	}
	i.x.w.WriteHeader(code)
	for name := range header {
		delete(h, name)
	}
	return nil
}

func (i *informer) stop() {
	i.mu.Lock()
	i.over = true
	i.mu.Unlock()
}

// giveBack hands the answer to the client.
func (x *passage) giveBack(t *try) *refusal {
	defer t.limits.end()
	a := t.answer
	if x.body != nil {
		x.body.forget()
	}
	if x.lasts(a) {
		defer x.watch(t)()
	}
	if a.StatusCode == http.StatusSwitchingProtocols {
		return x.switchProtocols(t)
	}
	if x.uplink != nil && a.StatusCode/100 == 2 {
		return x.tunnel(t)
	}
	defer a.Body.Close()
	x.rec.Outcome = exchange.Answered
	x.copyHeader(t)
	x.writeHeader(a.StatusCode)
	streams := a.ContentLength < 0 && x.in.Method != http.MethodHead
	if streams {
		x.flush()
	}
	if err := x.copyBody(a, streams); err != nil {
		x.cut(t, err)
	}
	x.copyTrailers(a)
	return x.finished()
}

// copyHeader makes the answer's header: the backend's without what was for the waypoint alone, changed by the filters.
func (x *passage) copyHeader(t *try) {
	a, h := t.answer, x.w.Header()
	stripHop(a.Header)
	for name, values := range a.Header {
		h[name] = values
	}
	for _, line := range x.extra {
		h.Add(line.Name, line.Value)
	}
	x.modifyAnswer(h)
	if name, value := t.pick.SessionHeader(x.session()); name != "" {
		h.Add(name, value)
	}
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // or net/http guesses one
	}
	delete(h, "Trailer")
	if len(a.Trailer) > 0 {
		names := make([]string, 0, len(a.Trailer))
		for name := range a.Trailer {
			names = append(names, name)
		}
		h["Trailer"] = []string{strings.Join(names, ", ")}
	}
	x.closeUnlessSwitched(h)
}

// closeUnlessSwitched ends the connection with this answer if its client asked for another protocol and does not get it:
// what it sent since was not screened.
func (x *passage) closeUnlessSwitched(h http.Header) {
	if x.asked.unscreened {
		h["Connection"] = []string{"close"}
	}
}

func (x *passage) flush() {
	if f, ok := x.w.(interface{ FlushError() error }); ok {
		_ = f.FlushError()
	}
}

var errClientWrite = errors.New("the client does not take the answer")

// copyBody copies the answer's body. What comes in pieces goes on in pieces: as soon as the backend pauses, the client
// gets what there is.
func (x *passage) copyBody(a *http.Response, streams bool) error {
	buf := x.p.buffers.get()
	defer buf.free()
	left := a.ContentLength
	for {
		full := len(buf.bytes())
		n, err := a.Body.Read(buf.bytes())
		if n > 0 {
			written, writeErr := x.w.Write(buf.bytes()[:n])
			x.rec.BytesOut += uint64(max(written, 0))
			if writeErr != nil {
				return errors.Join(errClientWrite, writeErr)
			}
			left -= int64(n)
			if streams || n < full && left > 0 {
				x.flush()
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		buf.used(n)
	}
}

// cut ends an answer in its middle, after its header was sent.
func (x *passage) cut(t *try, err error) {
	cause := context.Cause(t.limits.ctx)
	switch {
	case errors.Is(cause, errPolicyChanged):
		x.abort(exchange.Denied, cause.Error())
	case x.in.Context().Err() != nil, errors.Is(err, errClientWrite):
		x.abort(exchange.Gone, "the client went away in the middle of the answer")
	case errors.Is(cause, errRequestTimeout), errors.Is(cause, errTryTimeout), errors.Is(cause, upstream.ErrClientDeadline):
		x.abort(exchange.TimedOut, "the answer did not end in time: "+cause.Error())
	}
	x.abort(exchange.BackendGone, "the backend went away in the middle of its answer: "+err.Error())
}

// copyTrailers hands on the fields behind the body, those that were not announced too.
func (x *passage) copyTrailers(a *http.Response) {
	h := x.w.Header()
	for name, values := range a.Trailer {
		if values != nil {
			h[http.TrailerPrefix+name] = values
		}
	}
	x.noteGRPC(a)
}

func (x *passage) noteGRPC(a *http.Response) {
	if !x.asked.grpc {
		return
	}
	value := a.Trailer.Get("Grpc-Status")
	if value == "" {
		value = a.Header.Get("Grpc-Status")
	}
	if n, err := strconv.Atoi(value); err == nil {
		x.rec.GRPCStatus = n
	}
}
