package resource

import (
	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/mesh"
)

// memory is what a state was decoded to, so that the next one need not decode again what they have in common. Decoded
// values do not change, so any number of states may have them.
type memory struct {
	before, now known
}

// known is what one state's resources came to. Only whole states are remembered, so it is never larger than they are.
type known struct {
	values map[*meshv1.Resource]any
	joined map[*mesh.Service]joined
}

// joined is a service with the parts of its endpoints that travelled apart.
type joined struct {
	parts   []*part
	service *mesh.Service
}

func newMemory(before known, resources int) *memory {
	return &memory{before, known{make(map[*meshv1.Resource]any, resources), make(map[*mesh.Service]joined)}}
}

// remembered returns decode for one resource, or what the state before had it decoded to.
func remembered[W, T any](m *memory, r *meshv1.Resource, decode func(W) (*T, error)) func(W) (*T, error) {
	return func(wire W) (*T, error) {
		if v, ok := m.before.values[r].(*T); ok {
			m.now.values[r] = v
			return v, nil
		}
		v, err := decode(wire)
		if err == nil {
			m.now.values[r] = v
		}
		return v, err
	}
}
