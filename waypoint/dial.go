package waypoint

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/upstream"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/peer"
)

const (
	tunnelPort  = 15008
	dialTimeout = 5 * time.Second
	// connsPerPeer is how many tunnels to one workload may be open before streams share them.
	connsPerPeer = 8
	// connsFull is how many there may be once those are full, of 100 streams each: less than a node takes of one peer.
	connsFull = 200
)

// dialer reaches endpoints: by tunnels that are kept warm, or by TCP where there is no mesh.
type dialer struct {
	certs  func(context.Context) (*identity.SVID, error)
	bundle identity.GetBundle
	log    *slog.Logger
	pool   *hbone.Pool[peerKey]
	live   *peer.Tunnels[*peerTunnel]
	rounds *peer.Rounds[peerKey, struct{}] // by key without its round
}

// peerKey says which streams may share a tunnel.
type peerKey struct {
	id identity.ID
	to netip.Addr
	// round parts tunnels that were made with a certificate of either end that has expired since from later ones.
	round uint32
}

// outOfRound is what all rounds of the key have in common.
func (k peerKey) outOfRound() peerKey {
	k.round = 0
	return k
}

// peerTunnel is a tunnel to a destination's node.
type peerTunnel struct {
	*peer.Conn
	forget func()
}

// Close also forgets the tunnel.
func (t *peerTunnel) Close() error {
	t.forget()
	return t.Conn.Close()
}

func newDialer(w *Waypoint) *dialer {
	d := &dialer{
		certs:  func(ctx context.Context) (*identity.SVID, error) { return w.manager.Get(ctx, w.id) },
		bundle: w.bundles.Load, log: w.cfg.Log,
		live: peer.NewTunnels[*peerTunnel](w.bundles.Load), rounds: peer.NewRounds[peerKey, struct{}](),
	}
	stats := new(hbone.Stats)
	d.pool = hbone.NewPool(hbone.PoolConfig{
		MaxConnsPerKey: connsPerPeer, MaxConnsFull: connsFull, DialTimeout: dialTimeout,
		Conn: hbone.Config{Budget: hbone.NewBudget(bufferBudget), Stats: stats, Log: w.cfg.Log},
	}, d.tunnel)
	w.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "warren_waypoint_upstream_tunnels", Help: "Tunnels to destinations that are open."},
			func() float64 { return float64(d.pool.Stats().Conns) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "warren_waypoint_upstream_dials_total", Help: "Tunnels to destinations that were dialled."},
			func() float64 { return float64(d.pool.Stats().Dials) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "warren_waypoint_upstream_dial_failures_total", Help: "Tunnels to destinations that could not be made."},
			func() float64 { return float64(d.pool.Stats().DialFails) }))
	return d
}

// dial returns a stream of bytes to an endpoint's app. Its error wraps upstream.ErrAway if that may be reached in a moment.
func (d *dialer) dial(ctx context.Context, to upstream.Endpoint, c *exchange.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if to.Workload == nil || !to.Workload.Tunnelled() {
		return (&net.Dialer{}).DialContext(ctx, "tcp", to.Addr.String())
	}
	key, err := d.key(to.Workload, to.Addr.Addr())
	if err != nil {
		return nil, err
	}
	stream, _, err := d.pool.Connect(ctx, key, hbone.Request{
		Authority: to.Addr.String(), Forwarded: hbone.ForwardedFor(c.ClientAddr), Traceparent: hbone.TraceparentOf(c.TraceID),
	})
	if hbone.IsAway(err) {
		err = fmt.Errorf("%w: %w", upstream.ErrAway, err) // the mesh says that it takes tunnels
	}
	if err != nil {
		return nil, err
	}
	return stream, nil
}

// dialPatiently is dial for who has no other endpoint to try: it waits for an agent that is being replaced.
func (d *dialer) dialPatiently(ctx context.Context, to upstream.Endpoint, c *exchange.Conn) (nc net.Conn, err error) {
	peer.WhileAway(ctx, func() (away bool) {
		nc, err = d.dial(ctx, to, c)
		return errors.Is(err, upstream.ErrAway)
	})
	return nc, err
}

// dialService connects to a port of a service for the waypoint itself: to one of its endpoints, as the mesh knows them.
func (w *Waypoint) dialService(ctx context.Context, service string, port uint16) (net.Conn, error) {
	svc := w.world.Load().Mesh.ServiceNamed(service)
	if svc == nil {
		return nil, fmt.Errorf("there is no service %s", service)
	}
	self := &exchange.Conn{Client: w.id, TraceID: hbone.NewTraceID()}
	pick, err := w.upstreams.Pick(upstream.Ask{Service: svc, Port: port, V4: true, Request: new(http.Request), Conn: self})
	if err != nil {
		return nil, err
	}
	to := pick.Endpoint
	pick.Release() // it is a connection of many questions
	return w.dialer.dialPatiently(ctx, to, self)
}

func (d *dialer) key(w *mesh.Workload, to netip.Addr) (peerKey, error) {
	id, err := identity.New(w.TrustDomain, w.Namespace, w.ServiceAccount)
	if err != nil {
		return peerKey{}, err
	}
	key := peerKey{id: id, to: to}
	key.round = d.rounds.Of(key, time.Now())
	return key, nil
}

// tunnel makes a tunnel to a workload, and checks that whoever answers is who the mesh says.
func (d *dialer) tunnel(ctx context.Context, key peerKey) (net.Conn, error) {
	svid, err := d.certs(ctx)
	if err != nil {
		return nil, err
	}
	to := netip.AddrPortFrom(key.to, tunnelPort)
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	before := d.bundle()
	conn, err := peer.Client(raw.(*net.TCPConn), identity.ClientConfig(func() (*identity.SVID, error) { return svid, nil }, d.bundle, key.id))
	if err == nil {
		err = conn.HandshakeContext(ctx)
	}
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS handshake with %s at %s: %w", key.id, to, err)
	}
	proof := peer.ProofOf(conn.Conn, x509.ExtKeyUsageServerAuth)
	t := &peerTunnel{Conn: conn}
	t.forget = func() { d.live.Remove(t) }
	if err := d.live.Add(t, proof, before); err != nil {
		_ = t.Close()
		return nil, fmt.Errorf("no root vouches for %s any more: %w", key.id, err)
	}
	d.rounds.Note(key.outOfRound(), key.round, peer.LastStream(time.Now(), svid.NotAfter, proof.Leaf().NotAfter), struct{}{})
	return t, nil
}

// distrust ends the tunnels whose peer the bundle in force no longer vouches for.
func (d *dialer) distrust() {
	for _, t := range d.live.Distrusted() {
		_ = t.NetConn().Close() // ends everything on it
	}
}

func (d *dialer) close() { _ = d.pool.Close() }
