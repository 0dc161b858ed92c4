package proxy

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/upstream"
)

// errPolicyChanged is the cause of the end of what a change of policy forbids.
var errPolicyChanged = errors.New("a change of policy forbids it")

// lasting are the exchanges that have been answered and go on for as long as their ends like: streams, and connections
// that switched protocols. What has an end in sight is left to come to it.
type lasting struct {
	mu  sync.Mutex
	all map[*passage]*vigil
}

// vigil is how one of them is decided again, and ended.
type vigil struct {
	endpoint upstream.Endpoint
	end      context.CancelCauseFunc
}

// watch has the passage decided again whenever the world changes, until the returned func is called.
func (x *passage) watch(t *try) (stop func()) {
	var end context.CancelCauseFunc
	x.ctx, end = context.WithCancelCause(x.ctx)
	v := &vigil{endpoint: t.pick.Endpoint, end: func(cause error) {
		end(cause)
		t.limits.cancel(cause)
	}}
	l := &x.p.lasting
	l.mu.Lock()
	if l.all == nil {
		l.all = map[*passage]*vigil{}
	}
	l.all[x] = v
	l.mu.Unlock()
	if now := x.p.cfg.World.Load(); now != x.world && !x.allowedIn(now, v.endpoint) { // it changed before this was known
		v.end(errPolicyChanged)
	}
	return func() {
		l.mu.Lock()
		delete(l.all, x)
		l.mu.Unlock()
		end(errOver)
	}
}

// lasts tells whether an answer has no end in sight.
func (x *passage) lasts(a *http.Response) bool {
	return a.StatusCode == http.StatusSwitchingProtocols || x.uplink != nil || a.ContentLength < 0 && x.in.Method != http.MethodHead
}

// Redecide ends the streams and switched connections that the world in force forbids.
func (p *Proxy) Redecide() {
	world := p.cfg.World.Load()
	p.lasting.mu.Lock()
	var forbidden []*vigil
	for x, v := range p.lasting.all {
		if !x.allowedIn(world, v.endpoint) {
			forbidden = append(forbidden, v)
		}
	}
	p.lasting.mu.Unlock()
	for _, v := range forbidden {
		v.end(errPolicyChanged)
	}
}

// allowedIn decides the request again, by what was known of it when it was sent. What an external authorizer has said
// before still counts.
func (x *passage) allowedIn(w *exchange.World, e upstream.Endpoint) bool {
	ask := func(t policy.Target, c policy.Conn) bool { return w.Policies.DecideRequest(t, c, &x.request).Allowed }
	c := policy.Conn{Src: x.conn.Client, SrcAddr: x.conn.ClientAddr.Addr(), Dst: x.conn.Dialled}
	if !ask(policy.Target{Targets: w.Targets(x.p.cfg.Gateway, x.conn)}, c) {
		return false
	}
	if s := x.to.service; s != nil && !same(s, x.conn.Service) {
		if !ask(policy.Target{Targets: []string{"Service " + s.FullName()}}, c) {
			return false
		}
	}
	if e.Workload == nil {
		return true
	}
	if e.Workload = w.Mesh.Workload(e.Workload.UID); e.Workload == nil {
		return true // it has left: what it still says may be said to the end
	}
	c.Dst = e.Addr
	return ask(targetOf(e), c)
}
