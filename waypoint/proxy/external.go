package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// Question is what an external authorizer is asked about.
type Question struct {
	By   policy.ExternalAuthorizer
	Conn *exchange.Conn
	// Request is as it came, with host, path and headers in the form that policy sees. Its body must not be read: Body is
	// the beginning of it, as much as By wants, and Partial tells whether there is more.
	Request *http.Request
	Path    string
	Body    []byte
	Partial bool
}

// Answer is what it says.
type Answer struct {
	Allowed bool
	// Change is made to the request if it is allowed, its query becomes Query unless that is nil, and AnswerHeader is
	// added to the backend's answer.
	Change       route.HeaderModifier
	Query        *string
	AnswerHeader http.Header
	// Status, Header and Body are for the client if it is not. Status 0 is 403.
	Status int
	Header http.Header
	Body   string
}

// External asks external authorizers. An error is that no answer was to be had.
type External interface {
	Check(ctx context.Context, q Question) (Answer, error)
}

const (
	errNoExternal = violation("this waypoint asks no external authorizers")
	errBodyGone   = violation("the request's body cannot be kept for the authorizer")
)

// askExternal asks one authorizer, at most once a request. Without a yes the request ends.
func (x *passage) askExternal(by *policy.ExternalAuthorizer) *refusal {
	if x.p.cfg.External == nil {
		return denied(errNoExternal.Error())
	}
	q := Question{By: *by, Conn: x.conn, Request: x.in, Path: x.asked.path}
	var err error
	if q.Body, q.Partial, err = x.peek(int(by.MaxBodyBytes)); err != nil {
		return denied(err.Error())
	}
	answer, err := x.p.cfg.External.Check(x.ctx, q)
	switch {
	case x.in.Context().Err() != nil:
		return gone()
	case err != nil:
		return denied("the external authorizer " + by.Service + " gave no answer: " + err.Error())
	case !answer.Allowed:
		return said(by, answer)
	}
	x.request.Passed = append(x.request.Passed, *by)
	x.change(&answer.Change)
	if answer.Query != nil {
		query, err := cleanQuery(*answer.Query)
		if err != nil {
			return denied("the external authorizer " + by.Service + " gave a query that cannot be sent: " + err.Error())
		}
		x.changeQuery(query)
	}
	x.addToAnswer(answer.AnswerHeader)
	return nil
}

// addToAnswer notes what the backend's answer gets on its way back.
func (x *passage) addToAnswer(h http.Header) {
	for name, values := range h {
		for _, value := range values {
			x.extra = append(x.extra, route.Header{Name: name, Value: value})
		}
	}
}

// changeQuery makes an authorizer's change of the query, also to what is on its way already.
func (x *passage) changeQuery(query string) {
	x.asked.query, x.in.URL.RawQuery = query, query
	for _, r := range [...]*http.Request{x.send, x.sending} {
		if r != nil {
			r.URL.RawQuery = query
		}
	}
}

// change makes an authorizer's changes, also to what is on its way already.
func (x *passage) change(m *route.HeaderModifier) {
	if m.Empty() {
		return
	}
	if x.shared {
		x.shared, x.in.Header = false, x.in.Header.Clone()
		x.request.Header = x.in.Header
	}
	m.Apply(x.in.Header)
	delete(x.in.Header, "Host")
	if x.send != nil { // the try before may have it still
		x.send.Header = x.send.Header.Clone()
	}
	for _, r := range [...]*http.Request{x.send, x.sending} {
		if r != nil {
			m.Apply(r.Header)
			delete(r.Header, "Host")
		}
	}
}

// said hands an authorizer's refusal to the client, in its words.
func said(by *policy.ExternalAuthorizer, a Answer) *refusal {
	no := denied("the external authorizer " + by.Service + " refused")
	if a.Status >= 200 && a.Status < 600 {
		no.status = a.Status
	}
	no.header = http.Header{}
	for name, values := range a.Header {
		no.header[http.CanonicalHeaderKey(name)] = values
	}
	stripHop(no.header)
	no.body = a.Body
	return no
}

// peek reads the beginning of the request's body, which is kept for the tries.
func (x *passage) peek(n int) (beginning []byte, more bool, err error) {
	if n <= 0 || !x.openBody() {
		return nil, false, nil
	}
	r, ok := x.body.again(nil)
	if !ok {
		return nil, false, errBodyGone
	}
	n = min(n, maxKeep)
	beginning, err = io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return nil, false, err
	}
	if !x.body.repeatable() {
		return nil, false, errBodyGone
	}
	return beginning, len(beginning) == n && !errors.Is(x.body.ended(), io.EOF), nil
}
