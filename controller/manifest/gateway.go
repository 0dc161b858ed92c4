package manifest

import (
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The Gateway API's group, and the kinds of it that the mesh reads. Its types here have the fields of its v1, as
// small structs: what a CRD's schema would have checked is checked where a manifest is read, and only then means
// something to the mesh if a route names a Service as its parent.
const (
	GatewayGroup = "gateway.networking.k8s.io"

	KindGateway        = "Gateway"
	KindGatewayClass   = "GatewayClass"
	KindHTTPRoute      = "HTTPRoute"
	KindGRPCRoute      = "GRPCRoute"
	KindTCPRoute       = "TCPRoute"
	KindTLSRoute       = "TLSRoute"
	KindReferenceGrant = "ReferenceGrant"
)

const (
	// GatewayClassWaypoint is the class of the Gateways that are waypoints.
	GatewayClassWaypoint = "warren-waypoint"
	// GatewayController is who answers for that class, and for routes whose parents are services.
	GatewayController = "warren.dev/controller"
	// LabelGatewayName on a pod or a service says which Gateway of its namespace it belongs to.
	LabelGatewayName = "gateway.networking.k8s.io/gateway-name"
	// LabelUseWaypoint on a namespace, a service or a pod names the Gateway that its traffic goes through; WaypointNone
	// opts out. LabelUseWaypointNamespace beside it says where that Gateway is, if it is elsewhere.
	LabelUseWaypoint          = "warren.dev/use-waypoint"
	LabelUseWaypointNamespace = "warren.dev/use-waypoint-namespace"
	WaypointNone              = "none"
	// LabelWaypointFor on a Gateway says which traffic it takes.
	LabelWaypointFor    = "warren.dev/waypoint-for"
	WaypointForAll      = "all"
	WaypointForService  = "service"
	WaypointForWorkload = "workload"
)

// GatewayVersions are the versions of a kind of the Gateway API that are read, the preferred first; none for a kind of
// another group.
func GatewayVersions(kind string) []string {
	switch kind {
	case KindGateway, KindGatewayClass, KindHTTPRoute, KindReferenceGrant:
		return []string{"v1", "v1beta1"}
	case KindGRPCRoute:
		return []string{"v1", "v1alpha2"}
	case KindTCPRoute:
		return []string{"v1", "v1alpha2"}
	case KindTLSRoute:
		return []string{"v1", "v1alpha3", "v1alpha2"}
	}
	return nil
}

// IsRoute tells whether a kind is one of the routes that the mesh reads.
func IsRoute(kind string) bool {
	switch kind {
	case KindHTTPRoute, KindGRPCRoute, KindTCPRoute, KindTLSRoute:
		return true
	}
	return false
}

// GatewaySpec is the part of a Gateway's spec that the mesh needs.
type GatewaySpec struct {
	GatewayClassName string     `json:"gatewayClassName"`
	Listeners        []Listener `json:"listeners"`
}

// Listener is one listener of a Gateway.
type Listener struct {
	Name          string        `json:"name"`
	Hostname      string        `json:"hostname"`
	Port          uint16        `json:"port"`
	Protocol      string        `json:"protocol"`
	AllowedRoutes AllowedRoutes `json:"allowedRoutes"`
}

// AllowedRoutes says who may use a listener.
type AllowedRoutes struct {
	Namespaces struct {
		From     string         `json:"from"` // All, Selector, None, or Same, which is the default
		Selector *LabelSelector `json:"selector"`
	} `json:"namespaces"`
	Kinds []RouteGroupKind `json:"kinds"`
}

// RouteGroupKind is one kind of routes that a listener takes.
type RouteGroupKind struct {
	Group *string `json:"group"`
	Kind  string  `json:"kind"`
}

// LabelSelector is Kubernetes' selector of labels.
type LabelSelector struct {
	MatchLabels      map[string]string  `json:"matchLabels"`
	MatchExpressions []LabelRequirement `json:"matchExpressions"`
}

// LabelRequirement is one expression of a selector.
type LabelRequirement struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values"`
}

