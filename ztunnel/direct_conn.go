package ztunnel

import (
	"errors"
	"net/netip"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// Ends are the two ends of a connection between pods of this node.
type Ends struct{ Client, Server netip.AddrPort }

// DirectConn is a connection that the kernel made by itself, as it was permitted to.
type DirectConn struct {
	Ends
	// The cookies of both pods' network namespaces: the kernel's word for who is at either end.
	ClientNetns, ServerNetns uint64
	Dialled                  netip.AddrPort
	At                       time.Time     // when it was dialled
	Connect                  time.Duration // how long it took to be established, 0 if it never was
}

// DirectEnd is how one ended.
type DirectEnd struct {
	At      time.Time
	In, Out uint64 // bytes of payload from the client, and to it
	Err     error  // what the client's socket met
	Aborted bool   // it was closed without an end of its own that the server took
	// Accelerated tells that part of it went past TCP.
	Accelerated bool
}

// directConn is one that is open, with the record of either side.
type directConn struct{ out, in *conn }

// DirectOpens is called for each connection that the kernel makes, before its client may have sent a byte. It is
// registered, decided by the world in force, and ended if that does not allow it any more.
func (p *Proxy) DirectOpens(c DirectConn) {
	d := p.direct
	dc := p.directConn(c)
	d.mu.Lock()
	if dc == nil {
		if len(d.strange) < maxPermits {
			d.strange[c.Ends] = c
		}
		d.mu.Unlock()
		return
	}
	d.open[c.Ends] = dc
	d.fresh = append(d.fresh, c)
	d.mu.Unlock()
	p.openDirect(c, dc)
}

func (p *Proxy) openDirect(c DirectConn, dc *directConn) {
	p.loads.add(c.Server, 1)
	for _, k := range []*conn{dc.out, dc.in} {
		p.conns.enter(k)
	}
	if decision := dc.in.decide(p.cfg.World.Load()); !decision.Allowed {
		dc.in.end(ReasonPolicyChanged, Denied, decision.Rule, "connection ended: "+string(decision.Reason))
		return
	}
	p.cfg.Sink(dc.out.snapshot())
	p.cfg.Sink(dc.in.snapshot())
}

// adopt takes up connections to and from a pod that is served from now on: an earlier agent knew them.
func (d *directs) adopt() {
	d.mu.Lock()
	strange := d.strange
	d.strange = map[Ends]DirectConn{}
	d.mu.Unlock()
	for _, c := range strange {
		d.proxy.DirectOpens(c)
	}
}

// directConn makes the records of a connection, or nil if one of its pods is not served.
func (p *Proxy) directConn(c DirectConn) *directConn {
	src, dst := p.inNetns(c.ClientNetns), p.inNetns(c.ServerNetns)
	if src == nil || dst == nil {
		return nil
	}
	m := p.cfg.World.Load().Mesh
	from, to := Party{Addr: c.Client, Workload: m.Workload(src.UID)}, Party{Addr: c.Server, Workload: m.Workload(dst.UID)}
	if from.Workload != nil {
		from.ID, _ = idOf(from.Workload) // without one the decision is no
	}
	if to.Workload != nil {
		to.ID, _ = idOf(to.Workload)
	}
	r := Record{ID: hbone.NewTraceID(), Reporter: Outbound, Start: c.At, Src: from, Dst: to, Verdict: Forwarded, Security: SameNode, Direct: true}
	if c.Dialled != c.Server {
		r.Dialled = c.Dialled
	}
	if front, ok := m.FrontendAt(c.Dialled); ok {
		r.Dialled, r.Service = c.Dialled, front.Service.FullName()
	}
	a := arrival{client: c.Client, src: from.ID, app: c.Server, security: SameNode}
	decision := decide(p.cfg.World.Load(), dst.UID, a)
	r.Rule = decision.Rule
	dc := &directConn{out: &conn{pod: src, record: r}, in: &conn{pod: dst, record: r}}
	dc.in.record.Reporter, dc.in.record.Audit = Inbound, decision.Audit
	dc.in.record.Dialled, dc.in.record.Service = netip.AddrPort{}, ""
	dc.in.decide = func(w *World) policy.Decision { return decide(w, dst.UID, a) }
	kill := func() {
		// Either end will do: the one whose socket is gone already cannot tell the other any more.
		if src.Direct.Abort(c.Client, c.Server) != nil {
			_ = dst.Direct.Abort(c.Server, c.Client)
		}
	}
	dc.out.kill, dc.in.kill = kill, kill
	traffic := func() (in, out uint64, err error) { return src.Direct.Traffic(c.Client, c.Server) }
	dc.out.traffic, dc.in.traffic = traffic, traffic
	return dc
}

// DirectEnded is called when such a connection's client has closed its socket.
func (p *Proxy) DirectEnded(c DirectConn, e DirectEnd) {
	d := p.direct
	d.mu.Lock()
	dc := d.open[c.Ends]
	delete(d.open, c.Ends)
	delete(d.strange, c.Ends)
	d.mu.Unlock()
	if c.Connect == 0 {
		d.takeBack(c)
	}
	if dc != nil {
		p.loads.add(c.Server, -1)
	} else if dc = p.directConn(c); dc == nil {
		return // of pods that are gone
	}
	all := []*conn{dc.out, dc.in}
	conclude(all, nil)
	reason, verdict, detail := directReason(c, e)
	for _, k := range all {
		k.set(func(r *Record) {
			r.End, r.Phases.Connect, r.Accelerated = e.At, c.Connect, e.Accelerated
			if r.Reason == ReasonClosed {
				r.Reason, r.Verdict, r.Detail = reason, verdict, detail
			}
		})
		k.in.Store(e.In)
		k.out.Store(e.Out)
		p.conns.release(k)
		p.cfg.Sink(k.snapshot())
	}
}

// directReason says how a connection ended that nobody of ours ended.
func directReason(c DirectConn, e DirectEnd) (reason Reason, verdict Verdict, detail string) {
	switch {
	case c.Connect > 0 && e.Err == nil && !e.Aborted:
		return ReasonClosed, Forwarded, ""
	case c.Connect > 0 && e.Err == nil:
		return ReasonReset, Forwarded, "the client closed it without a FIN"
	case c.Connect > 0:
		return ReasonReset, Forwarded, e.Err.Error()
	case e.Err == nil:
		return ReasonAppUnreachable, Failed, "the client gave up before it was connected"
	case errors.Is(e.Err, syscall.ETIMEDOUT):
		return ReasonConnectTimeout, Failed, e.Err.Error()
	}
	return ReasonAppUnreachable, Failed, e.Err.Error()
}

// takeBack takes the permit back that a connection was made by which was not established: its next one is carried.
func (d *directs) takeBack(c DirectConn) {
	if pod := d.proxy.inNetns(c.ClientNetns); pod != nil {
		d.forbid(permitKey{pod, c.Dialled})
	}
}

// CheckDirects looks at connections that are not new any more: one that is not established still was let down by the
// network, and takes its permit back. `established` asks the kernel.
func (p *Proxy) CheckDirects(established func(Ends) bool) {
	d := p.direct
	before := time.Now().Add(-trialTimeout)
	d.mu.Lock()
	var waiting []DirectConn
	left := d.fresh[:0]
	for _, c := range d.fresh {
		switch {
		case c.At.After(before):
			left = append(left, c)
		case d.open[c.Ends] != nil:
			waiting = append(waiting, c)
		}
	}
	d.fresh = left
	d.mu.Unlock()
	for _, c := range waiting {
		if !established(c.Ends) {
			d.takeBack(c)
		}
	}
}

// ForgetDirects ends the records of connections that the kernel knows no more: nobody was told how they ended.
func (p *Proxy) ForgetDirects(isOpen func(Ends) bool) {
	d := p.direct
	d.mu.Lock()
	var gone []Ends
	for ends := range d.open {
		gone = append(gone, ends)
	}
	for ends := range d.strange {
		gone = append(gone, ends)
	}
	d.mu.Unlock()
	for _, ends := range gone {
		if !isOpen(ends) {
			p.DirectEnded(DirectConn{Ends: ends, Connect: time.Nanosecond}, DirectEnd{At: time.Now(), Err: errEndNotTold})
		}
	}
}

var errEndNotTold = errors.New("how it ended is not known: too many connections ended at once")
