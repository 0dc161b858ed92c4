package upstream

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// serviceKey names a service, or a workload that was asked for by its own address.
type serviceKey struct {
	namespace, name string
	workload        bool
}

// String says what it is, for errors.
func (k serviceKey) String() string {
	if k.workload {
		return "workload " + k.namespace + "/" + k.name
	}
	return "service " + k.namespace + "/" + k.name
}

// groupKey names what endpoints are chosen for: a service's port, or a workload's.
type groupKey struct {
	serviceKey
	uid  mesh.UID // of a workload
	port uint16
}

// String says what it is, for errors.
func (k groupKey) String() string { return fmt.Sprintf("%s port %d", k.serviceKey, k.port) }

// service is what all ports of a service share.
type service struct {
	open   atomic.Int64 // requests
	budget budget
}

// admit counts a request as open, unless there are as many as may be at once.
func (s *service) admit(a *Ask) error {
	open := s.open.Add(1)
	if limit := a.Traffic.Connections; limit != nil && limit.MaxRequests > 0 && open > int64(limit.MaxRequests) {
		s.open.Add(-1)
		return fmt.Errorf("%s has %d requests at once, which is all that its TrafficPolicy allows: %w",
			a.key().serviceKey, limit.MaxRequests, ErrOverloaded)
	}
	return nil
}

// count tells the retry budget of a request that goes out.
func (s *service) count(a *Ask, now time.Time) {
	s.budget.request(a.Traffic.RetryBudget, len(a.Tried) > 0, now)
}

// group is what is known of one port's endpoints, from world to world.
type group struct {
	key     groupKey
	service *service
	used    atomic.Int64 // unix seconds of the last request

	turn         atomic.Uint64 // of round robin
	ejectedUntil atomic.Int64  // no endpoint is left out after this, in unix nanoseconds
	view         atomic.Pointer[view]

	mu      sync.Mutex // of those who make the next view, or leave an endpoint out
	members map[peerKey]*member
	gone    bool // swept: find makes another
}

func (a *Ask) key() groupKey {
	switch {
	case a.Service != nil:
		return groupKey{serviceKey: serviceKey{namespace: a.Service.Namespace, name: a.Service.Name}, port: a.Port}
	case a.Target != nil:
		w := a.Target
		return groupKey{serviceKey: serviceKey{w.Namespace, w.Name, true}, uid: w.UID, port: a.TargetPort}
	}
	return groupKey{}
}

// find returns the group that a request is for and its endpoints in the current world.
func (u *Upstreams) find(a *Ask) (*group, *view, error) {
	key := a.key()
	for {
		m := u.cfg.World.Load().Mesh
		g := (*u.groups.Load())[key]
		if g == nil {
			var err error
			if g, err = u.newGroup(m, key); err != nil {
				return nil, nil, err
			}
		}
		if now := u.now().Unix(); g.used.Load() != now {
			g.used.Store(now)
		}
		v := g.view.Load()
		if v == nil || v.mesh != m {
			v = u.refresh(g)
		}
		if v != nil {
			return g, v, nil
		}
	}
}

// newGroup makes a group for what the world has, so that there are never more than that.
func (u *Upstreams) newGroup(m *mesh.Snapshot, key groupKey) (*group, error) {
	if !inWorld(m, key) {
		return nil, fmt.Errorf("%s is not in the mesh, or no longer: %w", key, ErrNoEndpoint)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil, fmt.Errorf("%s: the waypoint is stopping: %w", key, ErrNoEndpoint)
	}
	groups := maps.Clone(*u.groups.Load())
	if g := groups[key]; g != nil {
		return g, nil
	}
	s := u.services[key.serviceKey]
	if s == nil {
		s = &service{}
		u.services[key.serviceKey] = s
	}
	g := &group{key: key, service: s, members: map[peerKey]*member{}}
	g.used.Store(u.now().Unix())
	groups[key] = g
	u.groups.Store(&groups)
	return g, nil
}

// inWorld tells whether there is such a port, or such a workload.
func inWorld(m *mesh.Snapshot, key groupKey) bool {
	if key.workload {
		return m.Workload(key.uid) != nil
	}
	svc := m.ServiceNamed(key.namespace + "/" + key.name)
	return svc != nil && svc.HasPort(key.port)
}

// MayRetry takes one retry from the budget of a service, "<namespace>/<name>"; false if it is used up.
func (u *Upstreams) MayRetry(service string) bool {
	namespace, name, _ := strings.Cut(service, "/")
	u.mu.Lock()
	s := u.services[serviceKey{namespace: namespace, name: name}]
	if s == nil {
		s = u.services[serviceKey{namespace, name, true}]
	}
	u.mu.Unlock()
	if s != nil && s.budget.retry(u.now()) {
		return true
	}
	u.metrics.denied.Inc()
	return false
}
