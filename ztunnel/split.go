package ztunnel

import (
	"fmt"
	"math/rand/v2"

	"github.com/warren-mesh/warren/mesh"
)

// split sends a connection to another service than the one that was dialled, if a TCPRoute or a TLSRoute says so, by
// weight. The error says why the one that it falls to cannot be.
func (w *route) split(m *mesh.Snapshot) (Reason, error) {
	s, ok := w.front.Service.Splits[w.front.Port]
	if !ok {
		return "", nil
	}
	b := choose(s.Backends)
	switch {
	case b == nil:
		return ReasonBrokenRoute, fmt.Errorf("%s has no backend with a weight", s.Route)
	case b.Broken != "":
		return ReasonBrokenRoute, fmt.Errorf("%s: backend %s: %s", s.Route, b.Service, b.Broken)
	}
	svc := m.ServiceNamed(b.Service)
	if svc == nil {
		return ReasonBrokenRoute, fmt.Errorf("%s: backend %s is not there", s.Route, b.Service)
	}
	w.front = mesh.Frontend{Service: svc, Port: b.Port}
	return "", nil
}

// choose picks a backend by weight, nil if none has one.
func choose(backends []mesh.SplitBackend) *mesh.SplitBackend {
	var total uint64
	for i := range backends {
		total += uint64(backends[i].Weight)
	}
	if total == 0 {
		return nil
	}
	n := rand.Uint64N(total)
	for i := range backends {
		if n < uint64(backends[i].Weight) {
			return &backends[i]
		}
		n -= uint64(backends[i].Weight)
	}
	return nil
}
