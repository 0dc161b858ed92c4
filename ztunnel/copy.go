package ztunnel

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// duplex is either end of a forwarded connection: a TCP connection or a tunnel's stream.
type duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// tunnelled is a tunnel's stream as a duplex.
type tunnelled struct{ *hbone.Stream }

// reset closes a TCP connection with a RST.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

// forward copies both ways until both directions have ended, and writes how that went into k's record and those
// of `also`. A FIN passes as a FIN, each way by itself; a RST of either end resets the other.
func (p *Proxy) forward(k *conn, client, server duplex, killServer func(), also ...*conn) {
	all := append([]*conn{k}, also...)
	for _, c := range all {
		c.set(func(r *Record) { r.Verdict = Forwarded })
		alive := c.onKill(func() { killClient(client); killServer() })
		if !alive {
			killClient(client)
			killServer()
			return
		}
		p.cfg.Sink(c.snapshot())
	}
	kill := sync.OnceFunc(func() { killClient(client); killServer() })
	var directions sync.WaitGroup
	var broken atomic.Pointer[error]
	run := func(dst, src duplex, count func(int)) {
		if err := pump(dst, src, count); err != nil {
			broken.CompareAndSwap(nil, &err)
			kill()
		}
	}
	directions.Go(func() { run(client, server, func(n int) { add(all, n, false) }) })
	run(server, client, func(n int) { add(all, n, true) })
	directions.Wait()
	client.Close()
	server.Close()
	reason, detail := ReasonClosed, ""
	if err := broken.Load(); err != nil {
		reason, detail = ReasonReset, (*err).Error()
	}
	for _, c := range all {
		if why := c.snapshot(); c.wasEnded() {
			reason, detail = why.Reason, why.Detail // one of the two records knows why
		}
	}
	for _, c := range all {
		c.conclude(reason, detail)
	}
}

func add(all []*conn, n int, in bool) {
	for _, c := range all {
		if in {
			c.in.Add(uint64(n))
		} else {
			c.out.Add(uint64(n))
		}
	}
}

func killClient(c duplex) {
	switch c := c.(type) {
	case *net.TCPConn:
		reset(c)
	case tunnelled:
		c.Reset(hbone.CodeConnect)
	}
}

// pump copies src to dst until src ends, then ends dst's write side.
func pump(dst, src duplex, count func(int)) error {
	var err error
	switch {
	case isStream(dst):
		_, err = dst.(tunnelled).ReadFrom(countingReader{src, count})
	case isStream(src):
		_, err = src.(tunnelled).WriteTo(countingWriter{dst, count})
	default:
		err = copyTCP(dst, src, count)
	}
	if err != nil {
		return err
	}
	if err := dst.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) && !isNotConnected(err) {
		return err
	}
	return nil
}

func isStream(d duplex) bool {
	_, ok := d.(tunnelled)
	return ok
}

type countingReader struct {
	io.Reader
	count func(int)
}

func (r countingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.count(n)
	return n, err
}

type countingWriter struct {
	io.Writer
	count func(int)
}

func (w countingWriter) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	w.count(n)
	return n, err
}
