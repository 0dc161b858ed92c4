// Package resource is what the mesh's wire resources mean: it keys them, and decodes them into the values that a node
// works with. The controller runs every state that it compiles through [Decode] before it publishes it, and an agent
// every state that it receives: one reading, so that what the first accepts the second does not refuse.
//
// Bytes from the wire are foreign: every decoder checks what it reads, bounds it and never panics.
package resource

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/route"
)

// ErrUndecodable is wrapped by every error of Decode and Key.
var ErrUndecodable = errors.New("undecodable resource")

const (
	maxName  = 253
	maxAddrs = 16
	maxList  = 10_000
	// Kubernetes has no bound on a service's external addresses.
	maxExternal = 256
	maxAffinity = 86_400 // seconds
	maxThrough  = 256
	maxBackends = 256
	maxWeight   = 1_000_000 // the Gateway API's
)

// MaxNodeAddrs is how many addresses of nodes the mesh's settings may have: two families of far more nodes than a
// cluster can have.
const MaxNodeAddrs = 20_000

// Decoded is a whole state, ready to be used.
type Decoded struct {
	Mesh     *mesh.Snapshot
	Policies *policy.Set
	Bundle   *identity.Bundle
	// Only waypoints are sent routes, traffic policies and request authentications; without any these are empty.
	Routes         *route.Table
	Traffic        *route.TrafficSet
	Authentication *policy.AuthenticationSet

	known known
}

// Key returns the key under which a resource of its content must stand.
// Returns an error that wraps ErrUndecodable if it has no content or no name.
func Key(r *meshv1.Resource) (string, error) {
	kind, name := "", ""
	switch k := r.GetKind().(type) {
	case *meshv1.Resource_Workload:
		kind, name = "workload", k.Workload.GetUid()
	case *meshv1.Resource_Service:
		kind, name = "service", fullName(k.Service)
	case *meshv1.Resource_Endpoints:
		kind, name = "endpoints", sliceName(k.Endpoints)
	case *meshv1.Resource_Policy:
		kind, name = "policy", fullName(k.Policy)
	case *meshv1.Resource_Bundle:
		kind, name = "bundle", k.Bundle.GetTrustDomain()
	case *meshv1.Resource_Namespace:
		kind, name = "namespace", k.Namespace.GetName()
	case *meshv1.Resource_Settings:
		kind, name = "settings", "mesh"
	case *meshv1.Resource_Route:
		kind, name = "route", routeName(k.Route)
	case *meshv1.Resource_Traffic:
		kind, name = "traffic", fullName(k.Traffic)
	case *meshv1.Resource_Authentication:
		kind, name = "authentication", fullName(k.Authentication)
	default:
		return "", fmt.Errorf("%w: %q has no content that this version knows", ErrUndecodable, r.GetKey())
	}
	if name == "" {
		return "", fmt.Errorf("%w: a %s without a name", ErrUndecodable, kind)
	}
	if len(name) > 2*maxName+1 {
		return "", fmt.Errorf("%w: a %s whose name is longer than %d bytes", ErrUndecodable, kind, 2*maxName+1)
	}
	return kind + "/" + name, nil
}

func fullName(o interface {
	GetNamespace() string
	GetName() string
}) string {
	if o.GetNamespace() == "" || o.GetName() == "" {
		return ""
	}
	return o.GetNamespace() + "/" + o.GetName()
}

// Workload wraps a workload as a resource under its key.
func Workload(w *meshv1.Workload) *meshv1.Resource {
	return &meshv1.Resource{Key: "workload/" + w.GetUid(), Kind: &meshv1.Resource_Workload{Workload: w}}
}

// Service wraps a service as a resource under its key.
func Service(s *meshv1.Service) *meshv1.Resource {
	return &meshv1.Resource{Key: "service/" + fullName(s), Kind: &meshv1.Resource_Service{Service: s}}
}

// Policy wraps a policy as a resource under its key.
func Policy(p *meshv1.AuthorizationPolicy) *meshv1.Resource {
	return &meshv1.Resource{Key: "policy/" + fullName(p), Kind: &meshv1.Resource_Policy{Policy: p}}
}

// Bundle wraps a trust bundle as a resource under its key.
func Bundle(b *meshv1.TrustBundle) *meshv1.Resource {
	return &meshv1.Resource{Key: "bundle/" + b.GetTrustDomain(), Kind: &meshv1.Resource_Bundle{Bundle: b}}
}

// Namespace wraps a namespace as a resource under its key.
func Namespace(n *meshv1.Namespace) *meshv1.Resource {
	return &meshv1.Resource{Key: "namespace/" + n.GetName(), Kind: &meshv1.Resource_Namespace{Namespace: n}}
}

// Settings wraps the mesh's settings as a resource under its key.
func Settings(s *meshv1.Settings) *meshv1.Resource {
	return &meshv1.Resource{Key: "settings/mesh", Kind: &meshv1.Resource_Settings{Settings: s}}
}

// Decode decodes a whole state. Errors wrap ErrUndecodable, mesh.ErrInconsistent, policy.ErrInvalid or
// route.ErrInvalid, or are identity's about a trust bundle.
func Decode(epoch string, version uint64, resources map[string]*meshv1.Resource) (Decoded, error) {
	return Decoded{}.Next(epoch, version, resources)
}

