package ztunnel

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/peer"
)

// arrival is a connection that wants a pod's app.
type arrival struct {
	client   netip.AddrPort // as the app will see it
	src      identity.ID    // zero for plaintext
	app      netip.AddrPort
	security Security
}

// steered lets only those connections through that the kernel handed over. It never hands over one to loopback: such
// a one was dialled by the pod's own processes, and to reach "the app" at the listener's address would loop for ever.
func (p *Proxy) steered(handle func(context.Context, *Pod, *net.TCPConn)) func(context.Context, *Pod, *net.TCPConn) {
	return func(ctx context.Context, pod *Pod, c *net.TCPConn) {
		if peer.Addr(c.LocalAddr()).Addr().IsLoopback() {
			reset(c)
			p.turnAway(pod, c, ReasonNotCaptured, "the pod dialled its own listener of the mesh")
			return
		}
		handle(ctx, pod, c)
	}
}

// plaintext serves a connection that came without a tunnel: it has no identity.
func (p *Proxy) plaintext(ctx context.Context, pod *Pod, client *net.TCPConn) {
	if p.direct.isTrial(client) {
		client.Close()
		return
	}
	k := newConn(pod, hbone.NewTraceID(), Inbound)
	k.onKill(func() { reset(client) })
	a := arrival{client: peer.Addr(client.RemoteAddr()), app: peer.Addr(client.LocalAddr()), security: Plaintext}
	defer p.conns.release(k)
	app, release, f := p.admit(ctx, k, a)
	if f == nil {
		p.forward(k, client, &link{server: app, kill: func() { reset(app) }, ends: []func(){release}})
	}
	p.finish(k, client, f)
}

// deliverLocal hands a connection to a pod of this node. The kernel vouches for the client: its socket is in
// the network namespace of the pod whose listener accepted it.
func (p *Proxy) deliverLocal(ctx context.Context, out *conn, client *net.TCPConn, h hop, to *Pod) (l *link, f *failure) {
	src := out.record.Src
	in := newConn(to, out.record.ID, Inbound)
	in.record.Start = out.record.Start
	in.onKill(func() { reset(client) })
	forget := func() { p.conns.release(in) }
	defer func() {
		if l == nil {
			forget()
		}
	}()
	out.set(func(r *Record) { r.Security = SameNode })
	app, release, f := p.admit(ctx, in, arrival{client: src.Addr, src: src.ID, app: h.addr, security: SameNode})
	admitted := in.snapshot() // a change of policy may be ending it meanwhile
	out.set(func(r *Record) {
		r.Phases.Authorize, r.Phases.App = admitted.Phases.Authorize, admitted.Phases.App
		r.Rule, r.Dst.ID = admitted.Rule, admitted.Dst.ID
	})
	if f != nil {
		in.onKill(nil) // the client is out's, which may have another endpoint to try
		in.end(f.reason, f.verdict, "", f.detail())
		p.ended(in)
		return nil, f
	}
	out.permit()
	return &link{server: app, kill: func() { reset(app) }, also: in, ends: []func(){forget, release, func() { p.ended(in) }}}, nil
}

// admit registers the arrival, decides it and reaches the app. Nothing is dialled without a permit.
func (p *Proxy) admit(ctx context.Context, k *conn, a arrival) (*net.TCPConn, func(), *failure) {
	k.set(func(r *Record) {
		r.Src = Party{Addr: a.client, ID: a.src, Workload: p.workloadAt(a.client.Addr())}
		r.Dst = Party{Addr: a.app}
		r.Security = a.security
		// Whatever decides later decides by the same facts.
	})
	k.mu.Lock()
	k.decide = func(w *World) policy.Decision { return decide(w, k.pod.UID, a) }
	k.mu.Unlock()
	if !p.conns.register(k) {
		return nil, nil, fail(ReasonOverload, fmt.Errorf("%d connections are open", p.cfg.MaxConns))
	}
	start := time.Now()
	world := p.cfg.World.Load()
	self := world.Mesh.Workload(k.pod.UID)
	decision := decide(world, k.pod.UID, a)
	k.set(func(r *Record) {
		r.Phases.Authorize = time.Since(start)
		r.Rule, r.Audit = decision.Rule, decision.Audit
		r.Dst.Workload = self
		if self != nil && a.security != Plaintext {
			r.Dst.ID, _ = idOf(self)
		}
	})
	if !decision.Allowed {
		// A pod that is gone denies nobody: another endpoint may do better.
		gone := decision.Reason == policy.ReasonUnknownLocal && self == nil
		return nil, nil, &failure{reason: reasonOf(decision), verdict: Denied, retry: gone}
	}
	return p.reach(ctx, k, a, decision.Permit())
}

