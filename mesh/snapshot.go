package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Snapshot is everything a node knows at one version. It never changes after [NewSnapshot] returned it.
type Snapshot struct {
	Epoch   string // the controller run that Version belongs to
	Version uint64

	workloads map[UID]*Workload
	byAddr    map[netip.Addr]*Workload
	byName    map[string]*Workload
	byNode    map[string][]*Workload
	services  map[string]*Service
	byVIP     map[netip.Addr]*Service
	// Addresses and ports that lead to a service, and are not its alone.
	external  map[netip.AddrPort]Frontend
	nodePorts map[uint16]Frontend
	byHost    map[string]*Service
	settings  Settings
}

// ErrInconsistent is wrapped by every error of NewSnapshot.
var ErrInconsistent = errors.New("inconsistent mesh snapshot")

// NewSnapshot indexes workloads and services. It takes ownership of both slices' elements.
// Returns an error that wraps ErrInconsistent if a UID, a workload's address, a service's name, a service's address or
// a node port occurs twice, or an address is invalid or v4-mapped.
func NewSnapshot(epoch string, version uint64, workloads []*Workload, services []*Service) (*Snapshot, error) {
	s := &Snapshot{
		Epoch: epoch, Version: version,
		workloads: make(map[UID]*Workload, len(workloads)),
		byAddr:    make(map[netip.Addr]*Workload, len(workloads)),
		byName:    make(map[string]*Workload, len(workloads)),
		byNode:    make(map[string][]*Workload),
		services:  make(map[string]*Service, len(services)),
		byVIP:     make(map[netip.Addr]*Service, len(services)),
		external:  make(map[netip.AddrPort]Frontend),
		nodePorts: make(map[uint16]Frontend),
		byHost:    make(map[string]*Service, len(services)),
	}
	for _, w := range workloads {
		if err := s.addWorkload(w); err != nil {
			return nil, fmt.Errorf("%w: workload %s: %w", ErrInconsistent, w.FullName(), err)
		}
	}
	for _, svc := range services {
		if err := s.addService(svc); err != nil {
			return nil, fmt.Errorf("%w: service %s: %w", ErrInconsistent, svc.FullName(), err)
		}
	}
	return s, nil
}

func (s *Snapshot) addWorkload(w *Workload) error {
	if w.UID == "" {
		return errors.New("no uid")
	}
	if _, dup := s.workloads[w.UID]; dup {
		return fmt.Errorf("uid %q occurs twice", w.UID)
	}
	if other, dup := s.byName[w.FullName()]; dup {
		return fmt.Errorf("name is also that of uid %q", other.UID)
	}
	s.workloads[w.UID] = w
	s.byName[w.FullName()] = w
	s.byNode[w.Node] = append(s.byNode[w.Node], w)
	if w.HostNetwork {
		return nil // its address is its node's, which says nothing about who it is
	}
	for _, a := range w.Addrs {
		if err := checkAddr(a); err != nil {
			return err
		}
		if other, dup := s.byAddr[a]; dup {
			return fmt.Errorf("address %s is also that of %s", a, other.FullName())
		}
		s.byAddr[a] = w
	}
	return nil
}

func (s *Snapshot) addService(svc *Service) error {
	if _, dup := s.services[svc.FullName()]; dup {
		return errors.New("name occurs twice")
	}
	s.services[svc.FullName()] = svc
	s.byHost[svc.Hostname] = svc
	for _, a := range svc.VIPs {
		if err := checkAddr(a); err != nil {
			return err
		}
		if other, dup := s.byVIP[a]; dup {
			return fmt.Errorf("address %s is also that of service %s", a, other.FullName())
		}
		s.byVIP[a] = svc
	}
	for _, p := range svc.Ports {
		if err := s.addFrontends(svc, p); err != nil {
			return err
		}
	}
	return nil
}

