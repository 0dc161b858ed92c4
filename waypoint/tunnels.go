package waypoint

import (
	"context"
	"crypto/tls"
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
	"github.com/warren-mesh/warren/ztunnel/hbone"
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

	handshakes, accepted gate
	serving              context.Context // ends when tunnels are to drain
	drain                context.CancelFunc
	running              sync.WaitGroup

	mu   sync.Mutex
	live map[*tunnel]struct{}
}

// tunnel is one peer's, who has proved to be id.
type tunnel struct {
	*tls.Conn
	id   identity.ID
	cert *x509.Certificate
	from netip.Addr
	at   netip.Addr // the waypoint's address that it was made to
}

func newTunnels(w *Waypoint) *tunnels {
	t := &tunnels{
		certs: w.manager.For(w.id), bundle: w.bundles.Load, log: w.cfg.Log, live: map[*tunnel]struct{}{},
		config:     hbone.Config{Budget: hbone.NewBudget(bufferBudget), Stats: new(hbone.Stats), Log: w.cfg.Log, DrainTimeout: w.cfg.DrainTimeout},
		handshakes: gate{most: maxHandshakes, each: maxHandshakesOfOne}, accepted: gate{most: maxTunnels, each: maxTunnelsOfOne},
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_waypoint_tunnels_refused_total", Help: "Tunnels that were not accepted."}, []string{"reason"}),
	}
	t.serving, t.drain = context.WithCancel(context.Background())
	w.registry.MustRegister(t.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "warren_waypoint_tunnels", Help: "Tunnels that peers have open."}, func() float64 { return float64(t.open()) }))
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
	from := addrOf(raw.RemoteAddr()).Addr()
	tn, reason, err := t.greet(ctx, raw, from)
	if err != nil {
		_ = raw.SetLinger(0)
		_ = raw.Close() // it is reset either way
		t.refused.WithLabelValues(reason).Inc()
		t.log.Debug("tunnel refused", "src", raw.RemoteAddr().String(), "reason", reason, "err", err)
		return
	}
	defer t.accepted.leave(from)
	defer t.forget(tn)
	if err := hbone.ServeConn(t.serving, tn, t.config, func(ctx context.Context, in *hbone.Inbound) { t.take(ctx, tn, in) }); err != nil {
		t.log.Debug("tunnel ended", "src", raw.RemoteAddr().String(), "src_id", tn.id.String(), "err", err)
	}
}

// greet has a peer prove who it is. The caller of an accepted one forgets it and leaves t.accepted.
func (t *tunnels) greet(ctx context.Context, raw *net.TCPConn, from netip.Addr) (tn *tunnel, reason string, err error) {
	if !t.handshakes.enter(from) {
		return nil, "too_many_handshakes", errors.New("too many handshakes under way")
	}
	defer t.handshakes.leave(from)
	hctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	bundle := t.bundle()
	conn := tls.Server(raw, identity.ServerConfig(t.certs, t.bundle))
	if err = conn.HandshakeContext(hctx); err != nil {
		return nil, "tls_failed", err
	}
	id, err := identity.PeerID(conn.ConnectionState())
	if err != nil {
		return nil, "tls_failed", err
	}
	if !t.accepted.enter(from) {
		return nil, "too_many_tunnels", errors.New("too many tunnels")
	}
	tn = &tunnel{Conn: conn, id: id, cert: conn.ConnectionState().PeerCertificates[0], from: from, at: addrOf(raw.LocalAddr()).Addr()}
	t.mu.Lock()
	t.live[tn] = struct{}{}
	t.mu.Unlock()
	if now := t.bundle(); now != bundle && !tn.vouched(now) { // distrust may have missed it
		t.forget(tn)
		t.accepted.leave(from)
		return nil, "trust_removed", fmt.Errorf("no root vouches for %s any more", id)
	}
	return tn, "", nil
}

func (t *tunnel) vouched(b *identity.Bundle) bool {
	return vouched(t.ConnectionState().PeerCertificates, b, x509.ExtKeyUsageClientAuth)
}

// vouched tells whether a bundle vouches for a peer, as of its certificate's last moment if that is over: that it expired
// is no reason to end what is open, and none to let a removed root's peer go on.
func vouched(chain []*x509.Certificate, b *identity.Bundle, usage x509.ExtKeyUsage) bool {
	now := time.Now()
	if now.After(chain[0].NotAfter) {
		now = chain[0].NotAfter
	}
	_, err := identity.VerifyChain(chain, b, usage, now)
	return err == nil
}

func (t *tunnels) forget(tn *tunnel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, tn)
}

func (t *tunnels) open() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.live)
}

// distrust ends the tunnels whose peer the bundle in force no longer vouches for.
func (t *tunnels) distrust() {
	bundle := t.bundle()
	for _, tn := range t.all() {
		if !tn.vouched(bundle) {
			_ = tn.Conn.NetConn().Close() // ends everything on it
		}
	}
}

func (t *tunnels) all() []*tunnel {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*tunnel, 0, len(t.live))
	for tn := range t.live {
		out = append(out, tn)
	}
	return out
}

// settleTime is how long streams may still come after tunnels were told to drain: a second until hbone takes no more,
// and what it takes to learn what the last of them speak.
const settleTime = time.Second + 2*firstWords

// settle returns once peers know that tunnels drain, so that no stream comes any more.
func (t *tunnels) settle(ctx context.Context, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for t.open() > 0 && ctx.Err() == nil { // those without streams end
		wait(ctx, 10*time.Millisecond)
	}
}

// close cuts every tunnel and returns once nothing of them runs.
func (t *tunnels) close() {
	t.drain()
	for _, tn := range t.all() {
		_ = tn.Conn.NetConn().Close()
	}
	t.running.Wait()
}

// gate bounds how much of something peers may hold at once, all of them and one address.
type gate struct {
	most, each int

	mu    sync.Mutex
	total int
	by    map[netip.Addr]int
}

func (g *gate) enter(from netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= g.most || g.by[from] >= g.each {
		return false
	}
	if g.by == nil {
		g.by = map[netip.Addr]int{}
	}
	g.total++
	g.by[from]++
	return true
}

func (g *gate) leave(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.by[from]--; g.by[from] == 0 {
		delete(g.by, from)
	}
}

// addrOf returns a TCP address in the one form that is ever compared.
func addrOf(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
