package ztunnel

import "github.com/warren-mesh/warren/policy"

// Verdict is how a connection fared. The set is closed.
type Verdict string

const (
	Forwarded Verdict = "forwarded"
	Denied    Verdict = "denied"
	Failed    Verdict = "failed"
)

// Security is what protects a connection on this leg. The set is closed.
type Security string

const (
	MutualTLS Security = "mtls"
	Plaintext Security = "plaintext"
	// SameNode is a connection that never leaves the node's kernel, which vouches for both ends.
	SameNode Security = "local"
)

// Reason is why a connection fared as it did: one of these, or one of policy's. The set is closed, so that
// it can be a metric's label.
type Reason string

const (
	ReasonNotCaptured    Reason = "not_captured"          // no record of what the client wanted
	ReasonUnknownSource  Reason = "unknown_source"        // the mesh does not know the local pod
	ReasonNoEndpoint     Reason = "no_endpoint"           // the service has no ready endpoint
	ReasonNoFamily       Reason = "no_endpoint_of_family" // the service has ready endpoints, of the other IP family only
	ReasonNotLocal       Reason = "no_local_endpoint"     // internalTrafficPolicy is Local, and ready endpoints are on other nodes only
	ReasonNoPort         Reason = "no_such_port"          // the service does not have the port
	ReasonNoWaypoint     Reason = "no_waypoint"           // the destination's waypoint has no pod that is ready
	ReasonBrokenRoute    Reason = "broken_route"          // a TCPRoute or TLSRoute leads to what is not there
	ReasonConnectRefused Reason = "connect_refused"       // the destination answered RST
	ReasonConnectTimeout Reason = "connect_timeout"       // the destination did not answer
	ReasonConnectFailed  Reason = "connect_failed"        // any other error of connect
	ReasonNoIdentity     Reason = "identity_missing"      // no SVID of the local workload yet
	ReasonExpired        Reason = "identity_expired"      // the local workload's SVID has expired
	ReasonTLS            Reason = "tls_failed"            // the handshake with the peer failed
	ReasonPeerExpired    Reason = "peer_expired"          // the peer's SVID expired while its tunnel was open
	ReasonBadTarget      Reason = "bad_target"            // the tunnel's target is not this workload
	ReasonPeerDenied     Reason = "peer_denied"           // the destination's node refused by policy
	ReasonPeerFailed     Reason = "peer_failed"           // the destination's node could not reach the app
	ReasonTunnel         Reason = "tunnel_failed"         // the tunnel broke or its protocol was violated
	ReasonAppUnreachable Reason = "app_unreachable"       // the local app does not listen
	ReasonPolicyChanged  Reason = "policy_changed"        // a change of policy forbids the open connection
	ReasonLeft           Reason = "left_mesh"             // the pod was removed
	ReasonOverload       Reason = "overload"              // the node is at its limit of open connections
	ReasonHandshakes     Reason = "too_many_handshakes"   // the peer's address has too many that prove nothing
	ReasonTunnels        Reason = "too_many_tunnels"      // the peer's address has too many tunnels open
	ReasonDraining       Reason = "draining"              // the agent was stopping
	ReasonClosed         Reason = Reason("closed")        // ended by its ends, as connections do
	ReasonReset          Reason = "reset"                 // ended by a RST of either end
	ReasonTrustRemoved   Reason = "trust_removed"         // the peer's root is no longer trusted
	ReasonDeparted       Reason = "destination_left"      // an enrolled workload had the address until lately; nobody is known to have it
	ReasonUnknownTarget  Reason = "unknown_destination"   // the mesh does not know the local pod (inbound)
)

// reasonOf turns a decision's reason into a record's.
func reasonOf(d policy.Decision) Reason { return Reason(d.Reason) }
