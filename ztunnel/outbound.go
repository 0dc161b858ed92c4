package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel/hbone"
	"github.com/warren-mesh/warren/ztunnel/peer"
)

// failure is why a connection could not be made. It carries what the record will say.
type failure struct {
	reason  Reason
	verdict Verdict
	err     error
	retry   bool // another endpoint may do better
	away    bool // nobody takes connections there: that node's agent is being replaced
}

func fail(reason Reason, err error) *failure {
	return &failure{reason: reason, verdict: Failed, err: err}
}

func (f *failure) detail() string {
	if f.err == nil {
		return ""
	}
	return f.err.Error()
}

// outbound serves one connection that a pod's app made: origin → source → route → forward.
func (p *Proxy) outbound(ctx context.Context, pod *Pod, client *net.TCPConn) {
	from := peer.Addr(client.RemoteAddr())
	k := newConn(pod, hbone.NewTraceID(), Outbound)
	k.record.Src.Addr = from
	k.onKill(func() { reset(client) })

	var l *link
	var f *failure
	if !p.conns.register(k) {
		f = fail(ReasonOverload, fmt.Errorf("%d connections are open", p.cfg.MaxConns))
	} else {
		defer p.conns.release(k)
		l, f = p.carry(ctx, k, client)
	}
	if l != nil {
		p.forward(k, client, l)
	}
	p.finish(k, client, f)
}

// finish ends the client's connection if it was not forwarded, and gives the record to the sink.
func (p *Proxy) finish(k *conn, client *net.TCPConn, f *failure) {
	if f != nil {
		reset(client)
		k.end(f.reason, f.verdict, "", f.detail())
	}
	p.ended(k)
}

// carry reaches what the client wanted. It returns a link or a failure.
func (p *Proxy) carry(ctx context.Context, k *conn, client *net.TCPConn) (*link, *failure) {
	dst, ago, err := k.pod.Sockets.OriginalDst(k.record.Src.Addr)
	if err != nil {
		return nil, fail(ReasonNotCaptured, err)
	}
	start := time.Now()
	generation := p.direct.generation() // before the world that a permit will follow from
	world := p.cfg.World.Load()
	self := world.Mesh.Workload(k.pod.UID)
	if self == nil {
		return nil, fail(ReasonUnknownSource, nil)
	}
	id, err := idOf(self)
	if err != nil {
		return nil, fail(ReasonUnknownSource, err)
	}
	way, missing := p.find(world.Mesh, self, dst)
	k.permit = func() { p.direct.permit(world, k.pod, dst, generation) }
	p.affinities.settle(&way, start, true)
	k.set(func(r *Record) {
		r.Start = start.Add(-ago)
		r.Src.Workload, r.Src.ID = self, id
		r.Src.Addr = k.pod.Sockets.Source(r.Src.Addr)
		r.Dst.Addr = dst
		r.Phases.Capture, r.Phases.Route = ago, time.Since(start)
		if way.dialled != nil {
			r.Dialled, r.Service = dst, way.dialled.FullName()
		}
		r.Waypoint = way.waypoint
	})
	if missing != "" {
		return nil, fail(missing, p.explain(world.Mesh, &way, missing, dst))
	}
	var l *link
	var f *failure
	again := false
	peer.WhileAway(ctx, func() (away bool) {
		l, f, away = p.tryAll(ctx, k, client, world.Mesh, &way, again)
		again = true
		return away
	})
	return l, f
}

// tryAll tries one hop after the other. Away tells that none was reached, and one of them for want of an agent alone.
func (p *Proxy) tryAll(ctx context.Context, k *conn, client *net.TCPConn, m *mesh.Snapshot, way *route, again bool) (l *link, f *failure, away bool) {
	for i, h := range way.hops {
		if i > 0 || again {
			p.affinities.move(way, h.addr, time.Now())
		}
		if l, f = p.tryBy(ctx, k, client, m, h); f == nil || !f.retry {
			return l, f, false
		}
		away = away || f.away
	}
	return l, f, away
}

// try reaches one hop. A failure that may be retried happened before any byte of the client was read.
func (p *Proxy) try(ctx context.Context, k *conn, client *net.TCPConn, h hop) (l *link, f *failure) {
	k.set(func(r *Record) { r.Dst = Party{Addr: h.addr, Workload: h.workload} })
	p.loads.add(h.addr, 1)
	unload := func() { p.loads.add(h.addr, -1) }
	defer func() {
		if l == nil {
			unload()
		}
	}()
	switch {
	case h.workload == nil || !h.workload.Tunnelled():
		l, f = p.passthrough(ctx, k, h)
	case h.workload.Node == p.cfg.Node && !p.cfg.EncryptSameNode && p.local(h.workload.UID) != nil:
		l, f = p.deliverLocal(ctx, k, client, h, p.local(h.workload.UID))
	default:
		l, f = p.throughTunnel(ctx, k, h)
	}
	if l != nil {
		l.ends = append(l.ends, unload)
	}
	return l, f
}

