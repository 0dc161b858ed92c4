package ztunnel

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/peer"
)

// tunnelKey says which connections may share a tunnel: those of one pod and address, under one identity, to one
// workload's address, under one identity.
type tunnelKey struct {
	pod      mesh.UID
	src, dst identity.ID
	from     netip.Addr // zero: as the pod's routes say
	to       netip.Addr
	// round parts tunnels that were made with a certificate of either end that has expired since from later ones.
	round uint32
}

// maxTunnelsOfPair bounds the tunnels of one pod to one peer, which the peer's tunnel gate has to allow. Each carries
// 100 connections: a waypoint's clients have all of theirs to it.
const maxTunnelsOfPair = 200

// tunnels holds this node's ends of all tunnels: those it dialled, in a pool, and those it accepted.
type tunnels struct {
	proxy  *Proxy
	pool   *hbone.Pool[tunnelKey]
	budget *hbone.Budget
	stats  *hbone.Stats
	live   *peer.Tunnels[*tunnel]
	rounds *peer.Rounds[tunnelKey, timing] // by key without its round
}

// via tells a tunnel from all others that are up, by its two addresses.
type via struct{ local, remote netip.AddrPort }

func viaOf(local, remote net.Addr) via { return via{peer.Addr(local), peer.Addr(remote)} }

// tunnel is one mutually authenticated connection, either way.
type tunnel struct {
	*peer.Conn
	raw          *net.TCPConn
	peerNotAfter time.Time
	ends         via
	forget       func()
}

func (t *tunnel) via() via { return t.ends }

// LocalAddr and RemoteAddr are also those of the tunnel's streams.
func (t *tunnel) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(t.ends.local) }
func (t *tunnel) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(t.ends.remote) }

