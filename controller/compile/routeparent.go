package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/controller/manifest"
)

// routeParent is one parent of a route: a service, or a waypoint, which takes no routes.
type routeParent struct {
	ref      manifest.ParentRef
	path     string
	service  *manifest.Object // nil if the route is not attached to it
	consumer string           // the only namespace whose clients it is for
	ports    []uint16         // those that it is attached to
	whole    bool             // they are all that the service has, and will have
	refused  finding          // why it is not attached
	lost     string           // which ports another kind of route has, for people
}

// resolveParents finds the parents that are the mesh's business.
func (c *compiler) resolveParents(r *route, refs *references) {
	for i, ref := range r.spec.ParentRefs {
		p := &routeParent{ref: ref, path: fmt.Sprintf("spec.parentRefs[%d]", i)}
		name := objectName{ref.In(r.object.Namespace), ref.Name}
		switch {
		case ref.IsService():
			c.resolveParent(r, p, refs.services[name])
		case ref.Kind != nil && *ref.Kind == manifest.KindService:
			p.refuse(ReasonInvalidKind, `a Service is of the core group: write group: ""`)
		case ref.IsGateway() && c.gateways[name] != nil:
			p.refuse(ReasonNotAllowed, "a waypoint takes no routes of its own: name the Service whose requests they are for")
		default:
			continue // another controller's
		}
		r.parents = append(r.parents, p)
	}
}

// refuse notes why the route is not attached.
func (p *routeParent) refuse(reason, why string) {
	p.refused, p.service = finding{reason, p.path, why}, nil
}

// resolveParent attaches a route to a service, or says why not.
func (c *compiler) resolveParent(r *route, p *routeParent, svc *manifest.Object) {
	name := p.ref.In(r.object.Namespace) + "/" + p.ref.Name
	if svc == nil {
		p.refuse(ReasonNoMatchingParent, "there is no Service "+name)
		return
	}
	spec := svc.Spec.(*manifest.Service)
	if spec.Type == "ExternalName" {
		p.refuse(ReasonNoMatchingParent, "Service "+name+" only stands for another name: nobody connects to it")
		return
	}
	if len(spec.ClusterAddrs()) == 0 && len(spec.ExternalIPs)+len(spec.LoadBalancerIPs) == 0 {
		p.refuse(ReasonNoMatchingParent, "Service "+name+" is headless: clients connect to its pods, which no route is asked about")
		return
	}
	for _, port := range tcpPorts(spec) {
		if p.ref.Port != nil && *p.ref.Port != port.Port || p.ref.SectionName != nil && *p.ref.SectionName != port.Name {
			continue
		}
		p.ports = append(p.ports, port.Port)
	}
	if len(p.ports) == 0 {
		p.refuse(ReasonNoMatchingParent, "Service "+name+" has no TCP port "+p.wanted())
		return
	}
	p.service, p.whole = svc, p.ref.Port == nil && p.ref.SectionName == nil
	if svc.Namespace != r.object.Namespace {
		p.consumer = r.object.Namespace
	}
}

// wanted is the port that a reference asks for.
func (p *routeParent) wanted() string {
	var words []string
	if p.ref.SectionName != nil {
		words = append(words, strconv.Quote(*p.ref.SectionName))
	}
	if p.ref.Port != nil {
		words = append(words, strconv.Itoa(int(*p.ref.Port)))
	}
	return strings.Join(words, " with number ")
}

func (p *routeParent) wire() (out []*meshv1.RouteParent) {
	if p.service == nil {
		return nil
	}
	name := p.service.Namespace + "/" + p.service.Name
	if p.whole {
		return []*meshv1.RouteParent{{Service: name, ConsumerNamespace: p.consumer}}
	}
	for _, port := range p.ports {
		out = append(out, &meshv1.RouteParent{Service: name, Port: uint32(port), ConsumerNamespace: p.consumer})
	}
	return out
}

// frontend is one port of a service for one group of clients.
type frontend struct {
	service  objectName
	port     uint16
	consumer string
}

// rank orders kinds of routes: of those at one frontend only the first is followed (GEP-1294, "Route types").
func rank(kind string) int {
	return slices.Index([]string{manifest.KindGRPCRoute, manifest.KindHTTPRoute, manifest.KindTLSRoute, manifest.KindTCPRoute}, kind)
}

func (p *routeParent) frontend(port uint16) frontend {
	return frontend{objectName{p.service.Namespace, p.service.Name}, port, p.consumer}
}

// settleConflicts leaves every frontend to one kind of routes.
func settleConflicts(all []*route) {
	first := make(map[frontend]*manifest.Object)
	for _, r := range all {
		for _, p := range r.attachedTo() {
			for _, port := range p.ports {
				f := p.frontend(port)
				if first[f] == nil || rank(r.object.Kind) < rank(first[f].Kind) {
					first[f] = r.object
				}
			}
		}
	}
	for _, r := range all {
		for _, p := range r.parents {
			p.settle(r.object.Kind, first)
		}
	}
}

// settle takes the ports from a parent that a more specific kind of route has.
func (p *routeParent) settle(kind string, first map[frontend]*manifest.Object) {
	if p.service == nil {
		return
	}
	var kept []uint16
	var lost []string
	var to *manifest.Object
	for _, port := range p.ports {
		if by := first[p.frontend(port)]; by.Kind != kind {
			lost, to = append(lost, strconv.Itoa(int(port))), cmp.Or(to, by)
			continue
		}
		kept = append(kept, port)
	}
	if len(lost) == 0 {
		return
	}
	p.lost = fmt.Sprintf("port %s, which %s has: of several kinds of routes at one port the most specific is followed",
		strings.Join(lost, ", "), to.Key)
	p.ports, p.whole = kept, false
	if len(kept) == 0 {
		p.refuse(ReasonConflicted, "not attached to "+p.lost)
	}
}
