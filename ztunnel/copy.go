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

// forward copies both ways until both directions have ended, and writes how that went into k's record and those
// of `also`. A FIN passes as a FIN, each way by itself; a RST of either end resets the other, also of an end that
// had sent its FIN.
func (p *Proxy) forward(k *conn, client, server duplex, killServer func(), also ...*conn) {
	all := append([]*conn{k}, also...)
	kill := sync.OnceFunc(func() { killClient(client); killServer() })
	for _, c := range all {
		c.set(func(r *Record) { r.Verdict = Forwarded })
		if alive := c.onKill(kill); !alive {
			kill()
			return
		}
		p.cfg.Sink(c.snapshot())
	}
	up, down := newFlows(client, server, func(n int, in bool) { add(all, n, in) })
	var downErr error
	var task sync.WaitGroup
	task.Go(func() { downErr = down.run(kill) })
	err := up.run(kill)
	task.Wait()
	client.Close()
	server.Close()
	conclude(all, errors.Join(err, downErr))
}

// conclude writes how the connection ended into its records.
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
