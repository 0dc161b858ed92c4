package compile

import (
	"fmt"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/controller/manifest"
)

// addSplits makes a TCPRoute or a TLSRoute into splits of its services: clients' nodes choose by weight among backends,
// connection by connection.
func (c *compiler) addSplits(out *Output, r *route, refs *references) {
	if len(r.spec.Rules) == 0 {
		return
	}
	backends := wireSplit(r, refs)
	for _, p := range r.parents {
		if p.service != nil {
			c.addSplit(out, r, p, backends)
		}
	}
}

// refuseUnsplittable takes a route from the parents where it cannot be honoured, before it competes with others there.
// Nobody reads what is in a connection, so what would need that is refused.
func (c *compiler) refuseUnsplittable(r *route) {
	f := c.unsplittable(r)
	for _, p := range r.parents {
		if p.service == nil {
			continue
		}
		name := c.serviceWaypointName(p.service)
		switch {
		case f.reason != "":
			p.refused, p.service = f, nil
		case p.consumer != "":
			p.refuse(ReasonUnsupportedValue, "only a route of the service's own namespace can split its connections: "+
				"put it into namespace "+p.service.Namespace)
		case name != "":
			p.refuse(ReasonUnsupportedValue, p.service.Key.String()+" has waypoint "+name+", which connections go to before "+
				"they could be split: write an HTTPRoute or a GRPCRoute, or label the service "+manifest.LabelUseWaypoint+": none")
		}
	}
}

// unsplittable says what about a route cannot be honoured without reading what its connections carry.
func (c *compiler) unsplittable(r *route) finding {
	switch {
	case len(r.spec.Hostnames) > 0:
		return finding{ReasonUnsupportedValue, "spec.hostnames", "connections are split without a look at the server name that " +
			"they ask for: leave it out, to split all connections to the port"}
	case len(r.spec.Rules) != 1:
		return finding{ReasonUnsupportedValue, "spec.rules", fmt.Sprintf("want one rule, got %d: nothing would tell which of them is meant", len(r.spec.Rules))}
	}
	return finding{}
}

func wireSplit(r *route, refs *references) (out []*meshv1.SplitBackend) {
	for i := range r.spec.Rules[0].BackendRefs {
		ref := &r.spec.Rules[0].BackendRefs[i]
		t := refs.resolve(r, fmt.Sprintf("spec.rules[0].backendRefs[%d]", i), ref)
		out = append(out, &meshv1.SplitBackend{Service: t.service, Port: t.port, Weight: weightOf(ref), Broken: t.broken})
	}
	return out
}

// addSplit writes a split into a service's resource. Of several routes at one port the oldest stays: connections cannot be
// told apart.
func (c *compiler) addSplit(out *Output, r *route, p *routeParent, backends []*meshv1.SplitBackend) {
	wire := out.Resources["service/"+p.service.Namespace+"/"+p.service.Name].GetService()
	if wire == nil {
		p.refuse(ReasonNoMatchingParent, p.service.Key.String()+" was left out of the mesh")
		return
	}
	before := len(wire.GetSplits())
	var taken string
	for _, port := range p.ports {
		if by := splitAt(wire, port); by != nil {
			taken = by.GetRoute()
			continue
		}
		wire.Splits = append(wire.Splits, &meshv1.Split{Port: uint32(port), Backends: backends, Route: r.object.Key.String()})
	}
	if _, err := resource.DecodeService(wire); err != nil {
		wire.Splits = wire.Splits[:before]
		p.refuse(ReasonUnsupportedValue, err.Error())
		return
	}
	switch {
	case taken != "" && len(wire.GetSplits()) == before:
		p.refuse(ReasonConflicted, "older "+taken+" splits the same port")
	case taken != "":
		p.lost = "every port: older " + taken + " splits some"
	}
}

func splitAt(s *meshv1.Service, port uint16) *meshv1.Split {
	for _, split := range s.GetSplits() {
		if split.GetPort() == uint32(port) {
			return split
		}
	}
	return nil
}
