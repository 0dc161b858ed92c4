// Package attest checks proofs of being a node, or a waypoint's pod. A join token is one; a Kubernetes service-account token
// is another.
package attest

import (
	"context"
	"errors"
)

// ErrRefused is wrapped by the error of every proof that is not accepted. Its text is for the CA's log: the caller must
// not learn which part was wrong.
var ErrRefused = errors.New("the proof is refused")

// NodeAttestor decides whether a caller is the node that it claims to be.
type NodeAttestor interface {
	// Attest returns nil if proof shows that the caller is the node. The node's name is well-formed. A proof that is
	// good only once is used up by that. Errors wrap ErrRefused, except those of the attestor's own store.
	Attest(ctx context.Context, node, proof string) error
}

// Workload is who a waypoint's pod claims to be, as the controller's record has it.
type Workload struct {
	UID            string
	Namespace      string
	Name           string
	ServiceAccount string
}

// WaypointAttestor decides whether a caller is the pod that it claims to be.
type WaypointAttestor interface {
	// AttestWaypoint returns nil if proof shows that the caller is the pod, as NodeAttestor.Attest does for nodes.
	AttestWaypoint(ctx context.Context, w Workload, proof string) error
}
