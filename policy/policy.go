// Package policy decides whether a connection may pass: layer-4 AuthorizationPolicies and STRICT ports, as a pure
// function of an immutable [Set], a [Target] and a [Conn]. It does no I/O, keeps no state and reads no clock, so
// any number of goroutines may decide at once, and agentctl can ask the same question that a connection asked.
//
// # Order
//
//  1. The target names a policy that the set does not have: denied ([ReasonUnresolved]). Peers of this project
//     skip such a policy and so fail open while it is on its way.
//  2. The port is STRICT and the peer has no identity: denied ([ReasonStrict]).
//  3. A rule of a DENY policy matches: denied ([ReasonDenied]).
//  4. ALLOW policies are named: one of their rules must match ([ReasonAllowed]), else denied ([ReasonNoAllow]).
//  5. Otherwise allowed ([ReasonDefault]).
//
// AUDIT policies are evaluated in every case, fill [Decision].Audit and never change the outcome.
//
// # Matching
//
// A policy matches if any of its rules does; one without rules matches nothing, so an ALLOW policy without rules
// denies all. A rule matches if any of its sources does, or it has none, and any of its operations does, or it has
// none. A source or an operation matches if every field that is set matches: a positive field if any of its values
// does, a negative one (not…) if none does.
//
// A value is exact, "prefix*", "*suffix", or "*" for anything. Principals are written without "spiffe://".
// A service account is "<namespace>/<name>", or "<name>" in the policy's own namespace; either half may be a pattern.
// A lone "*" is refused there, because readers disagree on what it covers.
//
// # Absent facts
//
// A peer without an identity (plaintext) matches no positive identity field, "*" included. With negative
// identity fields the two actions part, so that ignorance never opens a door: in a DENY or AUDIT policy
// notPrincipals, notNamespaces and notServiceAccounts match such a peer, as in Istio; in an ALLOW policy they do
// not, whatever else the source says. (Istio admits plaintext by `ALLOW notPrincipals: [x]`.) An unknown source
// address is treated alike for ipBlocks and notIpBlocks, an unknown destination port for ports and notPorts.
//
// # Empty lists
//
// `source: {}` and `operation: {}` are refused, as Istio does, and so is every list that is present but empty
// (in Go: not nil, of length 0): read literally, `from: []` or `principals: []` would widen a rule to everybody
// without a word. The wire format cannot tell an empty list from an absent one, so whoever reads a manifest must
// hand over what it read: nil for absent.
//
// # Addresses
//
// Addresses are compared unmapped and without their zone. An IPv4-mapped block (::ffff:10.0.0.0/104) is taken as
// its IPv4 block; one wider than /96 is refused. Host bits are cleared. ::/0 holds IPv6 addresses only.
package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Action is what a policy does with the connections that its rules match. The zero Action is invalid.
type Action uint8

const (
	// Allow admits what matches; once one selects a workload, nothing else is admitted.
	Allow Action = iota + 1
	// Deny refuses what matches, before any Allow.
	Deny
	// Audit reports what matches.
	Audit
)

// String returns the name that AuthorizationPolicy uses.
func (a Action) String() string {
	switch a {
	case Allow:
		return "ALLOW"
	case Deny:
		return "DENY"
	case Audit:
		return "AUDIT"
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// Policy is one AuthorizationPolicy, without its selector: the workloads that it selects name it.
// It must not change once a [Set] was made of it.
type Policy struct {
	Namespace string
	Name      string
	Action    Action
	Rules     []Rule
}

// FullName is "<namespace>/<name>", the key of Target.Policies.
func (p *Policy) FullName() string { return p.Namespace + "/" + p.Name }

// Rule matches connections from any of From into any of To.
type Rule struct {
	From []Source // nil: from anywhere
	To   []Operation
}

// Source describes peers. At least one field is set; every field that is set must match.
type Source struct {
	Principals         []string
	NotPrincipals      []string
	Namespaces         []string
	NotNamespaces      []string
	ServiceAccounts    []string
	NotServiceAccounts []string
	IPBlocks           []netip.Prefix
	NotIPBlocks        []netip.Prefix
}

// Operation describes destination ports. At least one field is set; every field that is set must match.
type Operation struct {
	Ports    []uint16
	NotPorts []uint16
}

// String is the rule on one line, for people: "from (principals a, b; not namespaces c) or (…) to (ports 80)".
func (r Rule) String() string {
	var b strings.Builder
	b.WriteString("from ")
	if len(r.From) == 0 {
		b.WriteString("anywhere")
	}
	for i, s := range r.From {
		if i > 0 {
			b.WriteString(" or ")
		}
		b.WriteString(s.String())
	}
	b.WriteString(" to ")
	if len(r.To) == 0 {
		b.WriteString("any port")
	}
	for i, o := range r.To {
		if i > 0 {
			b.WriteString(" or ")
		}
		b.WriteString(o.String())
	}
	return b.String()
}

// String is the source in parentheses, "(principals a, b; not namespaces c)".
func (s Source) String() string {
	var fields []string
	fields = appendField(fields, "principals", s.Principals)
	fields = appendField(fields, "not principals", s.NotPrincipals)
	fields = appendField(fields, "namespaces", s.Namespaces)
	fields = appendField(fields, "not namespaces", s.NotNamespaces)
	fields = appendField(fields, "service accounts", s.ServiceAccounts)
	fields = appendField(fields, "not service accounts", s.NotServiceAccounts)
	fields = appendField(fields, "ip blocks", s.IPBlocks)
	fields = appendField(fields, "not ip blocks", s.NotIPBlocks)
	return "(" + strings.Join(fields, "; ") + ")"
}

// String is the operation in parentheses, "(ports 80, 443; not ports 8080)".
func (o Operation) String() string {
	fields := appendField(nil, "ports", o.Ports)
	fields = appendField(fields, "not ports", o.NotPorts)
	return "(" + strings.Join(fields, "; ") + ")"
}

func appendField[T any](fields []string, name string, values []T) []string {
	if len(values) == 0 {
		return fields
	}
	var b strings.Builder
	b.WriteString(name)
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %v", v)
	}
	return append(fields, b.String())
}
