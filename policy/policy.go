// Package policy decides whether a connection, or a request, may pass: AuthorizationPolicies and STRICT ports, as a pure
// function of an immutable [Set], a [Target], a [Conn] and, where somebody has read one, a [Request]. It does no I/O,
// keeps no state but to find policies faster, and reads no clock, so any number of goroutines may decide at once, and agentctl can ask the same
// question that a connection asked.
//
// # Order
//
//  0. The target takes connections from its waypoints only: one of them is allowed ([ReasonThrough]), anybody else
//     denied ([ReasonBypass]), and nothing below counts: the waypoint decided it.
//  1. The target names a policy that the set does not have: denied ([ReasonUnresolved]). Peers of this project
//     skip such a policy and so fail open while it is on its way.
//  2. The port is STRICT and the peer has no identity: denied ([ReasonStrict]).
//  3. A rule of a CUSTOM policy matches, and its authorizer is not among [Request].Passed: denied ([ReasonExternal]).
//     [Decision].Ask says whom to ask; whoever got a yes adds it to Passed and decides again.
//  4. A rule of a DENY policy matches: denied ([ReasonDenied]).
//  5. ALLOW policies are there: one of their rules must match ([ReasonAllowed]), else denied ([ReasonNoAllow]).
//  6. Otherwise allowed ([ReasonDefault]).
//
// AUDIT policies are evaluated in every case, fill [Decision].Audit and never change the outcome.
//
// # Matching
//
// A policy matches if any of its rules does; one without rules matches nothing, so an ALLOW policy without rules
// denies all. A rule matches if any of its sources does, or it has none, any of its operations does, or it has none,
// and all of its conditions do. A source, an operation or a condition matches if every field that is set matches: a
// positive field if any of its values does, a negative one (not…) if none does.
//
// A value is exact, "prefix*", "*suffix", or "*" for anything. Principals are written without "spiffe://".
// A service account is "<namespace>/<name>", or "<name>" in the policy's own namespace; either half may be a pattern.
// A lone "*" is refused there, because readers disagree on what it covers.
//
// # Requests
//
// Methods and hosts are compared without regard to case, hosts without port and trailing dots. Paths are compared as
// [Request].Path has them: normalised, without query. A path may be a template as well: {*} is one element that is not
// empty, {**}, the last of them, is whatever is left.
//
// A request may carry a header more than once, or a list in one, and nobody knows which value its backend will read.
// So a request counts as if each value stood alone, in whichever way is worse for it: in an ALLOW policy a condition
// on a header must hold for every value, in any other it needs to hold for one. Where matching is the worse, the
// elements of a comma-separated list count as well, and the lines of a repeated header joined. A claim that is a list
// is a set: it matches if one of its members does, in every policy.
//
// # Absent facts
//
// A peer without an identity (plaintext) matches no positive identity field, "*" included. With negative
// identity fields the actions part, so that ignorance never opens a door: in an ALLOW policy notPrincipals,
// notNamespaces and notServiceAccounts do not match such a peer, whatever else the source says; in any other they do,
// as in Istio. (Istio admits plaintext by `ALLOW notPrincipals: [x]`.) An unknown source address is treated alike for
// ipBlocks and notIpBlocks, an unknown destination port for ports and notPorts, an empty host for hosts and notHosts,
// a request without a valid token for request principals and for what conditions ask of tokens. A header that a
// request lacks, or a claim that its token lacks, is no ignorance: no negative field minds it.
//
// A connection whose requests nobody has read ([Set.Decide]) has none of what operations, sources and conditions may
// ask of requests. In an ALLOW policy a source, operation or condition that asks does not match; in any other its
// questions are left out, so that it matches more.
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
	"slices"
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
	// Custom has an external authorizer asked about what matches.
	Custom
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
	case Custom:
		return "CUSTOM"
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
	// Targets are what it is held against beside the workloads that name it: "Service <namespace>/<name>" or
	// "Gateway <namespace>/<name>".
	Targets []string
	// External is whom a CUSTOM policy has asked, nil for any other.
	External *ExternalAuthorizer
}

// AsksRequests tells whether the policy needs requests to be read: by a rule of its own, or because it is CUSTOM.
// Where nobody reads them it denies more than it says.
func (p *Policy) AsksRequests() bool {
	return p.Action == Custom || slices.ContainsFunc(p.Rules, Rule.asksRequests)
}

// FullName is "<namespace>/<name>", the key of Target.Policies.
func (p *Policy) FullName() string { return p.Namespace + "/" + p.Name }

// Rule matches what comes from any of From into any of To, if all of When holds.
type Rule struct {
	From []Source // nil: from anywhere
	To   []Operation
	When []Condition
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
	// RequestPrincipals are a token's "<issuer>/<subject>".
	RequestPrincipals    []string
	NotRequestPrincipals []string
}

// Operation describes destination ports and requests. At least one field is set; every field that is set must match.
type Operation struct {
	Ports      []uint16
	NotPorts   []uint16
	Hosts      []string
	NotHosts   []string
	Methods    []string
	NotMethods []string
	Paths      []string
	NotPaths   []string
}

// Condition says what values a fact may have. Its keys: request.headers[<name>], request.auth.claims[<name>] (of nested
// claims [<name>][<name>]…), request.auth.principal, request.auth.audiences, request.auth.presenter, source.ip,
// source.namespace, source.principal, destination.port.
type Condition struct {
	Key       string
	Values    []string
	NotValues []string
}

func (r Rule) asksRequests() bool {
	return slices.ContainsFunc(r.From, Source.asksRequests) || slices.ContainsFunc(r.To, Operation.asksRequests) ||
		slices.ContainsFunc(r.When, Condition.asksRequests)
}

func (s Source) asksRequests() bool { return len(s.RequestPrincipals)+len(s.NotRequestPrincipals) > 0 }

func (o Operation) asksRequests() bool {
	return len(o.Hosts)+len(o.NotHosts)+len(o.Methods)+len(o.NotMethods)+len(o.Paths)+len(o.NotPaths) > 0
}

func (c Condition) asksRequests() bool { return strings.HasPrefix(c.Key, "request.") }
