package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/controller/manifest"
)

// maxThrough is how many waypoints' accounts one workload may name: resource.Decode's own bound.
const maxThrough = 256

// waypoint is what a use-waypoint label comes to.
type waypoint struct {
	// name is the Gateway's and its service's, "<namespace>/<name>"; empty: there is none.
	name string
	// account is the service account that its pods have. That of a Gateway which is not there, or which must not be used
	// from here, is one that no pod can have: a name with a question mark. Whoever asked for it is reached by nobody
	// then, rather than past it.
	account string
	// services and workloads say which traffic it takes.
	services, workloads bool
	// optedOut is true if the narrowest label says "none".
	optedOut bool
}

// noAccount makes a name that is no service account's, and still says which waypoint is missing.
func noAccount(name string) string { return name + "?" }

// gatewayOf returns the Gateway that a pod is a waypoint of, "<namespace>/<name>", or "" if it is none's.
func (c *compiler) gatewayOf(o *manifest.Object) string {
	name := objectName{o.Namespace, o.Meta.Labels[manifest.LabelGatewayName]}
	if c.gateways[name] == nil {
		return ""
	}
	return name.String()
}

// checkGatewayPod reports what keeps a waypoint's pod from working.
func (c *compiler) checkGatewayPod(o *manifest.Object, spec *manifest.Pod) {
	want := o.Meta.Labels[manifest.LabelGatewayName]
	if got := cmp.Or(spec.Spec.ServiceAccountName, "default"); got != want {
		c.problem(o, "spec.serviceAccountName: it is a waypoint of Gateway %s, so workloads take connections from service "+
			"account %s only: it has %s, and will be refused; give it the Gateway's name", want, want, got)
	}
}

func (n objectName) String() string { return n.namespace + "/" + n.name }

// waypointOf resolves the label that decides for a service or a pod: its own, or else its namespace's.
func (c *compiler) waypointOf(o *manifest.Object) waypoint {
	by := o
	if _, own := o.Meta.Labels[manifest.LabelUseWaypoint]; !own {
		if by = c.namespaces[o.Namespace]; by == nil {
			return waypoint{}
		}
	}
	w, known := c.waypoints[by]
	if !known {
		w = c.resolveWaypoint(by, o.Namespace)
		c.waypoints[by] = w
	}
	return w
}

// resolveWaypoint says what the label of an object in a namespace means.
func (c *compiler) resolveWaypoint(by *manifest.Object, namespace string) waypoint {
	name, there := by.Meta.Labels[manifest.LabelUseWaypoint]
	if !there || c.opts.Leaving {
		return waypoint{}
	}
	if name == manifest.WaypointNone {
		return waypoint{optedOut: by.Kind != manifest.KindNamespace}
	}
	at := objectName{cmp.Or(by.Meta.Labels[manifest.LabelUseWaypointNamespace], namespace), name}
	if !manifest.IsName(at.namespace) || !manifest.IsName(at.name) { // then there cannot be one, whatever it says
		at = objectName{namespace, "?"}
	}
	unknown := waypoint{name: at.String(), account: noAccount(at.String()), services: true, workloads: true}
	gateway := c.gateways[at]
	if gateway == nil {
		c.problem(by, "label %s: %q: there is no Gateway %s of class %s: connections to what uses it are refused; make one, or write %q",
			manifest.LabelUseWaypoint, name, at, manifest.GatewayClassWaypoint, manifest.WaypointNone)
		return unknown
	}
	if !c.allows(gateway, namespace) {
		c.problem(by, "label %s: Gateway %s does not let namespace %s use it: connections to what uses it are refused; "+
			"it needs a listener of protocol HBONE whose allowedRoutes.namespaces has it", manifest.LabelUseWaypoint, at, namespace)
		return unknown
	}
	w := waypoint{name: at.String(), account: at.String(), services: true, workloads: true}
	switch v := gateway.Meta.Labels[manifest.LabelWaypointFor]; v {
	case "", manifest.WaypointForAll:
	case manifest.WaypointForService:
		w.workloads = false
	case manifest.WaypointForWorkload:
		w.services = false
	default:
		c.problem(gateway, "label %s is %q and taken for %q: it must be %q, %q or %q", manifest.LabelWaypointFor, v,
			manifest.WaypointForAll, manifest.WaypointForAll, manifest.WaypointForService, manifest.WaypointForWorkload)
	}
	return w
}

// allows tells whether a Gateway has a listener for the mesh that lets a namespace use it: its own, unless it says more.
func (c *compiler) allows(gateway *manifest.Object, namespace string) bool {
	for _, l := range gateway.Spec.(*manifest.GatewaySpec).Listeners {
		if !strings.EqualFold(l.Protocol, "HBONE") {
			continue
		}
		from := l.AllowedRoutes.Namespaces
		switch from.From {
		case "", "Same":
			if namespace == gateway.Namespace {
				return true
			}
		case "All":
			return true
		case "Selector":
			if ns := c.namespaces[namespace]; ns != nil && from.Selector != nil && from.Selector.Matches(ns.Meta.Labels) {
				return true
			}
		}
	}
	return false
}

// serviceWaypoint is the waypoint of a service, which a waypoint's own service does not have: its clients must reach it.
func (c *compiler) serviceWaypoint(o *manifest.Object) waypoint {
	if c.gateways[objectName{o.Namespace, o.Name}] != nil {
		return waypoint{}
	}
	return c.waypointOf(o)
}

