package ztunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/hbone"
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

	mu      sync.Mutex
	live    map[*tunnel]struct{}
	dialled map[tunnelKey]round // by key without its round
	rounds  uint32              // the last number given
	judged  *identity.Bundle    // the bundle that all of live were last judged by
}

// round is what is known of the tunnels that were dialled for a key and may still take new streams.
type round struct {
	number uint32
	// until is when the first certificate of either end of any of them expires; zero before the first is dialled.
	until  time.Time
	newest timing // of the newest
}

// via tells a tunnel from all others that are up, by its two addresses.
type via struct{ local, remote netip.AddrPort }

func viaOf(local, remote net.Addr) via { return via{addrOf(local), addrOf(remote)} }

// tunnel is one mutually authenticated connection, either way.
type tunnel struct {
	*tls.Conn
	raw          *net.TCPConn
	usage        x509.ExtKeyUsage // what the peer's certificate was used for
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
	t := &tunnels{proxy: p, budget: hbone.NewBudget(bufferBudget), stats: new(hbone.Stats), live: map[*tunnel]struct{}{}, dialled: map[tunnelKey]round{}}
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
	key = t.inRound(key, start)
	stream, info, err := t.pool.Connect(ctx, key, req)
	took := timing{rest: time.Since(start)}
	if !info.Reused {
		dialled := t.newest(key)
		took.connect, took.tls = dialled.connect, dialled.tls
		took.rest = max(took.rest-info.DialTime, 0)
	}
	return stream, took, err
}

// inRound completes a key. Once a certificate of a tunnel has expired, its peer refuses new streams: they get a new
// tunnel, and the old one goes on with those that it has.
func (t *tunnels) inRound(key tunnelKey, now time.Time) tunnelKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.dialled[key]
	if !ok || !r.until.IsZero() && now.After(r.until) {
		t.rounds++
		r = round{number: t.rounds}
		t.remember(key, r)
	}
	key.round = r.number
	return key
}

// maxDialled bounds what is known of destinations. One that is forgotten gets a new tunnel next time, as no number of a
// round is used twice.
const maxDialled = 16384

// remember notes a key's round. Caller holds mu.
func (t *tunnels) remember(key tunnelKey, r round) {
	for k := range t.dialled {
		if len(t.dialled) < maxDialled {
			break
		}
		delete(t.dialled, k)
	}
	t.dialled[key] = r
}

// note remembers a tunnel that was dialled.
func (t *tunnels) note(key tunnelKey, took timing, until time.Time) {
	number := key.round
	key.round = 0
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.dialled[key]
	if r.number != number {
		return // a straggler of an earlier round
	}
	r.newest = took
	if r.until.IsZero() || until.Before(r.until) {
		r.until = until
	}
	t.dialled[key] = r
}

func (t *tunnels) newest(key tunnelKey) timing {
	key.round = 0
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dialled[key].newest
}

// lastStream is when a tunnel shall take its last new stream: shortly before its first certificate ends, for the
// peer's clock may be ahead.
func lastStream(now time.Time, ours, peers time.Time) time.Time {
	end := ours
	if peers.Before(end) {
		end = peers
	}
	return end.Add(-min(end.Sub(now)/10, time.Minute))
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
	conn := tls.Client(raw, identity.ClientConfig(func() (*identity.SVID, error) { return svid, nil }, p.cfg.Certs.Bundle, key.dst))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, &handshakeError{to, err}
	}
	shaken := time.Now()
	tn, err := t.track(conn, raw, x509.ExtKeyUsageServerAuth, bundle)
	if err != nil {
		raw.Close()
		return nil, &handshakeError{to, err}
	}
	t.note(key, timing{connect: connected.Sub(start), tls: shaken.Sub(connected)}, lastStream(shaken, svid.NotAfter, tn.peerNotAfter))
	return tn, nil
}

// track makes a tunnel known to distrusted until it is closed. `before` is the bundle from before the handshake: one
// that came since may have missed the tunnel, so it is asked here.
func (t *tunnels) track(conn *tls.Conn, raw *net.TCPConn, usage x509.ExtKeyUsage, before *identity.Bundle) (*tunnel, error) {
	ends, err := endsOf(raw)
	if err != nil {
		return nil, err
	}
	tn := &tunnel{Conn: conn, raw: raw, ends: ends, usage: usage, peerNotAfter: conn.ConnectionState().PeerCertificates[0].NotAfter}
	tn.forget = func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.live, tn)
	}
	t.mu.Lock()
	t.live[tn] = struct{}{}
	t.mu.Unlock()
	if now := t.proxy.cfg.Certs.Bundle(); now != before {
		if err := tn.vouched(now, time.Now()); err != nil {
			tn.forget()
			return nil, err
		}
	}
	return tn, nil
}

// vouched tells whether a bundle vouches for the peer. A certificate that has expired since the handshake is judged as
// of its last moment: that it expired is no reason to end what was open, and none to let a removed root's peer go on.
func (t *tunnel) vouched(b *identity.Bundle, now time.Time) error {
	if now.After(t.peerNotAfter) {
		now = t.peerNotAfter
	}
	_, err := identity.VerifyChain(t.ConnectionState().PeerCertificates, b, t.usage, now)
	return err
}

// distrusted returns the tunnels whose peer the bundle in force no longer vouches for.
func (t *tunnels) distrusted() map[via]*tunnel {
	bundle, now := t.proxy.cfg.Certs.Bundle(), time.Now()
	ended := map[via]*tunnel{}
	t.mu.Lock()
	defer t.mu.Unlock()
	if bundle == t.judged {
		return nil // whatever is newer was judged by track
	}
	t.judged = bundle
	for tn := range t.live {
		if tn.vouched(bundle, now) != nil {
			ended[tn.via()] = tn
		}
	}
	return ended
}

// forget closes the tunnels of a pod that left: those that carry something, once that has ended.
func (t *tunnels) forget(pod mesh.UID) {
	t.pool.Retire(func(k tunnelKey) bool { return k.pod == pod })
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.dialled, func(k tunnelKey, _ round) bool { return k.pod == pod })
}

// close ends every tunnel that this node dialled.
func (t *tunnels) close() { _ = t.pool.Close() }
