package hbone

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"golang.org/x/net/http2"
)

// Sentinels that callers compare with errors.Is.
var (
	// ErrPeerGone means that the connection broke or its peer stopped answering while the stream was open.
	ErrPeerGone = errors.New("peer is gone")
	// ErrClosed means that this side closed the connection or the stream.
	ErrClosed = fmt.Errorf("closed: %w", net.ErrClosed)
	// ErrDraining means that the connection takes no new stream because one side sent GOAWAY.
	ErrDraining = errors.New("connection is draining")
	// ErrRefused means that the peer did not look at the request at all, so that it may be sent again elsewhere.
	ErrRefused = errors.New("peer refused the stream unprocessed")
	// ErrTooManyStreams means that the connection carries as many streams as the peer allows.
	ErrTooManyStreams = errors.New("connection is full")
	// ErrBadRequest means that a Request's field cannot be sent: too long, or with characters HTTP forbids.
	ErrBadRequest = errors.New("request cannot be sent")
	// ErrAnswered means that an Inbound was already accepted or refused.
	ErrAnswered = errors.New("request is already answered")
)

// IsAway tells of an error of Pool.Connect that nobody takes streams there at the moment: the dial was refused, or the peer
// takes no more. If the mesh says that somebody does, he is being replaced.
func IsAway(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, ErrRefused) || errors.Is(err, ErrDraining)
}

// Code is an HTTP/2 error code, RFC 9113 section 7.
type Code = http2.ErrCode

// The codes that callers use.
const (
	// CodeConnect tells the peer that the app's TCP connection was reset.
	CodeConnect = http2.ErrCodeConnect
	// CodeCancel tells the peer that nobody wants the stream any more.
	CodeCancel = http2.ErrCodeCancel
	// CodeInternal tells the peer that something broke here.
	CodeInternal = http2.ErrCodeInternal
)

// ResetError is a stream's error after RST_STREAM. A caller that relays a TCP connection resets it too.
type ResetError struct {
	Code   Code
	Remote bool // the peer sent it, not this side
}

func (e *ResetError) Error() string {
	if e.Remote {
		return fmt.Sprintf("stream was reset by the peer: %v", e.Code)
	}
	return fmt.Sprintf("stream was reset here: %v", e.Code)
}

// Is makes a reset with REFUSED_STREAM an ErrRefused, and a reset made here an ErrClosed.
func (e *ResetError) Is(target error) bool {
	if e.Remote {
		return target == ErrRefused && e.Code == http2.ErrCodeRefusedStream
	}
	return target == ErrClosed || target == net.ErrClosed
}

// StatusError is the answer of a peer that refused a CONNECT with an HTTP status.
type StatusError struct {
	Status int    // e.g. 401
	Reason string // the peer's warren-reason header, "" if it sent none; at most 64 bytes of [a-z0-9_-]
	// Rule is the peer's warren-rule header: the name of what refused the connection, "" if it sent none. At most 256
	// bytes of printable ASCII, which say what the peer claims.
	Rule string
}

func (e *StatusError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("peer refused the connection with status %d", e.Status)
	}
	return fmt.Sprintf("peer refused the connection with status %d (%s)", e.Status, e.Reason)
}

// ConnError is the end of a connection by a violation of the protocol or of a limit. Local says who found it.
type ConnError struct {
	Code   Code
	Reason string
	Local  bool
}

func (e *ConnError) Error() string {
	who := "peer closed the connection"
	if e.Local {
		who = "connection closed here"
	}
	return fmt.Sprintf("%s: %v: %s", who, e.Code, e.Reason)
}

// violation is a ConnError found here.
func violation(code Code, format string, args ...any) error {
	return &ConnError{Code: code, Reason: fmt.Sprintf(format, args...), Local: true}
}

// streamViolation is an offence that costs the peer only one stream.
type streamViolation struct {
	id     uint32
	code   Code
	reason string
}

func (e *streamViolation) Error() string {
	return fmt.Sprintf("stream %d: %v: %s", e.id, e.code, e.reason)
}

// asLoss turns what a read or write of the socket returned into the error that streams see.
func asLoss(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: connection ended", ErrPeerGone)
	}
	return fmt.Errorf("%w: %w", ErrPeerGone, err)
}