// passthrough connects to what is not in the mesh, as the app itself would have.
func (p *Proxy) passthrough(ctx context.Context, k *conn, h hop) (*link, *failure) {
	k.set(func(r *Record) { r.Security = Plaintext })
	if h.workload == nil && p.departed.has(h.addr.Addr(), time.Now()) {
		return nil, &failure{reason: ReasonDeparted, verdict: Failed, retry: true}
	}
	dctx, cancel := context.WithTimeout(ctx, 2*time.Minute) // as long as the app's own SYNs would go on
	defer cancel()
	start := time.Now()
	server, err := k.pod.Sockets.Dial(dctx, k.record.Src.Addr.Addr(), h.addr)
	k.set(func(r *Record) { r.Phases.Connect += time.Since(start) })
	if err != nil {
		return nil, dialFailure(err)
	}
	return &link{server: server, kill: func() { reset(server) }}, nil
}

// throughTunnel sends the connection to the destination's node, proving who the client is.
func (p *Proxy) throughTunnel(ctx context.Context, k *conn, h hop) (*link, *failure) {
	dstID, err := idOf(h.workload)
	if err != nil {
		return nil, fail(ReasonUnknownTarget, err)
	}
	k.set(func(r *Record) { r.Security = MutualTLS })
	dctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	src := k.record.Src
	if _, err := p.cfg.Certs.Get(dctx, src.ID); err != nil {
		return nil, certFailure(err)
	}
	key := tunnelKey{pod: k.pod.UID, src: src.ID, dst: dstID, from: sourceFor(src.Addr.Addr(), h.addr.Addr()), to: h.addr.Addr()}
	stream, took, err := p.pool.connect(dctx, key, hbone.Request{
		Authority:   h.target().String(),
		Forwarded:   hbone.ForwardedFor(src.Addr),
		Traceparent: hbone.TraceparentOf(k.record.ID),
	})
	k.set(func(r *Record) {
		r.Phases.Connect += took.connect
		r.Phases.TLS += took.tls
		r.Phases.App += took.rest
	})
	if err != nil {
		f := tunnelFailure(err)
		f.away = hbone.IsAway(err) && h.workload.Gateway == "" // a waypoint has no agent to wait for
		if f.reason == ReasonPeerDenied {
			k.nameRule(err)
		}
		return nil, f
	}
	k.carriedBy(viaOf(stream.LocalAddr(), stream.RemoteAddr()))
	k.set(func(r *Record) { r.Dst.ID = dstID })
	return &link{server: tunnelled{stream}, kill: func() { stream.Reset(hbone.CodeConnect) }}, nil
}

// nameRule notes which rule refused a connection at its destination, if that says so. Only it knows: a node has the
// policies of its own workloads.
func (k *conn) nameRule(err error) {
	var status *hbone.StatusError
	if errors.As(err, &status) {
		k.set(func(r *Record) { r.Rule = status.Rule })
	}
}

// sourceFor is the address to dial from, so that packets carry the pod's own.
func sourceFor(src, dst netip.Addr) netip.Addr {
	if src.Is4() != dst.Is4() || src.IsLoopback() {
		return netip.Addr{}
	}
	return src
}

func dialFailure(err error) *failure {
	f := fail(ReasonConnectFailed, err)
	f.retry = true
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		f.reason = ReasonConnectRefused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		f.reason = ReasonConnectTimeout
	}
	return f
}

func certFailure(err error) *failure {
	if errors.Is(err, ErrExpired) {
		return fail(ReasonExpired, err)
	}
	return fail(ReasonNoIdentity, err)
}

// tunnelFailure tells a refusal by the peer's policy, which is final, from what another endpoint may cure.
func tunnelFailure(err error) *failure {
	var status *hbone.StatusError
	if errors.As(err, &status) {
		switch status.Status {
		case 401, 403:
			return &failure{reason: ReasonPeerDenied, verdict: Denied, err: err}
		case 503:
			return &failure{reason: ReasonPeerFailed, verdict: Failed, err: err, retry: true}
		}
		return fail(ReasonTunnel, err)
	}
	if errors.Is(err, hbone.ErrRefused) || errors.Is(err, hbone.ErrDraining) { // not a dial's, whatever ended the tunnel
		return &failure{reason: ReasonTunnel, verdict: Failed, err: err, retry: true}
	}
	var tlsErr *handshakeError
	if errors.As(err, &tlsErr) {
		return &failure{reason: ReasonTLS, verdict: Failed, err: err, retry: true}
	}
	var dialErr *net.OpError
	// The pool's dial has the same time as this attempt, which began first: so it is the attempt's end that shows.
	if errors.Is(err, errDial) || errors.As(err, &dialErr) || errors.Is(err, context.DeadlineExceeded) {
		return dialFailure(err)
	}
	return &failure{reason: ReasonTunnel, verdict: Failed, err: err, retry: true}
}

// workloadAt returns who the mesh believes is at an address.
func (p *Proxy) workloadAt(a netip.Addr) *mesh.Workload { return p.cfg.World.Load().Mesh.WorkloadAt(a) }