// reach connects to the pod's app. It takes a permit, so that nobody can be let in undecided.
func (p *Proxy) reach(ctx context.Context, k *conn, a arrival, permit policy.Permit) (*net.TCPConn, func(), *failure) {
	if !permit.Valid() {
		return nil, nil, &failure{reason: ReasonUnknownTarget, verdict: Denied}
	}
	start := time.Now()
	dctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	app, release, err := k.pod.Sockets.DialApp(dctx, a.client, a.app)
	k.set(func(r *Record) { r.Phases.App = time.Since(start) })
	if errors.Is(err, os.ErrClosed) {
		return nil, nil, &failure{reason: ReasonDraining, verdict: Failed, err: err, retry: true}
	}
	if err != nil {
		f := dialFailure(err)
		f.reason = ReasonAppUnreachable
		return nil, nil, f
	}
	return app, release, nil
}

// decide decides an arrival by a world. What the world does not know is denied.
func decide(w *World, uid mesh.UID, a arrival) policy.Decision {
	self := w.Mesh.Workload(uid)
	if self == nil {
		return policy.Decision{Reason: policy.ReasonUnknownLocal}
	}
	if a.src.IsZero() && a.security != Plaintext {
		return policy.Decision{Reason: policy.ReasonUnknownLocal}
	}
	return w.Policies.Decide(policy.Target{
		Policies:     self.Policies,
		Strict:       self.MTLS.ModeOf(a.app.Port()) == mesh.Strict,
		StrictSource: self.MTLS.Source,
		Through:      self.Through, TrustDomain: self.TrustDomain,
	}, policy.Conn{Src: a.src, SrcAddr: a.client.Addr(), Dst: a.app})
}

// tunnel serves a peer's tunnel: TLS, then a stream a connection.
func (p *Proxy) tunnel(ctx context.Context, pod *Pod, raw *net.TCPConn) {
	from := peer.Addr(raw.RemoteAddr()).Addr()
	tn, id, f := p.greet(ctx, pod, raw, from)
	if f != nil {
		reset(raw)
		p.turnAway(pod, raw, f.reason, f.detail())
		return
	}
	defer tn.Close()
	defer p.accepted.Leave(pod.UID, from)
	inner := &inboundTunnel{proxy: p, pod: pod, peer: id, via: tn.via(), from: peer.Addr(raw.RemoteAddr()), at: peer.Addr(raw.LocalAddr()).Addr(), until: tn.peerNotAfter}
	if err := hbone.ServeConn(ctx, tn, p.pool.serverConfig(), inner.serve); err != nil {
		p.cfg.Log.Debug("tunnel ended", "src", raw.RemoteAddr().String(), "src_id", id.String(), "err", err)
	}
}

// greet has a peer prove who it is, within what its address may hold of this node. The caller of a tunnel that was
// accepted leaves p.accepted.
func (p *Proxy) greet(ctx context.Context, pod *Pod, raw *net.TCPConn, from netip.Addr) (*tunnel, identity.ID, *failure) {
	if !p.handshakes.Enter(pod.UID, from) {
		return nil, identity.ID{}, fail(ReasonHandshakes, nil)
	}
	bundle := p.cfg.Certs.Bundle()
	conn, id, err := p.shake(ctx, pod, raw)
	p.handshakes.Leave(pod.UID, from)
	if err != nil {
		return nil, identity.ID{}, fail(ReasonTLS, err)
	}
	if !p.accepted.Enter(pod.UID, from) {
		return nil, identity.ID{}, fail(ReasonTunnels, nil)
	}
	tn, err := p.pool.track(conn, raw, x509.ExtKeyUsageClientAuth, bundle)
	if err != nil {
		p.accepted.Leave(pod.UID, from)
		return nil, identity.ID{}, fail(ReasonTrustRemoved, err)
	}
	return tn, id, nil
}

