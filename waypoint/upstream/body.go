package upstream

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// answerBody ends the pick with the answer.
type answerBody struct {
	io.ReadCloser
	pick  *Pick
	res   *http.Response
	grpc  bool
	ended atomic.Bool
}

// upgraded is the body of a 101: the connection itself.
type upgraded struct {
	*answerBody
	stream io.ReadWriteCloser
}

// Write writes to the endpoint.
func (u upgraded) Write(b []byte) (int, error) { return u.stream.Write(b) }

// CloseWrite tells the endpoint that nothing more comes.
func (u upgraded) CloseWrite() error {
	if c, ok := u.stream.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}

// follow makes the answer's body end the pick.
func (p *Pick) follow(res *http.Response, grpc bool) {
	b := &answerBody{ReadCloser: res.Body, pick: p, res: res, grpc: grpc}
	if stream, ok := res.Body.(io.ReadWriteCloser); ok && res.StatusCode == http.StatusSwitchingProtocols {
		res.Body = upgraded{b, stream}
		return
	}
	if res.Body == http.NoBody {
		b.end(io.EOF)
		return
	}
	res.Body = b
}

// Read reads until the answer's end.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

// Close gives the rest of the answer up.
func (b *answerBody) Close() error {
	err := b.ReadCloser.Close()
	b.end(nil)
	return err
}

// end ends the pick: err is how the body ended, nil if the reader lost interest.
func (b *answerBody) end(err error) {
	if !b.ended.CompareAndSwap(false, true) {
		return
	}
	p := b.pick
	p.Release()
	now := p.u.now()
	switch {
	case err == nil || b.res.StatusCode == http.StatusSwitchingProtocols:
	case !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		if ctx := b.res.Request.Context(); ctx.Err() == nil {
			p.report(true, "broken", now)
		}
	case b.grpc:
		status := b.res.Trailer.Get("Grpc-Status")
		if status == "" {
			status = b.res.Header.Get("Grpc-Status")
		}
		p.report(status == "13" || status == "14", "grpc", now) // INTERNAL, UNAVAILABLE
	}
}
