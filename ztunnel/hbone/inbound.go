package hbone

import (
	"fmt"
	"strconv"
	"sync/atomic"

	"golang.org/x/net/http2"
)

// Inbound is a CONNECT that waits for its answer. Exactly one of Accept, Refuse and Leave counts. What the peer sends before is
// held, within the stream's window, and given to nobody but an accepted stream's reader.
type Inbound struct {
	s        *Stream
	req      Request
	answered atomic.Bool
}

// Answer is what a 200 may carry.
type Answer struct {
	Baggage string // W3C baggage of the destination, "" for none
}

// Request returns what the peer asks for.
func (in *Inbound) Request() Request { return in.req }

// Accept answers 200 and returns the stream, which lives until the handler returns. Returns ErrAnswered if the request
// was answered, and what Stream.Write returns if the peer has reset it or is gone.
func (in *Inbound) Accept(a Answer) (*Stream, error) {
	if in.answered.Swap(true) {
		return nil, fmt.Errorf("accept CONNECT %s: %w", in.req.Authority, ErrAnswered)
	}
	if err := in.s.sendHeaders([]field{{":status", "200"}, {"baggage", a.Baggage}}, false); err != nil {
		return nil, fmt.Errorf("accept CONNECT %s: %w", in.req.Authority, err)
	}
	return in.s, nil
}

// Refuse answers with an HTTP status of 400 to 599 and a reason of at most 64 bytes of [a-z0-9_-], and ends the stream.
// Another reason is not sent. Returns the errors of Accept.
func (in *Inbound) Refuse(status int, reason string) error { return in.RefuseBy(status, reason, "") }

// Leave answers that the request was not looked at, so that the peer may send it again elsewhere.
func (in *Inbound) Leave() {
	if !in.answered.Swap(true) {
		in.s.c.cfg.Stats.StreamsRefused.Add(1)
		in.s.Reset(http2.ErrCodeRefusedStream)
	}
}

// RefuseBy is Refuse that also names the rule that refused, in printable ASCII of which 256 bytes are sent; another name
// is not. A peer that does not know the header ignores it.
func (in *Inbound) RefuseBy(status int, reason, rule string) error {
	if in.answered.Swap(true) {
		return fmt.Errorf("refuse CONNECT %s: %w", in.req.Authority, ErrAnswered)
	}
	if status < 400 || status > 599 {
		status = 500
	}
	if !isToken(reason) {
		reason = ""
	}
	if rule = cutRule(rule); !isRule(rule) {
		rule = ""
	}
	in.s.c.cfg.Stats.StreamsRefused.Add(1)
	err := in.s.sendHeaders([]field{{":status", strconv.Itoa(status)}, {reasonHeader, reason}, {ruleHeader, rule}}, true)
	if err != nil {
		return fmt.Errorf("refuse CONNECT %s: %w", in.req.Authority, err)
	}
	// The peer shall not wait for an end of what it wanted to send, RFC 9113 section 8.1.
	in.s.c.resetStream(in.s, 0)
	return nil
}
