// Package mesh is what a node knows about the mesh: workloads, services and how they are reached.
//
// A [Snapshot] is immutable and consistent; a [Store] swaps one for the next. Nothing here talks to a network
// or a kernel. Addresses are unmapped netip values everywhere: an IPv4 address is never v4-mapped.
package mesh

import "net/netip"

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
	// HostNetwork is true if it shares its node's network namespace, and so is never captured.
	HostNetwork bool

	// Policies names every AuthorizationPolicy that selects the workload, "<namespace>/<name>".
	Policies []string
	MTLS     MTLS
}

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
}

// Namespace is what is known about one namespace.
type Namespace struct {
	// Enrolled is true if its pods are in the mesh unless they say otherwise.
	Enrolled bool
}

// Service is a name with virtual addresses and endpoints behind them.
type Service struct {
	Namespace      string
	Name           string
	Hostname       string
	VIPs           []netip.Addr
	Ports          []Port
	Endpoints      []Endpoint
	PreferSameZone bool
}

// FullName is "<namespace>/<name>".
func (s *Service) FullName() string { return s.Namespace + "/" + s.Name }

// Port is one port that a service answers on.
type Port struct {
	Name   string
	Number uint16
}

// Endpoint is one backend of a service.
type Endpoint struct {
	Workload    UID
	Addrs       []netip.Addr
	TargetPorts map[uint16]uint16 // service port → target port
	Ready       bool
}