// addFrontends indexes where else than at its virtual addresses a port of a service is answered.
func (s *Snapshot) addFrontends(svc *Service, p Port) error {
	f := Frontend{Service: svc, Port: p.Number, External: true}
	for _, a := range svc.ExternalAddrs {
		if err := checkAddr(a); err != nil {
			return err
		}
		at := netip.AddrPortFrom(a, p.Number)
		if other, dup := s.external[at]; dup {
			return fmt.Errorf("external address %s is also that of service %s", at, other.Service.FullName())
		}
		s.external[at] = f
	}
	if p.NodePort == 0 {
		return nil
	}
	if other, dup := s.nodePorts[p.NodePort]; dup {
		return fmt.Errorf("node port %d is also that of service %s", p.NodePort, other.Service.FullName())
	}
	s.nodePorts[p.NodePort] = f
	return nil
}

func checkAddr(a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return fmt.Errorf("address %q is not one that a peer can have", a)
	}
	return nil
}

// WithSettings returns the snapshot with other settings, which it takes ownership of.
func (s *Snapshot) WithSettings(settings Settings) *Snapshot {
	out := *s
	out.settings = settings
	return &out
}

// WithVersion returns the snapshot as that of a version in which nothing that it knows has changed.
func (s *Snapshot) WithVersion(version uint64) *Snapshot {
	out := *s
	out.Version = version
	return &out
}

// Leaving tells whether the mesh is being taken away.
func (s *Snapshot) Leaving() bool { return s.settings.Leaving }

// Namespace returns what is known about a namespace; false if nothing is.
func (s *Snapshot) Namespace(name string) (Namespace, bool) {
	n, ok := s.settings.Namespaces[name]
	return n, ok
}

// Workload returns the workload with this UID, or nil.
func (s *Snapshot) Workload(uid UID) *Workload { return s.workloads[uid] }

// WorkloadAt returns the workload that has this address, or nil.
func (s *Snapshot) WorkloadAt(a netip.Addr) *Workload { return s.byAddr[a.Unmap()] }

// WorkloadNamed returns the workload called "<namespace>/<name>", or nil.
func (s *Snapshot) WorkloadNamed(fullName string) *Workload { return s.byName[fullName] }

// OnNode returns the workloads of one node, which callers must not change.
func (s *Snapshot) OnNode(node string) []*Workload { return s.byNode[node] }

// ServiceAt returns the service that has this virtual address, or nil.
func (s *Snapshot) ServiceAt(a netip.Addr) *Service { return s.byVIP[a.Unmap()] }

// FrontendAt returns the service that answers at dst, false if none does: by a virtual address, an external one, or a
// node's. A workload's own address is never taken for a node's, whoever says so.
func (s *Snapshot) FrontendAt(dst netip.AddrPort) (Frontend, bool) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if svc := s.byVIP[dst.Addr()]; svc != nil {
		return Frontend{Service: svc, Port: dst.Port()}, true
	}
	if f, ok := s.external[dst]; ok {
		return f, true
	}
	f, ok := s.nodePorts[dst.Port()]
	if !ok || s.byAddr[dst.Addr()] != nil {
		return Frontend{}, false
	}
	if _, ok = s.settings.NodeAddrs[dst.Addr()]; !ok {
		return Frontend{}, false
	}
	return f, true
}

// ServiceNamed returns the service called "<namespace>/<name>", or nil.
func (s *Snapshot) ServiceNamed(fullName string) *Service { return s.services[fullName] }

// ServiceHost returns the service with this host name, or nil.
func (s *Snapshot) ServiceHost(hostname string) *Service { return s.byHost[hostname] }

// SameServices tells whether two snapshots have the same services, by pointer: those of a state that was made of the one
// before have what did not change in common.
func (s *Snapshot) SameServices(o *Snapshot) bool { return maps.Equal(s.services, o.services) }

// Workloads returns all workloads, sorted by full name.
func (s *Snapshot) Workloads() []*Workload {
	return slices.SortedFunc(maps.Values(s.workloads), func(a, b *Workload) int {
		return cmp.Compare(a.FullName(), b.FullName())
	})
}

// Services returns all services, sorted by full name.
func (s *Snapshot) Services() []*Service {
	return slices.SortedFunc(maps.Values(s.services), func(a, b *Service) int {
		return cmp.Compare(a.FullName(), b.FullName())
	})
}