// Matches tells whether a selector selects labels. One with an operator that nobody knows selects nothing.
func (s *LabelSelector) Matches(labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	for _, r := range s.MatchExpressions {
		if !r.matches(labels) {
			return false
		}
	}
	return true
}

func (r *LabelRequirement) matches(labels map[string]string) bool {
	value, has := labels[r.Key]
	in := false
	for _, v := range r.Values {
		in = in || has && v == value
	}
	switch r.Operator {
	case "In":
		return in
	case "NotIn":
		return !in
	case "Exists":
		return has
	case "DoesNotExist":
		return !has
	}
	return false
}

// GatewayClassSpec is a GatewayClass's spec.
type GatewayClassSpec struct {
	ControllerName string `json:"controllerName"`
}

// ReferenceGrantSpec says who may refer to what from another namespace.
type ReferenceGrantSpec struct {
	From []GrantFrom `json:"from"`
	To   []GrantTo   `json:"to"`
}

// GrantFrom is who may refer.
type GrantFrom struct {
	Group     string `json:"group"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
}

// GrantTo is what may be referred to: one object of the grant's namespace, or all of a kind.
type GrantTo struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

// ParentRef names what a route is attached to. The fields are as written: a status must say them again.
type ParentRef struct {
	Group       *string `json:"group"`
	Kind        *string `json:"kind"`
	Namespace   *string `json:"namespace"`
	Name        string  `json:"name"`
	SectionName *string `json:"sectionName"`
	Port        *uint16 `json:"port"`
}

// IsService tells whether the parent is a service.
func (p *ParentRef) IsService() bool {
	return p.Kind != nil && *p.Kind == KindService && p.Group != nil && (*p.Group == "" || *p.Group == "core")
}

// IsGateway tells whether the parent is a Gateway, which is what a reference that does not say is one to.
func (p *ParentRef) IsGateway() bool {
	return (p.Kind == nil || *p.Kind == KindGateway) && (p.Group == nil || *p.Group == GatewayGroup)
}

// In is the parent's namespace, as seen from a route's.
func (p *ParentRef) In(namespace string) string {
	if p.Namespace != nil && *p.Namespace != "" {
		return *p.Namespace
	}
	return namespace
}

// BackendRef names where traffic goes.
type BackendRef struct {
	Group     string        `json:"group"`
	Kind      string        `json:"kind"`
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	Port      *uint16       `json:"port"`
	Weight    *int32        `json:"weight"` // nil: 1
	Filters   []RouteFilter `json:"filters"`
}

// IsService tells whether the reference is to a service, which it is unless it says otherwise.
func (b *BackendRef) IsService() bool {
	return (b.Kind == "" || b.Kind == KindService) && (b.Group == "" || b.Group == "core")
}

// gatewayKind is how one of the Gateway API's kinds is read, false for another kind. A Gateway may be another
// controller's, with fields that only that one knows.
func gatewayKind(name, apiVersion string) (kind, bool) {
	group, version, _ := strings.Cut(apiVersion, "/")
	known := false
	for _, v := range GatewayVersions(name) {
		known = known || v == version
	}
	if group != GatewayGroup || !known {
		return kind{}, false
	}
	k := kind{apiVersion: apiVersion, namespaced: true, foreign: true, read: readRoute}
	switch name {
	case KindGatewayClass:
		k.namespaced, k.read = false, readLenient[GatewayClassSpec]
	case KindGateway:
		k.read = readLenient[GatewaySpec]
	case KindReferenceGrant:
		k.strict, k.read = true, readReferenceGrant
	default:
		k.strict = true
	}
	return k, true
}

// readLenient reads a spec and nothing else.
func readLenient[T any](d *decoder, n *yaml.Node, o *Object) error {
	spec := new(T)
	o.Spec = spec
	return readSpec(d, n, reflect.ValueOf(spec).Elem())
}
