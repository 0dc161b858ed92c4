package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// AgentID is the SPIFFE id of a part of the mesh itself: spiffe://<trust domain>/node/<name> for a node's agent or
// spiffe://<trust domain>/controller. It is comparable, and the zero AgentID is nobody.
type AgentID struct {
	trustDomain string
	node        string // "" for the controller
}

// NodeID returns the id of the agent of a node.
// Returns an error that wraps ErrMalformed unless node is a DNS subdomain, as Kubernetes demands of node names.
func NodeID(trustDomain, node string) (AgentID, error) {
	if err := CheckNodeName(node); err != nil {
		return AgentID{}, err
	}
	id, err := ControllerID(trustDomain)
	id.node = node
	if err != nil {
		return AgentID{}, err
	}
	return id, nil
}

// CheckNodeName returns an error that wraps ErrMalformed unless node is a DNS subdomain (RFC 1123).
func CheckNodeName(node string) error {
	if !isLabel(node, 253, true) {
		return fmt.Errorf("%w: node %q", ErrMalformed, node)
	}
	return nil
}

// ControllerID returns the id of the controller.
// Returns an error that wraps ErrMalformed if the trust domain is not one.
func ControllerID(trustDomain string) (AgentID, error) {
	if err := checkTrustDomain(trustDomain); err != nil {
		return AgentID{}, err
	}
	return AgentID{trustDomain: trustDomain}, nil
}

// ParseAgent parses the canonical form of either id and nothing else.
// Returns an error that wraps ErrMalformed.
func ParseAgent(s string) (AgentID, error) {
	sid, err := spiffeid.FromString(s)
	if err != nil {
		return AgentID{}, fmt.Errorf("%w: %q: %w", ErrMalformed, s, err)
	}
	id, err := ControllerID(sid.TrustDomain().Name())
	if err != nil {
		return AgentID{}, err
	}
	if node, found := strings.CutPrefix(sid.Path(), "/node/"); found {
		id, err = NodeID(sid.TrustDomain().Name(), node)
		if err != nil {
			return AgentID{}, err
		}
	}
	if id.String() != s {
		return AgentID{}, fmt.Errorf("%w: %q is neither spiffe://<trust domain>/node/<name> nor spiffe://<trust domain>/controller", ErrMalformed, s)
	}
	return id, nil
}

// NodeSPIFFE is the SPIFFE id of a node's agent, as text. The parts are not checked: see NodeID.
func NodeSPIFFE(trustDomain, node string) string {
	return AgentID{trustDomain, node}.String()
}

// ControllerSPIFFE is the SPIFFE id of the controller, as text.
func ControllerSPIFFE(trustDomain string) string {
	return AgentID{trustDomain: trustDomain}.String()
}

// ParseNode parses a node's SPIFFE id.
// Returns an error that wraps ErrMalformed, also for the controller's.
func ParseNode(uri string) (trustDomain, node string, err error) {
	id, err := ParseAgent(uri)
	if err != nil {
		return "", "", err
	}
	if id.IsController() {
		return "", "", fmt.Errorf("%w: %q is the controller's, not a node's", ErrMalformed, uri)
	}
	return id.trustDomain, id.node, nil
}

// TrustDomain returns the trust domain's name.
func (id AgentID) TrustDomain() string { return id.trustDomain }

// Node returns the node's name, or "" for the controller.
func (id AgentID) Node() string { return id.node }

// IsController tells whether the id is the controller's.
func (id AgentID) IsController() bool { return id.trustDomain != "" && id.node == "" }

// String returns the SPIFFE id, or "" for the zero AgentID.
func (id AgentID) String() string {
	switch {
	case id.trustDomain == "":
		return ""
	case id.node == "":
		return "spiffe://" + id.trustDomain + "/controller"
	}
	return "spiffe://" + id.trustDomain + "/node/" + id.node
}
