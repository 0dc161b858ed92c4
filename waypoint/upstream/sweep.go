package upstream

import (
	"context"
	"maps"
	"slices"
	"time"
)

const (
	// sweepEvery is how often unused connections and services are looked for.
	sweepEvery = 5 * time.Second
	// forgetAfter is how long what is known of a service outlives its last request.
	forgetAfter = 10 * time.Minute
	// settleTime is how long the world is left to change before connections to what it lost are closed.
	settleTime = 50 * time.Millisecond
)

// follow closes connections to endpoints that left the world. Picks do not wait for it: they look at the world
// themselves.
func (u *Upstreams) follow(ctx context.Context) {
	settled := time.NewTimer(0)
	defer settled.Stop()
	for {
		select {
		case <-settled.C:
		case <-ctx.Done():
			return
		}
		changed := u.cfg.World.Changed()
		u.refreshAll()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
		settled.Reset(settleTime)
	}
}

func (u *Upstreams) all() []*group {
	return slices.Collect(maps.Values(*u.groups.Load()))
}

func (u *Upstreams) refreshAll() {
	m := u.cfg.World.Load().Mesh
	for _, g := range u.all() {
		if !inWorld(m, g.key) {
			u.forget(g)
		} else if v := g.view.Load(); v != nil && v.mesh != m {
			u.refresh(g)
		}
	}
}

// sweepAll closes what nobody uses.
func (u *Upstreams) sweepAll(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			u.sweep(u.now())
		case <-ctx.Done():
			return
		}
	}
}

func (u *Upstreams) sweep(now time.Time) {
	for _, g := range u.all() {
		if now.Unix()-g.used.Load() > int64(forgetAfter/time.Second) && g.service.open.Load() == 0 {
			u.forget(g)
		}
	}
	u.mu.Lock()
	peers := slices.Collect(maps.Values(u.peers))
	u.mu.Unlock()
	for _, p := range peers {
		p.http1.sweep(now, idleTimeout)
		p.http2.sweep(now, idleTimeout)
	}
}

// forget gives up a group, and the service if it was the last of it.
func (u *Upstreams) forget(g *group) {
	u.mu.Lock()
	groups := maps.Clone(*u.groups.Load())
	if groups[g.key] == g {
		delete(groups, g.key)
		u.groups.Store(&groups)
	}
	last := true
	for key := range groups {
		last = last && key.serviceKey != g.key.serviceKey
	}
	if last && u.services[g.key.serviceKey] == g.service {
		delete(u.services, g.key.serviceKey)
	}
	u.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = true
	g.view.Store(nil)
	for _, m := range g.members {
		u.drop(m.peer)
	}
	g.members = nil
}