// endsOf returns a connection's addresses. It asks the kernel about one that Sockets dialled: package net noted the
// addresses when the socket was made, and it had none then.
func endsOf(raw *net.TCPConn) (via, error) {
	if raw.RemoteAddr() != nil {
		return viaOf(raw.LocalAddr(), raw.RemoteAddr()), nil
	}
	rc, err := raw.SyscallConn()
	if err != nil {
		return via{}, err
	}
	var local, remote unix.Sockaddr
	var lerr, rerr error
	cerr := rc.Control(func(fd uintptr) {
		local, lerr = unix.Getsockname(int(fd))
		remote, rerr = unix.Getpeername(int(fd))
	})
	if err := errors.Join(cerr, lerr, rerr); err != nil {
		return via{}, fmt.Errorf("read the addresses of the tunnel's socket: %w", err)
	}
	return via{addrPort(local), addrPort(remote)}, nil
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// Close also forgets the tunnel.
func (t *tunnel) Close() error {
	t.forget()
	return t.Conn.Close()
}

// handshakeError is a TLS handshake that failed.
type handshakeError struct {
	peer netip.AddrPort
	err  error
}

func (e *handshakeError) Error() string {
	return fmt.Sprintf("TLS handshake with %s: %v", e.peer, e.err)
}
func (e *handshakeError) Unwrap() error { return e.err }

// errDial marks an error of the TCP connection under a tunnel.
var errDial = errors.New("dial tunnel")

const bufferBudget = 256 << 20

func newTunnels(p *Proxy) *tunnels {
	t := &tunnels{
		proxy: p, budget: hbone.NewBudget(bufferBudget), stats: new(hbone.Stats),
		live: peer.NewTunnels[*tunnel](p.cfg.Certs.Bundle), rounds: peer.NewRounds[tunnelKey, timing](),
	}
	t.pool = hbone.NewPool(hbone.PoolConfig{
		DialTimeout: p.cfg.DialTimeout, MaxConnsFull: maxTunnelsOfPair,
		Conn: hbone.Config{Budget: t.budget, Stats: t.stats, Log: p.cfg.Log},
	}, t.dial)
	return t
}

// serverConfig is how accepted tunnels are limited. A tunnel whose pod left the mesh, or whose agent stops, takes nothing
// new; what it carries ends by itself, or by who ends connections.
func (t *tunnels) serverConfig() hbone.Config {
	return hbone.Config{Budget: t.budget, Stats: t.stats, Log: t.proxy.cfg.Log, DrainTimeout: math.MaxInt64}
}

// timing is what opening a stream took: connect and tls only if a new tunnel was dialled for it.
type timing struct{ connect, tls, rest time.Duration }

// connect opens a stream over a pooled tunnel.
func (t *tunnels) connect(ctx context.Context, key tunnelKey, req hbone.Request) (*hbone.Stream, timing, error) {
	start := time.Now()
	key.round = t.rounds.Of(key, start)
	stream, info, err := t.pool.Connect(ctx, key, req)
	took := timing{rest: time.Since(start)}
	if !info.Reused {
		dialled := t.rounds.Newest(key.outOfRound())
		took.connect, took.tls = dialled.connect, dialled.tls
		took.rest = max(took.rest-info.DialTime, 0)
	}
	return stream, took, err
}

// outOfRound is what all rounds of the key have in common.
func (k tunnelKey) outOfRound() tunnelKey {
	k.round = 0
	return k
}

// dial makes a tunnel from the pod to a peer, and checks that the peer is who the mesh says it is.
func (t *tunnels) dial(ctx context.Context, key tunnelKey) (net.Conn, error) {
	p := t.proxy
	pod := p.local(key.pod)
	if pod == nil {
		return nil, fmt.Errorf("pod %s left this node", key.pod)
	}
	svid, err := p.cfg.Certs.Get(ctx, key.src)
	if err != nil {
		return nil, err
	}
	to := netip.AddrPortFrom(key.to, TunnelPort)
	start := time.Now()
	raw, err := pod.Sockets.Dial(ctx, key.from, to)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDial, err)
	}
	connected := time.Now()
	bundle := p.cfg.Certs.Bundle()
	conn, err := peer.Client(raw, identity.ClientConfig(func() (*identity.SVID, error) { return svid, nil }, p.cfg.Certs.Bundle, key.dst))
	if err == nil {
		err = conn.HandshakeContext(ctx)
	}
	if err != nil {
		raw.Close()
		return nil, &handshakeError{to, err}
	}
	shaken := time.Now()
	tn, err := t.track(conn, raw, x509.ExtKeyUsageServerAuth, bundle)
	if err != nil {
		raw.Close()
		return nil, &handshakeError{to, err}
	}
	t.rounds.Note(key.outOfRound(), key.round, peer.LastStream(shaken, svid.NotAfter, tn.peerNotAfter),
		timing{connect: connected.Sub(start), tls: shaken.Sub(connected)})
	return tn, nil
}

// track makes a tunnel known to distrusted until it is closed. `before` is the bundle from before the handshake.
func (t *tunnels) track(conn *peer.Conn, raw *net.TCPConn, usage x509.ExtKeyUsage, before *identity.Bundle) (*tunnel, error) {
	ends, err := endsOf(raw)
	if err != nil {
		return nil, err
	}
	proof := peer.ProofOf(conn.Conn, usage)
	tn := &tunnel{Conn: conn, raw: raw, ends: ends, peerNotAfter: proof.Leaf().NotAfter}
	tn.forget = func() { t.live.Remove(tn) }
	if err := t.live.Add(tn, proof, before); err != nil {
		return nil, err
	}
	return tn, nil
}

// distrusted returns the tunnels whose peer the bundle in force no longer vouches for.
func (t *tunnels) distrusted() map[via]*tunnel {
	ended := map[via]*tunnel{}
	for _, tn := range t.live.Distrusted() {
		ended[tn.via()] = tn
	}
	return ended
}

// forget closes the tunnels of a pod that left: those that carry something, once that has ended.
func (t *tunnels) forget(pod mesh.UID) {
	t.pool.Retire(func(k tunnelKey) bool { return k.pod == pod })
	t.rounds.Forget(func(k tunnelKey) bool { return k.pod == pod })
}

// close ends every tunnel that this node dialled.
func (t *tunnels) close() { _ = t.pool.Close() }
