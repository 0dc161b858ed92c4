package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxKeep is how much of one request's body is kept for another try, maxKept of all requests' together.
	maxKeep = 64 << 10
	maxKept = 64 << 20
	// lingerTime is how long a client may go on sending a body that nobody reads any more, before its connection ends.
	lingerTime = time.Second
)

var (
	errSuperseded = errors.New("another try has begun")
	errLost       = errors.New("the request's body is not kept")
)

// body is a request's body. It is read once, from the client, and streamed; what has been read is kept for other tries as
// long as it is small.
type body struct {
	src     io.ReadCloser
	trailer http.Header // the client's, complete once src ended
	allowed *budget
	copies  []*copied // what mirrors are sent

	turn sync.Mutex // held while src is read

	mu    sync.Mutex
	kept  []byte
	lost  bool    // more was read than is kept
	now   *reader // the one reader that counts
	end   error
	taken atomic.Uint64
}

// reader is one try's view of the body.
type reader struct {
	b       *body
	at      int         // in kept
	trailer http.Header // of the request that is sent, filled in at the end
}

func newBody(r *http.Request, allowed *budget) *body {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	return &body{src: r.Body, trailer: r.Trailer, allowed: allowed}
}

// openBody makes the request's body readable; false if it has none.
func (x *passage) openBody() bool {
	if x.body != nil {
		return true
	}
	if x.body = newBody(x.in, x.p.kept); x.body != nil && x.in.ProtoMajor == 1 { // the answer may begin before its end
		_ = http.NewResponseController(x.w).EnableFullDuplex()
	}
	return x.body != nil
}

// again returns a reader from the beginning and ends the one before it; false if that much was not kept.
func (b *body) again(trailer http.Header) (*reader, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lost || b.end != nil && b.end != io.EOF {
		return nil, false
	}
	b.now = &reader{b: b, trailer: trailer}
	return b.now, true
}

// reopen is again, as net/http wants it.
func (b *body) reopen(trailer http.Header) (io.ReadCloser, error) {
	if r, ok := b.again(trailer); ok {
		return r, nil
	}
	return nil, errLost
}

// goesOn tells whether the client has not sent all of it yet.
func (b *body) goesOn() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end == nil
}

// forget stops keeping: there will be no other try.
func (b *body) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost = true
}

func (r *reader) Read(p []byte) (int, error) {
	if n, err, ok := r.fromKept(p); ok {
		return n, err
	}
	r.b.turn.Lock()
	defer r.b.turn.Unlock()
	if n, err, ok := r.fromKept(p); ok { // another reader's read ended meanwhile
		return n, err
	}
	n, err := r.b.src.Read(p[:min(len(p), copySize)])
	return r.took(p[:n], err)
}

// fromKept reads what is there already; false if it must come from the client.
func (r *reader) fromKept(p []byte) (int, error, bool) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	switch {
	case r.b.now != r:
		return 0, errSuperseded, true
	case r.at < len(r.b.kept):
		n := copy(p, r.b.kept[r.at:])
		r.at += n
		return n, nil, true
	case r.b.end != nil:
		return 0, r.b.end, true
	}
	return 0, nil, false
}

// took is called with what came from the client.
func (r *reader) took(p []byte, err error) (int, error) {
	b := r.b
	b.taken.Add(uint64(len(p)))
	for _, c := range b.copies {
		c.offer(p, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	current := b.now == r
	b.keep(p, current)
	if err != nil {
		b.end = err
	}
	if !current {
		return 0, errSuperseded
	}
	r.at = len(b.kept)
	if err == io.EOF {
		r.copyTrailer()
	}
	return len(p), err
}

// keep keeps bytes while they are few. What was read for a try that has been given up is another's in any case.
func (b *body) keep(p []byte, current bool) {
	if b.lost {
		if len(b.kept) > 0 && b.now != nil && b.now.at >= len(b.kept) {
			b.drop()
		}
		return
	}
	if current && (len(b.kept)+len(p) > maxKeep || !b.allowed.take(len(p))) {
		b.lost = true
		b.drop()
		return
	}
	if !current {
		b.allowed.force(len(p))
	}
	b.kept = append(b.kept, p...)
}

func (b *body) drop() {
	b.allowed.give(len(b.kept))
	b.kept = nil
	if b.now != nil {
		b.now.at = 0
	}
}

// copyTrailer hands on the trailers that were announced.
func (r *reader) copyTrailer() {
	for name := range r.trailer {
		r.trailer[name] = r.b.trailer[name]
	}
}

// Close is the transport's word that it needs no more. The body goes on: another try may need it.
func (r *reader) Close() error { return nil }

// failure returns why the client's body ended before its end, nil if it did not.
func (b *body) failure() error {
	if end := b.ended(); end != io.EOF {
		return end
	}
	return nil
}

// ended returns how src ended, nil if it has not.
func (b *body) ended() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end
}

// copyTo has a mirror sent all of the body.
func (b *body) copyTo(c *copied) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.offer(b.kept, b.end)
	b.copies = append(b.copies, c)
}

// close ends all reading. A read that waits for an HTTP/1 client is ended by a deadline: the client may be sending a body
// that has been answered already, and is to see that answer. After that the screen lets nothing more in.
func (b *body) close(x *passage) {
	b.mu.Lock()
	b.now = nil
	b.lost = true
	b.drop()
	over := b.end != nil
	b.mu.Unlock()
	for _, c := range b.copies {
		c.offer(nil, io.ErrUnexpectedEOF)
	}
	if !over && x.in.ProtoMajor == 1 {
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Now().Add(lingerTime))
	}
}

// budget counts bytes that are held in memory.
type budget struct{ left atomic.Int64 }

func newBudget(n int64) *budget {
	b := &budget{}
	b.left.Store(n)
	return b
}

// take takes n bytes if they are left.
func (b *budget) take(n int) bool {
	if b.left.Add(-int64(n)) >= 0 {
		return true
	}
	b.left.Add(int64(n))
	return false
}

// force takes them in any case.
func (b *budget) force(n int) { b.left.Add(-int64(n)) }

func (b *budget) give(n int) { b.left.Add(int64(n)) }
