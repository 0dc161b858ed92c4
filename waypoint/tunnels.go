package waypoint

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/peer"
)

const (
	handshakeTimeout = 5 * time.Second
	// Each costs a file descriptor and a goroutine before its peer has proved anything.
	maxHandshakes, maxHandshakesOfOne = 1024, 128
	// A node's ztunnel has a handful of tunnels for each of its pods; one of Istio's one for each 100 connections.
	maxTunnels, maxTunnelsOfOne = 8192, 1024
	bufferBudget                = 256 << 20
)

// tunnels are those that peers made to this waypoint.
type tunnels struct {
	certs   func() (*identity.SVID, error)
	bundle  identity.GetBundle
	take    func(context.Context, *tunnel, *hbone.Inbound)
	log     *slog.Logger
	config  hbone.Config
	refused *prometheus.CounterVec

	pod                  mesh.UID // the waypoint's own, which all are to
	handshakes, accepted *peer.Gate
	live                 *peer.Tunnels[*tunnel]
	serving              context.Context // ends when tunnels are to drain
	drain                context.CancelFunc
	running              sync.WaitGroup
}

// tunnel is one peer's, who has proved to be id.
type tunnel struct {
	*peer.Conn
	id   identity.ID
	cert *x509.Certificate
	from netip.Addr
	at   netip.Addr // the waypoint's address that it was made to
}

func newTunnels(w *Waypoint) *tunnels {
	t := &tunnels{
		certs: w.manager.For(w.id), bundle: w.bundles.Load, log: w.cfg.Log, pod: mesh.UID(w.cfg.UID), live: peer.NewTunnels[*tunnel](w.bundles.Load),
		config:     hbone.Config{Budget: hbone.NewBudget(bufferBudget), Stats: new(hbone.Stats), Log: w.cfg.Log, DrainTimeout: w.cfg.DrainTimeout},
		handshakes: peer.NewGate(peer.Limits{PerPod: maxHandshakes, PerPair: maxHandshakesOfOne}),
		accepted:   peer.NewGate(peer.Limits{PerPod: maxTunnels, PerPair: maxTunnelsOfOne}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_waypoint_tunnels_refused_total", Help: "Tunnels that were not accepted."}, []string{"reason"}),
	}
	t.serving, t.drain = context.WithCancel(context.Background())
	w.registry.MustRegister(t.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "warren_waypoint_tunnels", Help: "Tunnels that peers have open."}, func() float64 { return float64(t.live.Len()) }))
	return t
}

// serve accepts until ctx ends, or tunnels drain: who comes then is refused at once, and goes to another replica.
func (t *tunnels) serve(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	defer context.AfterFunc(t.serving, func() { _ = l.Close() })()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return ctx.Err()
		}
		if err != nil {
			t.log.Warn("accept failed", "err", err)
			wait(ctx, 20*time.Millisecond)
			continue
		}
		t.running.Go(func() { t.one(ctx, c.(*net.TCPConn)) })
	}
}

// one serves a connection of a peer's until it ends.
func (t *tunnels) one(ctx context.Context, raw *net.TCPConn) {
	from := peer.Addr(raw.RemoteAddr()).Addr()
	tn, reason, err := t.greet(ctx, raw, from)
	if err != nil {
		_ = raw.SetLinger(0)
		_ = raw.Close() // it is reset either way
		t.refused.WithLabelValues(reason).Inc()
		t.log.Debug("tunnel refused", "src", raw.RemoteAddr().String(), "reason", reason, "err", err)
		return
	}
	defer t.accepted.Leave(t.pod, from)
	defer t.live.Remove(tn)
	if err := hbone.ServeConn(t.serving, tn, t.config, func(ctx context.Context, in *hbone.Inbound) { t.take(ctx, tn, in) }); err != nil {
		t.log.Debug("tunnel ended", "src", raw.RemoteAddr().String(), "src_id", tn.id.String(), "err", err)
	}
}

// greet has a peer prove who it is. The caller of an accepted one removes it from t.live and leaves t.accepted.
func (t *tunnels) greet(ctx context.Context, raw *net.TCPConn, from netip.Addr) (tn *tunnel, reason string, err error) {
	if !t.handshakes.Enter(t.pod, from) {
		return nil, "too_many_handshakes", errors.New("too many handshakes under way")
	}
	defer t.handshakes.Leave(t.pod, from)
	hctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	bundle := t.bundle()
	conn, err := peer.Server(raw, identity.ServerConfig(t.certs, t.bundle))
	if err != nil {
		return nil, "tls_failed", err
	}
	if err = conn.HandshakeContext(hctx); err != nil {
		return nil, "tls_failed", err
	}
	id, err := identity.PeerID(conn.ConnectionState())
	if err != nil {
		return nil, "tls_failed", err
	}
	if !t.accepted.Enter(t.pod, from) {
		return nil, "too_many_tunnels", errors.New("too many tunnels")
	}
	proof := peer.ProofOf(conn.Conn, x509.ExtKeyUsageClientAuth)
	tn = &tunnel{Conn: conn, id: id, cert: proof.Leaf(), from: from, at: peer.Addr(raw.LocalAddr()).Addr()}
	if err := t.live.Add(tn, proof, bundle); err != nil {
		t.accepted.Leave(t.pod, from)
		return nil, "trust_removed", fmt.Errorf("no root vouches for %s any more: %w", id, err)
	}
	return tn, "", nil
}

// distrust ends the tunnels whose peer the bundle in force no longer vouches for.
func (t *tunnels) distrust() {
	for _, tn := range t.live.Distrusted() {
		_ = tn.Conn.NetConn().Close() // ends everything on it
	}
}

// settleTime is how long streams may still come after tunnels were told to drain: a second until hbone takes no more,
// and what it takes to learn what the last of them speak.
const settleTime = time.Second + 2*firstWords

// settle returns once peers know that tunnels drain, so that no stream comes any more.
func (t *tunnels) settle(ctx context.Context, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for t.live.Len() > 0 && ctx.Err() == nil { // those without streams end
		wait(ctx, 10*time.Millisecond)
	}
}

// close cuts every tunnel and returns once nothing of them runs.
func (t *tunnels) close() {
	t.drain()
	for _, tn := range t.live.All() {
		_ = tn.Conn.NetConn().Close()
	}
	t.running.Wait()
}