// shake does the TLS handshake as the pod, and returns who the peer proved to be.
func (p *Proxy) shake(ctx context.Context, pod *Pod, raw *net.TCPConn) (*peer.Conn, identity.ID, error) {
	self := p.cfg.World.Load().Mesh.Workload(pod.UID)
	if self == nil {
		return nil, identity.ID{}, fmt.Errorf("the mesh does not know this pod")
	}
	id, err := idOf(self)
	if err != nil {
		return nil, identity.ID{}, err
	}
	// A tunnel that comes while its pod's are drained is drained, too: so its peer hears that it may go on elsewhere.
	hctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.HandshakeTimeout)
	defer cancel()
	cfg := identity.ServerConfig(func() (*identity.SVID, error) { return p.cfg.Certs.Get(hctx, id) }, p.cfg.Certs.Bundle)
	conn, err := peer.Server(raw, cfg)
	if err != nil {
		return nil, identity.ID{}, err
	}
	if err := conn.HandshakeContext(hctx); err != nil {
		return nil, identity.ID{}, err
	}
	who, err := identity.PeerID(conn.ConnectionState())
	return conn, who, err
}

// turnAway records a connection that was refused before it asked for anything.
func (p *Proxy) turnAway(pod *Pod, raw *net.TCPConn, reason Reason, detail string) {
	now := time.Now()
	from := peer.Addr(raw.RemoteAddr())
	p.cfg.Sink(Record{
		ID: hbone.NewTraceID(), Reporter: Inbound, Start: now, End: now,
		Src:     Party{Addr: from, Workload: p.workloadAt(from.Addr())},
		Dst:     Party{Addr: peer.Addr(raw.LocalAddr()), Workload: p.cfg.World.Load().Mesh.Workload(pod.UID)},
		Verdict: Denied, Reason: reason, Detail: detail, Security: MutualTLS,
	})
}

// inboundTunnel is one peer's tunnel into one pod.
type inboundTunnel struct {
	proxy *Proxy
	pod   *Pod
	peer  identity.ID
	via   via
	from  netip.AddrPort // the peer's end of the tunnel
	at    netip.Addr     // the address that the tunnel was made to
	until time.Time      // when the peer's certificate ends
}

// serve serves one stream: target → decide → reach the app → 200 → forward.
func (t *inboundTunnel) serve(ctx context.Context, in *hbone.Inbound) {
	p, req := t.proxy, in.Request()
	k := newConn(t.pod, req.TraceID(), Inbound)
	k.via = t.via
	defer p.conns.release(k)
	k.onKill(func() { // k.mu is held
		if k.record.Reason == ReasonDraining {
			in.Leave()
		} else {
			in.Refuse(503, "")
		}
	})
	app, release, f := t.admit(ctx, k, req)
	switch {
	case f == nil:
		t.forward(k, in, app, release)
	case f.reason == ReasonDraining: // nothing was done for it
		in.Leave()
	default:
		in.RefuseBy(statusOf(f), string(f.reason), k.refusedBy(f))
	}
	if f != nil {
		k.end(f.reason, f.verdict, "", f.detail())
	}
	p.ended(k)
}

func (t *inboundTunnel) admit(ctx context.Context, k *conn, req hbone.Request) (*net.TCPConn, func(), *failure) {
	k.set(func(r *Record) {
		r.Src = Party{Addr: netip.AddrPortFrom(t.from.Addr(), 0), ID: t.peer}
		r.Security = MutualTLS
	})
	target, err := hbone.ParseAuthority(req.Authority)
	if err != nil {
		return nil, nil, &failure{reason: ReasonBadTarget, verdict: Denied, err: err}
	}
	if target.Addr() != t.at {
		return nil, nil, &failure{reason: ReasonBadTarget, verdict: Denied,
			err: fmt.Errorf("target %s is not the workload at %s", target, t.at)}
	}
	if time.Now().After(t.until) {
		return nil, nil, &failure{reason: ReasonPeerExpired, verdict: Denied}
	}
	return t.proxy.admit(ctx, k, arrival{
		client: req.Client(t.from), src: t.peer, app: target, security: MutualTLS,
	})
}

func (t *inboundTunnel) forward(k *conn, in *hbone.Inbound, app *net.TCPConn, release func()) {
	stream, err := in.Accept(hbone.Answer{})
	if err != nil {
		reset(app)
		release()
		k.end(ReasonTunnel, Failed, "", err.Error())
		return
	}
	t.proxy.forward(k, tunnelled{stream}, &link{server: app, kill: func() { reset(app); stream.Reset(hbone.CodeConnect) }, ends: []func(){release}})
}

// refusedBy names what refused a connection, for the peer: nothing if it was let in and failed after that.
func (k *conn) refusedBy(f *failure) string {
	if f.verdict != Denied {
		return ""
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.record.Rule
}

// statusOf is the answer that a peer's ztunnel understands, Istio's included.
func statusOf(f *failure) int {
	switch {
	case f.reason == ReasonBadTarget:
		return 400
	case f.verdict == Denied && !f.retry:
		return 401
	}
	return 503
}
