package ztunnel

import (
	"context"
	"net"
	"net/netip"

	"github.com/warren-mesh/warren/ztunnel/peer"
)

// A trial is a connection of ztunnel's own from one pod of this node to another's port, over the network between them. On
// the other side the kernel steers it to the plaintext listener, as anybody's.

// trialKey is what a trial looks like there before its port is known.
type trialKey struct {
	client netip.Addr
	server netip.AddrPort
}

type trial struct {
	over  chan struct{}
	local netip.AddrPort // once it is over, zero if it was not connected
}

// try tells whether the network lets a pod reach another of this node at its port. Of equal trials one runs at a time.
func (d *directs) try(pod *Pod, dst netip.AddrPort, to Neighbour) bool {
	src := pod.Sockets.Source(netip.AddrPortFrom(loopbackOf(dst.Addr()), 0)).Addr()
	key, t := trialKey{src, to.Addr}, &trial{over: make(chan struct{})}
	d.mu.Lock()
	if other := d.trials[key]; other != nil {
		d.mu.Unlock()
		<-other.over
		return other.local.IsValid()
	}
	d.trials[key] = t
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), trialTimeout)
	defer cancel()
	conn, err := pod.Sockets.Dial(ctx, src, to.Addr)
	if err == nil {
		defer conn.Close()
		if ends, err := endsOf(conn); err == nil {
			t.local = ends.local
		}
	}
	close(t.over)
	if err == nil {
		_, _ = conn.Read(make([]byte, 1)) // until the other side has seen what it is, and closes it
	}
	d.mu.Lock()
	delete(d.trials, key)
	d.mu.Unlock()
	return err == nil
}

// isTrial tells whether a connection that came without a tunnel is one.
func (d *directs) isTrial(c *net.TCPConn) bool {
	from := peer.Addr(c.RemoteAddr())
	d.mu.Lock()
	t := d.trials[trialKey{from.Addr(), peer.Addr(c.LocalAddr())}]
	d.mu.Unlock()
	if t == nil {
		return false
	}
	<-t.over // it is bounded
	return t.local == from
}
