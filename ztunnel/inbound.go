package ztunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// arrival is a connection that wants a pod's app.
type arrival struct {
	client   netip.AddrPort // as the app will see it
	src      identity.ID    // zero for plaintext
	app      netip.AddrPort
	security Security
	traceID  string
	// peerUntil is when the peer's certificate ends; zero without one.
	peerUntil time.Time
}

// plaintext serves a connection that came without a tunnel: it has no identity.
func (p *Proxy) plaintext(ctx context.Context, pod *Pod, client *net.TCPConn) {
	k := &conn{pod: pod, record: Record{ID: newTraceID(), Reporter: Inbound, Start: time.Now()}}
	k.onKill(func() { reset(client) })
	a := arrival{client: addrOf(client.RemoteAddr()), app: addrOf(client.LocalAddr()), security: Plaintext}
	defer p.conns.release(k)
	app, release, f := p.admit(ctx, k, a)
	if f == nil {
		defer release()
		p.forward(k, client, app, func() { reset(app) })
	}
	p.finish(k, client, f)
}

// deliverLocal hands a connection to a pod of this node. The kernel vouches for the client: its socket is in
// the network namespace of the pod whose listener accepted it.
func (p *Proxy) deliverLocal(ctx context.Context, out *conn, client *net.TCPConn, h hop, to *Pod) *failure {
	src := out.record.Src
	in := &conn{pod: to, record: Record{ID: out.record.ID, Reporter: Inbound, Start: out.record.Start}}
	in.onKill(func() { reset(client) })
	defer p.conns.release(in)
	out.set(func(r *Record) { r.Security = SameNode })
	app, release, f := p.admit(ctx, in, arrival{client: src.Addr, src: src.ID, app: h.addr, security: SameNode})
	out.set(func(r *Record) {
		r.Phases.Authorize, r.Phases.App = in.record.Phases.Authorize, in.record.Phases.App
		r.Rule, r.Dst.ID = in.record.Rule, in.record.Dst.ID
	})
	if f != nil {
		in.end(f.reason, f.verdict, "", f.detail())
		in.set(func(r *Record) { r.End = time.Now() })
		p.cfg.Sink(in.snapshot())
		return f
	}
	defer release()
	p.forward(out, client, app, func() { reset(app) }, in)
	in.set(func(r *Record) { r.End = time.Now() })
	p.cfg.Sink(in.snapshot())
	return nil
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
		return nil, nil, &failure{reason: reasonOf(decision), verdict: Denied}
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
	}, policy.Conn{Src: a.src, SrcAddr: a.client.Addr(), Dst: a.app})
}

// tunnel serves a peer's tunnel: TLS, then a stream a connection.
func (p *Proxy) tunnel(ctx context.Context, pod *Pod, raw *net.TCPConn) {
	self := p.cfg.World.Load().Mesh.Workload(pod.UID)
	conn, peer, err := p.shake(ctx, self, raw)
	if err != nil {
		reset(raw)
		p.refuseTunnel(pod, self, raw, err)
		return
	}
	inner := &inboundTunnel{proxy: p, pod: pod, peer: peer,
		from: addrOf(raw.RemoteAddr()).Addr(), at: addrOf(raw.LocalAddr()).Addr(),
		until: conn.ConnectionState().PeerCertificates[0].NotAfter}
	tn := p.pool.accepted(conn, raw)
	defer tn.Close()
	if err := hbone.ServeConn(ctx, tn, p.pool.serverConfig(), inner.serve); err != nil {
		p.cfg.Log.Debug("tunnel ended", "src", raw.RemoteAddr().String(), "src_id", peer.String(), "err", err)
	}
}

// shake does the TLS handshake as the pod, and returns who the peer proved to be.
func (p *Proxy) shake(ctx context.Context, self *mesh.Workload, raw *net.TCPConn) (*tls.Conn, identity.ID, error) {
	if self == nil {
		return nil, identity.ID{}, fmt.Errorf("the mesh does not know this pod")
	}
	id, err := idOf(self)
	if err != nil {
		return nil, identity.ID{}, err
	}
	hctx, cancel := context.WithTimeout(ctx, p.cfg.HandshakeTimeout)
	defer cancel()
	cfg := identity.ServerConfig(func() (*identity.SVID, error) { return p.cfg.Certs.Get(hctx, id) }, p.cfg.Certs.Bundle)
	conn := tls.Server(raw, cfg)
	if err := conn.HandshakeContext(hctx); err != nil {
		return nil, identity.ID{}, err
	}
	peer, err := identity.PeerID(conn.ConnectionState())
	return conn, peer, err
}

// refuseTunnel records a peer that did not prove itself.
func (p *Proxy) refuseTunnel(pod *Pod, self *mesh.Workload, raw *net.TCPConn, err error) {
	now := time.Now()
	from := addrOf(raw.RemoteAddr())
	p.cfg.Sink(Record{
		ID: newTraceID(), Reporter: Inbound, Start: now, End: now,
		Src:     Party{Addr: from, Workload: p.workloadAt(from.Addr())},
		Dst:     Party{Addr: addrOf(raw.LocalAddr()), Workload: self},
		Verdict: Denied, Reason: ReasonTLS, Detail: err.Error(), Security: MutualTLS,
	})
}

// inboundTunnel is one peer's tunnel into one pod.
type inboundTunnel struct {
	proxy *Proxy
	pod   *Pod
	peer  identity.ID
	from  netip.Addr // the peer's address
	at    netip.Addr // the address that the tunnel was made to
	until time.Time  // when the peer's certificate ends
}

// serve serves one stream: target → decide → reach the app → 200 → forward.
func (t *inboundTunnel) serve(ctx context.Context, in *hbone.Inbound) {
	p, req := t.proxy, in.Request()
	k := &conn{pod: t.pod, record: Record{ID: traceIDOf(req.Traceparent), Reporter: Inbound, Start: time.Now()}}
	defer p.conns.release(k)
	k.onKill(func() { in.Refuse(503, "") })
	app, release, f := t.admit(ctx, k, req)
	if f != nil {
		in.Refuse(statusOf(f), string(f.reason))
		k.end(f.reason, f.verdict, "", f.detail())
	} else {
		defer release()
		t.forward(k, in, app)
	}
	k.set(func(r *Record) { r.End = time.Now() })
	p.cfg.Sink(k.snapshot())
}

func (t *inboundTunnel) admit(ctx context.Context, k *conn, req hbone.Request) (*net.TCPConn, func(), *failure) {
	k.set(func(r *Record) {
		r.Src = Party{Addr: netip.AddrPortFrom(t.from, 0), ID: t.peer}
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
		client: clientOf(req.Forwarded, t.from), src: t.peer, app: target, security: MutualTLS, peerUntil: t.until,
	})
}

func (t *inboundTunnel) forward(k *conn, in *hbone.Inbound, app *net.TCPConn) {
	stream, err := in.Accept(hbone.Answer{})
	if err != nil {
		reset(app)
		k.end(ReasonTunnel, Failed, "", err.Error())
		return
	}
	t.proxy.forward(k, tunnelled{stream}, app, func() { reset(app); stream.Reset(hbone.CodeConnect) })
}

// statusOf is the answer that a peer's ztunnel understands, Istio's included.
func statusOf(f *failure) int {
	switch {
	case f.reason == ReasonBadTarget:
		return 400
	case f.verdict == Denied:
		return 401
	}
	return 503
}
