package compile

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/warren-mesh/warren/controller/manifest"
)

// references is what routes may refer to.
type references struct {
	services map[objectName]*manifest.Object
	grants   []*manifest.Object
}

// target is where a reference leads.
type target struct {
	service string // full name
	port    uint32
	broken  string // why it leads nowhere
}

// resolve follows a backend's reference. What does not lead to a service is broken, and noted as a finding of the route.
func (x *references) resolve(r *route, path string, ref *manifest.BackendRef) target {
	f := x.check(r, ref)
	name := objectName{cmp.Or(ref.Namespace, r.object.Namespace), ref.Name}
	t := target{service: name.String()}
	if ref.Port != nil {
		t.port = uint32(*ref.Port)
	}
	if f.reason != "" {
		f.path = path
		r.unresolved = append(r.unresolved, f)
		t.broken = clipped(f.reason + ": " + f.why)
	}
	return t
}

// check says what is wrong with a reference. Whether it is permitted comes first: who may not refer to a service is not
// told whether it is there.
func (x *references) check(r *route, ref *manifest.BackendRef) finding {
	if !ref.IsService() {
		return finding{reason: ReasonInvalidKind, why: fmt.Sprintf("kind %q of group %q cannot be a backend: only a Service can", ref.Kind, ref.Group)}
	}
	name := objectName{cmp.Or(ref.Namespace, r.object.Namespace), ref.Name}
	if !x.permitted(r, name) {
		return finding{reason: ReasonRefNotPermitted, why: fmt.Sprintf("no ReferenceGrant in namespace %s lets a %s of namespace %s refer to Service %s",
			name.namespace, r.object.Kind, r.object.Namespace, name.name)}
	}
	svc := x.services[name]
	if svc == nil {
		return finding{reason: ReasonBackendNotFound, why: "there is no Service " + name.String()}
	}
	spec := svc.Spec.(*manifest.Service)
	if spec.Type == "ExternalName" {
		return finding{reason: ReasonBackendNotFound, why: "Service " + name.String() + " only stands for another name: it has no endpoints"}
	}
	if ref.Port == nil {
		return finding{reason: ReasonBackendNotFound, why: "a port of Service " + name.String() + " is missing"}
	}
	i := slices.IndexFunc(tcpPorts(spec), func(p manifest.ServicePort) bool { return p.Port == *ref.Port })
	if i < 0 {
		return finding{reason: ReasonBackendNotFound, why: fmt.Sprintf("Service %s has no TCP port %d", name, *ref.Port)}
	}
	if p := tcpPorts(spec)[i].AppProtocol; r.isHTTP() && isOpaque(p) {
		return finding{reason: ReasonUnsupportedProtocol, why: fmt.Sprintf("Service %s says that %q is spoken at port %d, which no %s can route",
			name, p, *ref.Port, r.object.Kind)}
	}
	return finding{}
}

// isOpaque tells whether a service's appProtocol says that requests cannot be sent there as they are.
func isOpaque(appProtocol string) bool {
	switch appProtocol {
	case "https", "tls", "tcp", "kubernetes.io/wss", "mongo", "mysql", "redis", "postgresql":
		return true
	}
	return false
}

// permitted tells whether a route may refer to a service: of its own namespace, of one that a parent of it is in, which
// its clients asked for themselves (a consumer's route sends to the very service that it is for), or with a grant.
func (x *references) permitted(r *route, to objectName) bool {
	if to.namespace == r.object.Namespace {
		return true
	}
	for _, p := range r.parents {
		if p.service != nil && p.service.Namespace == to.namespace {
			return true
		}
	}
	for _, o := range x.grants {
		if o.Namespace == to.namespace && grants(o.Spec.(*manifest.ReferenceGrantSpec), r.object.Key, to.name) {
			return true
		}
	}
	return false
}

func grants(spec *manifest.ReferenceGrantSpec, from manifest.Key, service string) bool {
	return slices.ContainsFunc(spec.From, func(f manifest.GrantFrom) bool {
		return f.Group == manifest.GatewayGroup && f.Kind == from.Kind && f.Namespace == from.Namespace
	}) && slices.ContainsFunc(spec.To, func(t manifest.GrantTo) bool {
		return t.Group == "" && t.Kind == manifest.KindService && (t.Name == "" || t.Name == service)
	})
}

// weightOf is a backend's weight, 1 unless it says.
func weightOf(ref *manifest.BackendRef) uint32 {
	if ref.Weight == nil {
		return 1
	}
	return uint32(max(*ref.Weight, 0))
}