// At is d at a version in which nothing of it has changed.
func (d Decoded) At(version uint64) Decoded {
	d.Mesh = d.Mesh.WithVersion(version)
	return d
}

// Next decodes a whole state as Decode does, without decoding again the resources that d was decoded from: those that
// are the same pointers, whose content must not have changed.
func (d Decoded) Next(epoch string, version uint64, resources map[string]*meshv1.Resource) (Decoded, error) {
	memory := newMemory(d.known, len(resources))
	var workloads []*mesh.Workload
	var services []*mesh.Service
	var parts []*part
	var policies []*policy.Policy
	var routes []*route.Route
	var traffic []*route.TrafficPolicy
	var authentications []*policy.Authentication
	roots := make(map[string][][]byte)
	settings := mesh.Settings{Namespaces: make(map[string]mesh.Namespace)}
	for _, key := range slices.Sorted(maps.Keys(resources)) {
		r := resources[key]
		want, err := Key(r)
		if err == nil && (want != key || r.GetKey() != key) {
			err = fmt.Errorf("%w: it stands under the key %q", ErrUndecodable, r.GetKey())
		}
		switch k := r.GetKind().(type) {
		case *meshv1.Resource_Workload:
			err = errors.Join(err, collect(&workloads, k.Workload, remembered(memory, r, DecodeWorkload)))
		case *meshv1.Resource_Service:
			err = errors.Join(err, collect(&services, k.Service, remembered(memory, r, DecodeService)))
		case *meshv1.Resource_Endpoints:
			err = errors.Join(err, collect(&parts, k.Endpoints, remembered(memory, r, decodeEndpoints)))
		case *meshv1.Resource_Policy:
			err = errors.Join(err, collect(&policies, k.Policy, remembered(memory, r, DecodePolicy)))
		case *meshv1.Resource_Route:
			err = errors.Join(err, collect(&routes, k.Route, remembered(memory, r, DecodeRoute)))
		case *meshv1.Resource_Traffic:
			err = errors.Join(err, collect(&traffic, k.Traffic, remembered(memory, r, DecodeTraffic)))
		case *meshv1.Resource_Authentication:
			err = errors.Join(err, collect(&authentications, k.Authentication, remembered(memory, r, DecodeAuthentication)))
		case *meshv1.Resource_Bundle:
			roots[k.Bundle.GetTrustDomain()] = k.Bundle.GetRoots()
		case *meshv1.Resource_Namespace:
			settings.Namespaces[k.Namespace.GetName()] = mesh.Namespace{Enrolled: k.Namespace.GetEnrolled()}
		case *meshv1.Resource_Settings:
			err = errors.Join(err, decodeSettings(&settings, k.Settings))
		}
		if err != nil {
			return Decoded{}, fmt.Errorf("resource %q: %w", key, err)
		}
	}
	if err := memory.join(services, parts); err != nil {
		return Decoded{}, err
	}
	out, err := index(epoch, version, workloads, services, policies, roots)
	if err == nil {
		err = out.indexRoutes(routes, traffic)
	}
	if err == nil {
		out.Authentication, err = policy.NewAuthenticationSet(authentications)
	}
	if err == nil {
		out.Mesh, out.known = out.Mesh.WithSettings(settings), memory.now
	}
	return out, err
}

func index(epoch string, version uint64, ws []*mesh.Workload, svcs []*mesh.Service, ps []*policy.Policy, roots map[string][][]byte) (Decoded, error) {
	snapshot, err := mesh.NewSnapshot(epoch, version, ws, svcs)
	if err != nil {
		return Decoded{}, err
	}
	set, err := policy.NewSet(ps)
	if err != nil {
		return Decoded{}, err
	}
	bundle, err := identity.ParseBundle(roots)
	if err != nil {
		return Decoded{}, err
	}
	return Decoded{Mesh: snapshot, Policies: set, Bundle: bundle}, nil
}

func collect[W, T any](out *[]*T, wire W, decode func(W) (*T, error)) error {
	v, err := decode(wire)
	if err != nil {
		return err
	}
	*out = append(*out, v)
	return nil
}

func undecodable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUndecodable, fmt.Errorf(format, args...))
}

func decodeAddrs(field string, raw [][]byte) ([]netip.Addr, error) {
	return decodeAddrsUpTo(maxAddrs, field, raw)
}

func decodeAddrsUpTo(most int, field string, raw [][]byte) ([]netip.Addr, error) {
	if len(raw) > most {
		return nil, undecodable("%s: %d addresses, more than %d", field, len(raw), most)
	}
	var addrs []netip.Addr
	for i, b := range raw {
		a, ok := netip.AddrFromSlice(b)
		if !ok || a.Is4In6() {
			return nil, undecodable("%s[%d]: %d bytes that are not an unmapped address", field, i, len(b))
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

func decodePort(field string, n uint32) (uint16, error) {
	if n == 0 || n > 65535 {
		return 0, undecodable("%s: port %d", field, n)
	}
	return uint16(n), nil
}
