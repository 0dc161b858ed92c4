package ztunnel

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// duplex is either end of a forwarded connection: a TCP connection or a tunnel's stream.
type duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
	SetWriteDeadline(time.Time) error
}

// tunnelled is a tunnel's stream as a duplex.
type tunnelled struct{ *hbone.Stream }

// reset closes a TCP connection with a RST.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

// link is a connection whose server was reached, and that is to be forwarded.
type link struct {
	server duplex
	kill   func()   // resets the server's end
	also   *conn    // what this node records as the server's side; nil if that is another node's, or nobody's
	ends   []func() // what is to be done once it has ended, the last first
}

// end does it.
func (l *link) end() {
	for i := len(l.ends) - 1; i >= 0; i-- {
		l.ends[i]()
	}
}

// forward copies both ways until both directions have ended, and writes how that went into k's record and the link's other.
// A FIN passes as a FIN, each way by itself; a RST of either end resets the other, also of an end that had sent its FIN.
//
// A connection spends its life in here. So it is called near the bottom of its goroutine's stack, and what has large frames
// is called from here and not inlined: ten thousand idle connections hold ten thousand stacks.
func (p *Proxy) forward(k *conn, client duplex, l *link) {
	defer l.end()
	all := []*conn{k}
	if l.also != nil {
		all = append(all, l.also)
	}
	kill := sync.OnceFunc(func() { killClient(client); l.kill() })
	for _, c := range all {
		c.set(func(r *Record) { r.Verdict = Forwarded })
		if alive := c.onKill(kill); !alive {
			kill()
			return
		}
		p.opened(c)
	}
	up, down := newFlows(client, l.server, func(n int, in bool) { add(all, n, in) })
	var downErr error
	var task sync.WaitGroup
	task.Go(func() { downErr = down.run(kill) })
	err := up.run(kill)
	task.Wait()
	client.Close()
	l.server.Close()
	conclude(all, errors.Join(err, downErr))
}

// opened tells the sink that the connection is forwarded now.
//
//go:noinline
func (p *Proxy) opened(k *conn) { p.cfg.Sink(k.snapshot()) }

// ended tells the sink that the connection has ended.
//
//go:noinline
func (p *Proxy) ended(k *conn) {
	k.set(func(r *Record) { r.End = time.Now() })
	p.cfg.Sink(k.snapshot())
}

// conclude writes how the connection ended into its records.
//
//go:noinline
func conclude(all []*conn, err error) {
	reason, detail := ReasonClosed, ""
	if err != nil {
		reason, detail = ReasonReset, err.Error()
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