// hasWaypoint tells whether a service has a waypoint that is there.
func (c *compiler) hasWaypoint(o *manifest.Object) bool {
	w := c.serviceWaypoint(o)
	return w.services && w.account == w.name
}

// serviceWaypointName is the waypoint that takes what is sent to a service, "" if none does.
func (c *compiler) serviceWaypointName(o *manifest.Object) string {
	if w := c.serviceWaypoint(o); w.services {
		return w.name
	}
	return ""
}

// applyWaypoints tells workloads which waypoint takes what is sent to their own addresses, and from which waypoints they
// take connections: their own, and those of every service that they are behind, so that neither can be gone around. One
// that takes only what is sent to services (waypoint-for: service) leaves its workloads open, as it was asked to.
func (c *compiler) applyWaypoints(x *index) {
	behind := c.waypointsBehind(x)
	for _, p := range c.pods {
		if p.workload.GetGateway() != "" {
			continue
		}
		own := c.waypointOf(p.object)
		if own.optedOut {
			continue
		}
		through, enforced := make(map[string]bool), false
		if own.workloads {
			p.workload.Waypoint = own.name
			through[own.account], enforced = true, true
		}
		for w := range behind[p] {
			through[w.account] = true
			enforced = enforced || w.workloads
			if here := &p.workload.Waypoint; w.workloads && !own.workloads && (*here == "" || w.name < *here) {
				*here = w.name // what is sent to the pod itself goes where its services' does
			}
		}
		if p.workload.GetEnrolled() && enforced {
			p.workload.Through = c.bounded(p, through)
		}
	}
}

func (c *compiler) bounded(p *pod, through map[string]bool) []string {
	out := slices.Sorted(maps.Keys(through))
	if len(out) > maxThrough {
		c.problem(p.object, "it uses %d waypoints, of which it takes connections from the first %d only", len(out), maxThrough)
		out = out[:maxThrough]
	}
	return out
}

// waypointsBehind returns the waypoints of the services that a pod is behind, by pod. Whom a selector selects is behind
// the service before its endpoints say so.
func (c *compiler) waypointsBehind(x *index) map[*pod]map[waypoint]bool {
	byNamespace := make(map[string][]*pod)
	for _, p := range c.pods {
		byNamespace[p.object.Namespace] = append(byNamespace[p.object.Namespace], p)
	}
	out := make(map[*pod]map[waypoint]bool)
	for _, o := range c.services {
		w := c.serviceWaypoint(o)
		if !w.services {
			continue
		}
		note := func(p *pod) {
			if out[p] == nil {
				out[p] = make(map[waypoint]bool)
			}
			out[p][w] = true
		}
		if sel := o.Spec.(*manifest.Service).Selector; len(sel) > 0 {
			for _, p := range byNamespace[o.Namespace] {
				if matches(sel, p.object.Meta.Labels) {
					note(p)
				}
			}
		}
		x.eachSliced(o, note)
	}
	return out
}

// eachSliced calls yield with every pod that a slice of the service has as an endpoint.
func (x *index) eachSliced(o *manifest.Object, yield func(*pod)) {
	for _, s := range x.slices[objectName{o.Namespace, o.Name}] {
		for _, ep := range s.Spec.(*manifest.EndpointSlice).Endpoints {
			for _, ip := range ep.Addresses {
				a, err := netip.ParseAddr(ip)
				if err != nil {
					continue
				}
				if p, usable := x.behind(o.Namespace, ep, a.Unmap()); usable && p != nil {
					yield(p)
				}
			}
		}
	}
}

// reportBypassed says which services lead to pods that refuse what comes by them: they have no waypoint, their pods
// take connections from waypoints only.
func (c *compiler) reportBypassed(services []*service) {
	byUID := make(map[string]*pod, len(c.pods))
	for _, p := range c.pods {
		byUID[p.workload.GetUid()] = p
	}
	for _, s := range services {
		if s.wire.GetWaypoint() != "" || c.gateways[objectName{s.object.Namespace, s.object.Name}] != nil {
			continue
		}
		i := slices.IndexFunc(s.wire.GetEndpoints(), func(e *meshv1.Endpoint) bool {
			p := byUID[e.GetWorkloadUid()]
			return p != nil && len(p.workload.GetThrough()) > 0 && p.workload.GetWaypoint() == ""
		})
		if i < 0 {
			continue
		}
		p := byUID[s.wire.GetEndpoints()[i].GetWorkloadUid()]
		c.problem(s.object, "it has no waypoint, and %s takes connections from waypoint %s only: connections by this service "+
			"are refused; label it %s too, or the pod %q", p.object.Key, strings.Join(p.workload.GetThrough(), ", "),
			manifest.LabelUseWaypoint, manifest.WaypointNone)
	}
}

// appProtocol is what is spoken at a port: what the service says, or what its name begins with.
func appProtocol(port manifest.ServicePort) string {
	if port.AppProtocol != "" {
		return strings.ToLower(port.AppProtocol)
	}
	name := strings.ToLower(port.Name)
	if name == "grpc-web" || strings.HasPrefix(name, "grpc-web-") {
		return "grpc-web"
	}
	switch prefix, _, _ := strings.Cut(name, "-"); prefix {
	case "http", "http2", "https", "grpc", "tcp", "tls", "mongo", "mysql", "redis":
		return prefix
	}
	return ""
}
