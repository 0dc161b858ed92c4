package resource

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/mesh"
)

const (
	// maxEndpoints bounds a service's endpoints, its own and those that travel apart.
	maxEndpoints = 50_000
	maxSlice     = 64 // bytes of a slice's name
)

// Endpoints wraps a part of a service's endpoints as a resource under its key.
func Endpoints(e *meshv1.Endpoints) *meshv1.Resource {
	return &meshv1.Resource{Key: "endpoints/" + sliceName(e), Kind: &meshv1.Resource_Endpoints{Endpoints: e}}
}

// sliceName is "<namespace>/<service>/<slice>", empty if one of them is.
func sliceName(e *meshv1.Endpoints) string {
	if e.GetNamespace() == "" || e.GetService() == "" || e.GetSlice() == "" {
		return ""
	}
	return e.GetNamespace() + "/" + e.GetService() + "/" + e.GetSlice()
}

// part is a part of a service's endpoints.
type part struct {
	service string // full name
	all     []mesh.Endpoint
}

func decodeEndpoints(e *meshv1.Endpoints) (*part, error) {
	if len(e.GetEndpoints()) > maxList || len(e.GetSlice()) > maxSlice {
		return nil, undecodable("%d endpoints, or a slice's name of %d bytes, are too many",
			len(e.GetEndpoints()), len(e.GetSlice()))
	}
	out := &part{service: e.GetNamespace() + "/" + e.GetService(), all: make([]mesh.Endpoint, 0, len(e.GetEndpoints()))}
	for _, ep := range e.GetEndpoints() {
		decoded, err := decodeEndpoint(ep)
		if err != nil {
			return nil, err
		}
		out.all = append(out.all, decoded)
	}
	return out, nil
}

// join gives services the parts of their endpoints that travelled apart. A service that has none stays what it is; one
// that does is another, so that neither it nor the parts change. Parts are in the order of their keys.
// Returns an error that wraps mesh.ErrInconsistent if a part's service is not there, or an endpoint is there twice.
func (m *memory) join(services []*mesh.Service, parts []*part) error {
	byService := make(map[string][]*part)
	for _, p := range parts {
		byService[p.service] = append(byService[p.service], p)
	}
	for i, svc := range services {
		of := byService[svc.FullName()]
		if len(of) == 0 {
			continue
		}
		delete(byService, svc.FullName())
		joined, err := m.joinOne(svc, of)
		if err != nil {
			return fmt.Errorf("%w: service %s: %w", mesh.ErrInconsistent, svc.FullName(), err)
		}
		services[i] = joined
	}
	for _, name := range slices.Sorted(maps.Keys(byService)) {
		return fmt.Errorf("%w: endpoints of service %s, which is not there", mesh.ErrInconsistent, name)
	}
	return nil
}

func (m *memory) joinOne(svc *mesh.Service, of []*part) (*mesh.Service, error) {
	if known, ok := m.before.joined[svc]; ok && slices.Equal(known.parts, of) {
		m.now.joined[svc] = known
		return known.service, nil
	}
	n := len(svc.Endpoints)
	for _, p := range of {
		n += len(p.all)
	}
	if n > maxEndpoints {
		return nil, fmt.Errorf("%d endpoints, more than %d", n, maxEndpoints)
	}
	out := *svc
	out.Endpoints = slices.Grow(slices.Clone(svc.Endpoints), n-len(svc.Endpoints))
	for _, p := range of {
		out.Endpoints = append(out.Endpoints, p.all...)
	}
	slices.SortStableFunc(out.Endpoints, func(a, b mesh.Endpoint) int {
		return cmp.Or(firstAddr(a).Compare(firstAddr(b)), cmp.Compare(a.Workload, b.Workload))
	})
	if ep := twice(out.Endpoints); ep != nil {
		return nil, fmt.Errorf("endpoint %s (workload %q) is there twice", firstAddr(*ep), ep.Workload)
	}
	m.now.joined[svc] = joined{of, &out}
	return &out, nil
}

func firstAddr(ep mesh.Endpoint) netip.Addr {
	if len(ep.Addrs) == 0 {
		return netip.Addr{}
	}
	return ep.Addrs[0]
}

// twice returns an endpoint that is there more than once, nil if there is none: the same workload at the same address
// for the same ports. Endpoints are sorted by address and workload, of which there are few that are alike.
func twice(all []mesh.Endpoint) *mesh.Endpoint {
	for i := range all {
		for j := i + 1; j < len(all) && firstAddr(all[j]) == firstAddr(all[i]) && all[j].Workload == all[i].Workload; j++ {
			if maps.Equal(all[i].TargetPorts, all[j].TargetPorts) {
				return &all[j]
			}
		}
	}
	return nil
}
