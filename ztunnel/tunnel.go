package ztunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

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
}

// tunnels holds this node's ends of all tunnels: those it dialled, in a pool, and those it accepted.
type tunnels struct {
	proxy  *Proxy
	pool   *hbone.Pool[tunnelKey]
	budget *hbone.Budget
	stats  *hbone.Stats

	mu      sync.Mutex
	live    map[*tunnel]struct{}
	dialled map[tunnelKey]timing // of the newest tunnel of each key
}

// tunnel is one mutually authenticated connection, either way.
type tunnel struct {
	*tls.Conn
	raw          *net.TCPConn
	usage        x509.ExtKeyUsage // what the peer's certificate was used for
	peerNotAfter time.Time
	forget       func()
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
	t := &tunnels{proxy: p, budget: hbone.NewBudget(bufferBudget), stats: new(hbone.Stats), live: map[*tunnel]struct{}{}, dialled: map[tunnelKey]timing{}}
	t.pool = hbone.NewPool(hbone.PoolConfig{
		DialTimeout: p.cfg.DialTimeout,
		Conn:        hbone.Config{Budget: t.budget, Stats: t.stats, Log: p.cfg.Log},
	}, t.dial)
	return t
}

// serverConfig is how accepted tunnels are limited.
func (t *tunnels) serverConfig() hbone.Config {
	return hbone.Config{Budget: t.budget, Stats: t.stats, Log: t.proxy.cfg.Log}
}

// timing is what opening a stream took: connect and tls only if a new tunnel was dialled for it.
type timing struct{ connect, tls, rest time.Duration }

// connect opens a stream over a pooled tunnel.
func (t *tunnels) connect(ctx context.Context, key tunnelKey, req hbone.Request) (*hbone.Stream, timing, error) {
	start := time.Now()
	stream, info, err := t.pool.Connect(ctx, key, req)
	took := timing{rest: time.Since(start)}
	if !info.Reused {
		t.mu.Lock()
		dialled := t.dialled[key]
		t.mu.Unlock()
		took.connect, took.tls = dialled.connect, dialled.tls
		took.rest = max(took.rest-info.DialTime, 0)
	}
	return stream, took, err
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
	conn := tls.Client(raw, identity.ClientConfig(func() (*identity.SVID, error) { return svid, nil }, p.cfg.Certs.Bundle, key.dst))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, &handshakeError{to, err}
	}
	tn := t.track(conn, raw, x509.ExtKeyUsageServerAuth)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dialled[key] = timing{connect: connected.Sub(start), tls: time.Since(connected)}
	return tn, nil
}

// accepted tracks a tunnel that a peer made. The caller calls done when it has ended.
func (t *tunnels) accepted(conn *tls.Conn, raw *net.TCPConn) (tn *tunnel) {
	return t.track(conn, raw, x509.ExtKeyUsageClientAuth)
}

func (t *tunnels) track(conn *tls.Conn, raw *net.TCPConn, usage x509.ExtKeyUsage) *tunnel {
	tn := &tunnel{Conn: conn, raw: raw, usage: usage, peerNotAfter: conn.ConnectionState().PeerCertificates[0].NotAfter}
	tn.forget = func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.live, tn)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live[tn] = struct{}{}
	return tn
}

// recheck ends the tunnels whose peer the bundle in force no longer vouches for.
func (t *tunnels) recheck() {
	bundle, now := t.proxy.cfg.Certs.Bundle(), time.Now()
	t.mu.Lock()
	var ended []*tunnel
	for tn := range t.live {
		if now.After(tn.peerNotAfter) {
			continue // every new stream is refused already; those that are open were proved when they opened
		}
		if _, err := identity.VerifyChain(tn.ConnectionState().PeerCertificates, bundle, tn.usage, now); err != nil {
			ended = append(ended, tn)
		}
	}
	t.mu.Unlock()
	for _, tn := range ended {
		t.proxy.cfg.Log.Warn("tunnel ended: its peer's root is no longer trusted", "dst", tn.RemoteAddr().String())
		reset(tn.raw)
	}
}

// forget closes the idle tunnels of a pod that left.
func (t *tunnels) forget(pod mesh.UID) {
	t.pool.CloseIf(func(k tunnelKey) bool { return k.pod == pod })
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.dialled, func(k tunnelKey, _ timing) bool { return k.pod == pod })
}

func (t *tunnels) close(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	t.pool.Drain(ctx)
}
