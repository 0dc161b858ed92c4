package manifest

import (
	"reflect"

	"go.yaml.in/yaml/v3"
)

// nodeReader reads itself from a node of any kind.
type nodeReader interface {
	readNode(d *decoder, n *yaml.Node, path string, depth int) error
}

// Unread is something that is there, whatever it says.
type Unread struct{}

func (*Unread) readNode(*decoder, *yaml.Node, string, int) error { return nil }

func (m *RouteMethod) readNode(d *decoder, n *yaml.Node, path string, depth int) error {
	if n.Kind == yaml.MappingNode {
		m.GRPC = new(GRPCMethod)
		return d.decode(n, reflect.ValueOf(m.GRPC).Elem(), path, depth+1)
	}
	return d.decode(n, reflect.ValueOf(&m.HTTP).Elem(), path, depth+1)
}

func readRoute(d *decoder, n *yaml.Node, o *Object) error {
	spec := new(Route)
	o.Spec = spec
	if err := readSpec(d, n, reflect.ValueOf(spec).Elem()); err != nil {
		return err
	}
	if !spec.HasServiceParent() {
		return nil // another controller's
	}
	return checkRoute(d, o.Kind, spec)
}

func readReferenceGrant(d *decoder, n *yaml.Node, o *Object) error {
	spec := new(ReferenceGrantSpec)
	o.Spec = spec
	return readSpec(d, n, reflect.ValueOf(spec).Elem())
}
