package upstream

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
)

// keptOfBody is how much of a request's body is kept until its answer begins, in bytes: enough for most calls of gRPC,
// which have a body each and meet a server that is restarted as often as others.
const keptOfBody = 16 << 10

// sentBody is a request's body on its way to one connection. It keeps what was read of it, as far as that is little, so
// that a request whose connection died may go out on another one.
type sentBody struct {
	rest    io.ReadCloser
	request *http.Request

	mu      sync.Mutex
	kept    []byte
	total   int64
	lost    bool // more was read than is kept
	reading bool
	final   bool // there will be no other connection
	left    bool // the connection that has this is dead
	broken  bool // whoever sends it did not to the end
	closing bool // Close was called
	closed  bool // and the body's own
}

var errLeft = errors.New("upstream: the request is sent by another connection")

func newSentBody(r *http.Request) *sentBody {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	return &sentBody{rest: r.Body, request: r}
}

// Read reads, for as long as the connection is the request's.
func (b *sentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.left || b.closing {
		b.mu.Unlock()
		return 0, errLeft
	}
	b.reading = true
	b.mu.Unlock()
	n, err := b.rest.Read(p)
	b.mu.Lock()
	b.reading = false
	if b.total += int64(n); err == io.EOF && b.total < b.request.ContentLength {
		err = io.ErrUnexpectedEOF // not for the endpoint to find out
	}
	b.broken = b.broken || err != nil && err != io.EOF
	switch {
	case b.final || b.lost:
	case len(b.kept)+n > keptOfBody:
		b.kept, b.lost = nil, true
	default:
		b.kept = append(b.kept, p[:n]...)
	}
	b.settle()
	return n, err
}

// Close closes the body, once it is known that no other connection needs it, and nobody reads from it: to close what a
// server reads from its client waits for the read, and net/http waits for Close before it gives a request up.
func (b *sentBody) Close() error {
	b.mu.Lock()
	b.closing = true
	b.settle()
	return nil
}

// finish says that there will be no other connection.
func (b *sentBody) finish(failed bool) {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.final, b.kept = true, nil
	b.closing = b.closing || failed
	b.settle()
}

// wasBroken tells whether the request failed as its own body did.
func (b *sentBody) wasBroken() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

// settle closes the body if that is due, and releases mu.
func (b *sentBody) settle() {
	due := b.closing && b.final && !b.reading && !b.left && !b.closed
	b.closed = b.closed || due
	b.mu.Unlock()
	if due {
		_ = b.rest.Close()
	}
}

// again returns the body for another connection; false if some of it is gone.
func (b *sentBody) again() (*sentBody, bool) {
	if b == nil {
		return nil, true
	}
	b.mu.Lock()
	if b.reading || b.lost {
		return b.anew()
	}
	defer b.mu.Unlock()
	b.left = true
	rest := b.rest
	if len(b.kept) > 0 {
		rest = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(b.kept), b.rest), b.rest}
	}
	return &sentBody{rest: rest, request: b.request}, true
}

// anew returns a new body, if the request knows how to make one, and closes this one. It releases mu.
func (b *sentBody) anew() (*sentBody, bool) {
	if b.request.GetBody == nil {
		b.mu.Unlock()
		return nil, false
	}
	b.final, b.closing = true, true
	b.settle()
	fresh, err := b.request.GetBody()
	if err != nil {
		return nil, false
	}
	return &sentBody{rest: fresh, request: b.request}, true
}
