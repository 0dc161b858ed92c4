// Package ztunnel carries the connections of one node's pods. Read it in the order a connection travels:
//
//	outbound.go   a pod's app dialled: what did it want, who is it, where to, by which way
//	route.go      service address → endpoint (reach.go: which there are; affinity.go: the one that this client had)
//	tunnel.go     the pooled, mutually authenticated way to a peer (wire format: ./hbone)
//	inbound.go    a peer, or a client without identity, wants a pod's app: who, may it, reach the app
//	copy.go       bytes, FIN and RST both ways
//	direct.go     what the kernel may connect by itself, and what becomes of it
//	conns.go      every open connection: registered before it is decided, decided again on change
//	record.go     the one record of a connection, from which log, metrics and flows come
//
// ztunnel knows no kernel interface: the sockets of a pod come through [Sockets].
package ztunnel

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/ztunnel/peer"
)

// TunnelPort is the port of a pod that its peers' tunnels dial (HBONE).
const TunnelPort = 15008

// World is what ztunnel decides by, swapped whole.
type World struct {
	Mesh     *mesh.Snapshot
	Policies *policy.Set
}

// Sockets are made inside one pod's network namespace.
type Sockets interface {
	// OriginalDst returns where a captured connection from `client` wanted to go, and how long ago it began.
	OriginalDst(client netip.AddrPort) (netip.AddrPort, time.Duration, error)
	// Source returns that client's address as its app sees it.
	Source(client netip.AddrPort) netip.AddrPort
	// Dial connects from the pod, by source address src if that is valid.
	Dial(ctx context.Context, src netip.Addr, dst netip.AddrPort) (*net.TCPConn, error)
	// DialApp connects to the pod's own app, which is shown `client` as its peer until release is called.
	DialApp(ctx context.Context, client, app netip.AddrPort) (conn *net.TCPConn, release func(), err error)
}

// Pod is one local pod. The connections accepted on Plaintext and Tunnel have their original destination as
// local address; those on Outbound ask Sockets.
type Pod struct {
	UID                         mesh.UID
	Sockets                     Sockets
	Outbound, Plaintext, Tunnel []net.Listener
	// Netns is its network namespace's cookie, and Direct the kernel's way out of it; nil if there is none.
	Netns  uint64
	Direct Direct
}

// Certs is where SVIDs and trust come from.
type Certs interface {
	// Get returns a valid SVID of the identity, waiting for its first issuance until ctx ends.
	Get(ctx context.Context, id identity.Name) (*identity.SVID, error)
	// Bundle returns the trust bundle in force.
	Bundle() *identity.Bundle
}

// ErrExpired is wrapped by the error of a Certs whose SVID has expired and could not be renewed.
var ErrExpired = errors.New("the workload's SVID has expired")

// Config is what a Proxy needs. All fields are required but those that say otherwise.
type Config struct {
	Node  string
	World *mesh.Store[World]
	Certs Certs
	Log   *slog.Logger
	// Sink gets each connection's record when it opens and when it ends; it must not block.
	Sink func(Record)
	// MaxConns bounds open connections of the node; each holds about 2 fds. Beyond it new ones are refused.
	MaxConns int
	// DialTimeout bounds one attempt to reach an endpoint, TLS included. Default 5 s.
	DialTimeout time.Duration
	// HandshakeTimeout bounds a peer's TLS handshake. Default 5 s.
	HandshakeTimeout time.Duration
	// EncryptSameNode sends traffic between pods of one node through a tunnel too. By default the kernel's word
	// on which namespace a socket is in stands for a certificate there.
	EncryptSameNode bool
	// Kernel connects pods of this node by itself once that was permitted. Nil: all connections are carried.
	Kernel Kernel
}

// Proxy serves the pods of one node.
type Proxy struct {
	cfg        Config
	conns      *conns
	loads      *loads
	affinities *affinities
	reaches    reachCache
	pool       *tunnels
	// What peers may hold of this node before they have proved who they are, and after.
	handshakes, accepted *peer.Gate
	departed             *departed
	direct               *directs

	mu      sync.Mutex
	pods    map[mesh.UID]*Pod
	byNetns map[uint64]*Pod
}

