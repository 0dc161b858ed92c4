package compile

import (
	"slices"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/controller/manifest"
)

// route is one route on its way to a resource, or to splits of services.
type route struct {
	object  *manifest.Object
	spec    *manifest.Route
	parents []*routeParent
	// unresolved are references that lead nowhere, or must not; unsupported is what no waypoint can do.
	unresolved  []finding
	unsupported []finding
	// badRules counts rules that have something unsupported.
	badRules int
}

func (r *route) isHTTP() bool {
	return r.object.Kind == manifest.KindHTTPRoute || r.object.Kind == manifest.KindGRPCRoute
}

// whollyUnsupported tells whether no rule of the route can be followed.
func (r *route) whollyUnsupported() bool { return r.badRules > 0 && r.badRules == len(r.spec.Rules) }

// attachedTo are the parents that the route is attached to.
func (r *route) attachedTo() (out []*routeParent) {
	for _, p := range r.parents {
		if p.service != nil {
			out = append(out, p)
		}
	}
	return out
}

// attached tells whether the route is in force anywhere.
func (r *route) attached() bool { return len(r.attachedTo()) > 0 }

// addRoutes makes a resource of every route that is attached to a service for its waypoint to follow, and splits of the
// others. What cannot be followed as it is written is answered with an error where it would have been, and never left
// out of a route that goes on without it.
func (c *compiler) addRoutes(out *Output) {
	services := make(map[objectName]*manifest.Object, len(c.services))
	for _, o := range c.services {
		services[objectName{o.Namespace, o.Name}] = o
	}
	refs := &references{services: services, grants: c.grants}
	var all []*route
	for _, o := range c.routes {
		r := &route{object: o, spec: o.Spec.(*manifest.Route)}
		c.resolveParents(r, refs)
		if !r.isHTTP() {
			c.refuseUnsplittable(r)
		}
		if len(r.parents) > 0 {
			all = append(all, r)
		}
	}
	settleConflicts(all)
	for _, r := range all {
		switch {
		case !r.spec.HasServiceParent(): // nor was it checked when it was read
		case r.isHTTP():
			c.addRoute(out, r, refs)
		default:
			c.addSplits(out, r, refs)
		}
		out.Routes = append(out.Routes, c.status(r))
	}
	slices.SortFunc(out.Routes, func(a, b RouteStatus) int { return manifest.CompareKeys(a.Key, b.Key) })
}

func (c *compiler) addRoute(out *Output, r *route, refs *references) {
	wire := &meshv1.Route{
		Kind: meshv1.Route_HTTP, Namespace: r.object.Namespace, Name: r.object.Name,
		CreatedUnix: createdUnix(r.object), Hostnames: r.spec.Hostnames,
	}
	if r.object.Kind == manifest.KindGRPCRoute {
		wire.Kind = meshv1.Route_GRPC
	}
	for i := range r.spec.Rules {
		wire.Rules = append(wire.Rules, wireRule(r, i, refs))
	}
	for _, p := range r.parents {
		wire.Parents = append(wire.Parents, p.wire()...)
	}
	if !r.attached() {
		return
	}
	if _, err := resource.DecodeRoute(wire); err != nil {
		r.refuse(finding{ReasonUnsupportedValue, "spec", "left out: " + err.Error()})
		return
	}
	add(out, resource.Route(wire))
}

// refuse takes the route from every parent.
func (r *route) refuse(f finding) {
	for _, p := range r.parents {
		p.refused, p.service = f, nil
	}
}

// createdUnix is when an object was made. One that does not say was not made by an API server, and is taken for the
// youngest, as everywhere here.
func createdUnix(o *manifest.Object) int64 {
	t, err := time.Parse(time.RFC3339, o.Meta.CreationTimestamp)
	if err != nil {
		return lastUnix
	}
	return t.Unix()
}

// lastUnix is the end of the year 9999, after which RFC 3339 has no times.
const lastUnix = 253_402_300_799
