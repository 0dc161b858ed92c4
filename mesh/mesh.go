// Package mesh is what a node knows about the mesh: workloads, services and how they are reached.
//
// A [Snapshot] is immutable and consistent; a [Store] swaps one for the next. Nothing here talks to a network
// or a kernel. Addresses are unmapped netip values everywhere: an IPv4 address is never v4-mapped.
package mesh

import (
	"net/netip"
	"time"
)

// UID names one workload for its whole life. An address may pass to another workload; a UID never does.
type UID string

// Workload is one pod, or one process on a host outside Kubernetes.
type Workload struct {
	UID            UID
	Namespace      string
	Name           string
	ServiceAccount string
	TrustDomain    string
	Node           string
	Zone           string
	App            string // the owner's name, for people
	Addrs          []netip.Addr

	// Enrolled is true if the workload is in the mesh: peers reach it by HBONE.
	Enrolled bool
	// FailOpen is true if its connections pass uncaptured while its node's agent is absent.
	FailOpen bool
	// Accelerate is true if its connections with others of its node that want it too may go past TCP.
	Accelerate bool
	// HostNetwork is true if it shares its node's network namespace, and so is never captured.
	HostNetwork bool

	// Policies names every AuthorizationPolicy that selects the workload, "<namespace>/<name>".
	Policies []string
	MTLS     MTLS

	// Waypoint is the waypoint that takes what is sent to the workload's own addresses: its service's full name, "" if
	// none does.
	Waypoint string
	// Through are the service accounts, "<namespace>/<name>", of the waypoints that it takes connections from. If there is
	// one, it takes connections from nobody else.
	Through []string
	// Gateway is the Gateway that it is a waypoint of, "" for every other workload.
	Gateway string
}

// Captured tells whether the workload's node is to capture its connections: a waypoint speaks HBONE itself.
func (w *Workload) Captured() bool { return w.Enrolled && !w.HostNetwork && w.Gateway == "" }

// Tunnelled tells whether connections to the workload go through a tunnel.
func (w *Workload) Tunnelled() bool { return w.Enrolled && !w.HostNetwork }

// FullName is "<namespace>/<name>".
func (w *Workload) FullName() string { return w.Namespace + "/" + w.Name }

// MTLSMode says whether a workload accepts connections that carry no identity.
type MTLSMode uint8

const (
	// Permissive accepts plaintext and mutual TLS.
	Permissive MTLSMode = iota
	// Strict refuses plaintext.
	Strict
)

// String returns the name that PeerAuthentication uses.
func (m MTLSMode) String() string {
	if m == Strict {
		return "STRICT"
	}
	return "PERMISSIVE"
}

// MTLS is what PeerAuthentication resolved to for one workload.
type MTLS struct {
	Default MTLSMode
	Ports   map[uint16]MTLSMode
	Source  string // the PeerAuthentication that decided, "" for the mesh default
}

// ModeOf returns the mode of one destination port.
func (m MTLS) ModeOf(port uint16) MTLSMode {
	if mode, ok := m.Ports[port]; ok {
		return mode
	}
	return m.Default
}

// Settings are the mesh's own, beside workloads and services.
type Settings struct {
	Namespaces map[string]Namespace
	// Leaving is true while the mesh is being taken away.
	Leaving bool
	// NodeAddrs are where services' node ports are answered.
	NodeAddrs map[netip.Addr]struct{}
}

// Namespace is what is known about one namespace.
type Namespace struct {
	// Enrolled is true if its pods are in the mesh unless they say otherwise.
	Enrolled bool
}

// Service is a name with virtual addresses and endpoints behind them.
type Service struct {
	Namespace string
	Name      string
	Hostname  string
	// VIPs are the service's alone, whatever port is dialled.
	VIPs []netip.Addr
	// ExternalAddrs lead to the service on its own ports, and on others to whoever is there.
	ExternalAddrs []netip.Addr
	Ports         []Port
	Endpoints     []Endpoint
	// PreferSameNode and PreferSameZone put endpoints near the client first, in this order.
	PreferSameNode bool
	PreferSameZone bool
	// InternalLocal is true if a client that dials a VIP may reach endpoints on its own node only.
	InternalLocal bool
	// Affinity is how long after its last connection a client stays with its endpoint, 0 if it does not.
	Affinity time.Duration
	// Waypoint is the waypoint that takes what is sent to the service: its service's full name, "" if none does.
	Waypoint string
	// Splits are where connections to a port go instead, by port.
	Splits map[uint16]Split
}

// Split is a TCPRoute's or a TLSRoute's say about a port of a service.
type Split struct {
	Route    string // "<kind> <namespace>/<name>"
	Backends []SplitBackend
}

// SplitBackend is one service that connections go to, by weight.
type SplitBackend struct {
	Service string // full name
	Port    uint16
	Weight  uint32
	// Broken is why connections that fall to it are refused, "" if they are not.
	Broken string
}

// FullName is "<namespace>/<name>".
func (s *Service) FullName() string { return s.Namespace + "/" + s.Name }

// HasPort tells whether the service answers on a port.
func (s *Service) HasPort(number uint16) bool {
	_, ok := s.Port(number)
	return ok
}

// Port returns the service's port; false if it does not answer on it.
func (s *Service) Port(number uint16) (Port, bool) {
	for _, p := range s.Ports {
		if p.Number == number {
			return p, true
		}
	}
	return Port{}, false
}

// Port is one port that a service answers on.
type Port struct {
	Name   string
	Number uint16
	// NodePort is the port of every node's addresses that leads here, 0 if none does.
	NodePort uint16
	// AppProtocol is what is spoken there, in lower case, "" if nobody says.
	AppProtocol string
}

// Endpoint is one backend of a service.
type Endpoint struct {
	Workload    UID // empty for what is no workload: a host, or an address outside the cluster
	Addrs       []netip.Addr
	TargetPorts map[uint16]uint16 // service port → target port
	Ready       bool
	// Serving and Terminating tell one that finishes what it has from one that is gone: it is used while none is ready.
	Serving     bool
	Terminating bool
	// Node and Zone are where an endpoint without a workload is, if that is known.
	Node string
	Zone string
}

// Draining tells whether the endpoint is to be used only while none is ready (KEP-1669).
func (e *Endpoint) Draining() bool { return !e.Ready && e.Serving && e.Terminating }

// AddrOf returns the endpoint's address of a family; false if it has none.
func (e *Endpoint) AddrOf(v4 bool) (netip.Addr, bool) {
	for _, a := range e.Addrs {
		if a.Is4() == v4 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Frontend is what somebody who dialled a service dialled.
type Frontend struct {
	Service *Service
	// Port is the service's own, whichever was dialled. A VIP is the service's on every port, so it may not have it.
	Port uint16
	// External is true unless a VIP was dialled: internalTrafficPolicy says nothing about it.
	External bool
}