// New returns a proxy that serves no pod yet. Run must be running for policy changes to reach open connections.
func New(cfg Config) *Proxy {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 5 * time.Second
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = 5 * time.Second
	}
	p := &Proxy{cfg: cfg, conns: newConns(cfg.MaxConns), loads: newLoads(), affinities: newAffinities(maxAffinities), pods: map[mesh.UID]*Pod{},
		handshakes: peer.NewGate(handshakeLimits()), accepted: peer.NewGate(tunnelLimits()), departed: newDeparted(cfg.World),
		byNetns: map[uint64]*Pod{}}
	p.pool = newTunnels(p)
	p.direct = newDirects(p)
	return p
}

// Serve accepts the pod's connections until its listeners are closed or ctx ends, and returns once the
// goroutines that accept have. Connections go on until they end by themselves or ctx does.
func (p *Proxy) Serve(ctx context.Context, pod *Pod) {
	p.know(pod)
	defer p.unknow(pod)
	var accepting sync.WaitGroup
	serve := func(ls []net.Listener, handle func(context.Context, *Pod, *net.TCPConn)) {
		for _, l := range ls {
			accepting.Go(func() { p.accept(ctx, l, func(c *net.TCPConn) { handle(ctx, pod, c) }) })
		}
	}
	serve(pod.Outbound, p.outbound)
	serve(pod.Plaintext, p.steered(p.plaintext))
	serve(pod.Tunnel, p.steered(p.tunnel))
	accepting.Wait()
}

func (p *Proxy) know(pod *Pod) {
	p.mu.Lock()
	p.pods[pod.UID] = pod
	if pod.Direct != nil {
		p.byNetns[pod.Netns] = pod
	}
	p.mu.Unlock()
	p.direct.adopt()
}

func (p *Proxy) unknow(pod *Pod) {
	p.mu.Lock()
	if p.pods[pod.UID] == pod {
		delete(p.pods, pod.UID)
	}
	if p.byNetns[pod.Netns] == pod {
		delete(p.byNetns, pod.Netns)
	}
	p.mu.Unlock()
	p.direct.forget(pod)
	p.pool.forget(pod.UID)
}

// accept hands every connection to a goroutine of its own. Out of fds it waits a little: the kernel's backlog
// holds what comes.
func (p *Proxy) accept(ctx context.Context, l net.Listener, handle func(*net.TCPConn)) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			if c != nil {
				c.Close()
			}
			return
		}
		if err != nil {
			p.cfg.Log.Warn("accept failed", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		p.conns.tasks.Go(func() {
			defer p.survive(c.(*net.TCPConn))
			handle(c.(*net.TCPConn))
		})
	}
}

// survive keeps one connection's panic from ending all others.
func (p *Proxy) survive(c net.Conn) {
	if r := recover(); r != nil {
		c.Close()
		p.cfg.Log.Error("connection handler panicked", "panic", r, "stack", string(debug.Stack()))
	}
}

// local returns the pod if this node serves it.
func (p *Proxy) local(uid mesh.UID) *Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pods[uid]
}

// inNetns returns the pod that this node serves in a network namespace.
func (p *Proxy) inNetns(cookie uint64) *Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byNetns[cookie]
}

// Close ends every connection after `grace`, or sooner once all have ended, and returns when none is left. Whoever
// serves pods must have stopped.
func (p *Proxy) Close(grace time.Duration) {
	if !p.conns.drain(grace) {
		p.cfg.Log.Warn("connections did not end when told to", "open", p.OpenConnections())
	}
	p.pool.close() // after the connections: its tunnels carry them
}

// idOf returns the identity that the mesh gives a workload.
func idOf(w *mesh.Workload) (identity.ID, error) {
	return identity.New(w.TrustDomain, w.Namespace, w.ServiceAccount)
}
