package policy

import (
	"net/netip"

	"github.com/warren-mesh/warren/identity"
)

// Conn is what is known about a connection when it is decided.
type Conn struct {
	// Src is the peer's identity, from its certificate or from the kernel. The zero ID means plaintext.
	Src identity.ID
	// SrcAddr and Dst are unmapped.
	SrcAddr netip.Addr
	Dst     netip.AddrPort
}

// Target is what the destination says about connections into itself.
type Target struct {
	// Policies names every AuthorizationPolicy that selects the workload, "<namespace>/<name>". The list must not change
	// once it was decided by: a long one is known again by where it lies.
	Policies []string
	// Targets are what else is dialled or passed through, "Service <namespace>/<name>" or "Gateway <namespace>/<name>":
	// the policies that target one of them count as well. The set knows them, so none can be missing.
	Targets []string
	// Strict is true if the destination port refuses connections without an identity.
	Strict bool
	// StrictSource is the PeerAuthentication that says so, "" for the mesh default.
	StrictSource string
	// Through are the service accounts, "<namespace>/<name>" of TrustDomain, of the waypoints that the workload takes
	// connections from. If there is one, policies are the waypoint's to decide, and nobody else may connect. A waypoint
	// that decides for the workload leaves them out.
	Through     []string
	TrustDomain string
}

// Reason is why a decision came out as it did. The set is closed.
type Reason string

const (
	ReasonAllowed      Reason = "allowed"           // an ALLOW policy matched
	ReasonDefault      Reason = "no_policy"         // no ALLOW policy selects the destination
	ReasonDenied       Reason = "policy_denied"     // a DENY policy matched
	ReasonNoAllow      Reason = "no_allow_matched"  // ALLOW policies select the destination, none matched
	ReasonStrict       Reason = "mtls_required"     // plaintext, and the port is STRICT
	ReasonUnresolved   Reason = "policy_unresolved" // the destination names a policy that is not here
	ReasonThrough      Reason = "through_waypoint"  // the peer is the destination's waypoint, which decided
	ReasonBypass       Reason = "waypoint_bypassed" // the destination takes connections from its waypoint only
	ReasonExternal     Reason = "external"          // a CUSTOM policy matched, and its authorizer has not said yes
	ReasonUnknownLocal Reason = "unknown_destination"
)

// Decision is the outcome for one connection or request.
type Decision struct {
	Allowed bool
	Reason  Reason
	// Rule names what decided, e.g. "AuthorizationPolicy shop/allow-web rule[0]"; "" for the default.
	Rule string
	// Audit names the AUDIT rules that matched, "" if none did. They never change the outcome.
	Audit string
	// Ask is the authorizer that has to say yes first, nil if there is none or it cannot be asked. The request is denied
	// meanwhile; after a yes the authorizer goes into Request.Passed, and what it changed into the Request, and both
	// are decided again: there may be more to ask, and a DENY still counts.
	Ask *ExternalAuthorizer

	permit Permit
}

// Permit is proof that a connection was allowed. Forwarding takes one, so nothing can forward without
// having decided. Only [Set.Decide] and [Set.DecideRequest] make valid ones.
type Permit struct{ granted bool }

// Valid tells whether the permit came from a positive decision.
func (p Permit) Valid() bool { return p.granted }

// Permit returns the decision's permit, which is valid only if Allowed.
func (d Decision) Permit() Permit { return d.permit }
