package compile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/controller/manifest"
)

// RouteStatus is what is to be said about one route, parent by parent.
type RouteStatus struct {
	manifest.Key
	UID        string
	Generation int64
	Parents    []ParentStatus
}

// ParentStatus is what became of a route at one parent of ours.
type ParentStatus struct {
	Ref        manifest.ParentRef
	Conditions []RouteCondition
}

// RouteCondition is one condition, of the Gateway API's types unless its name has another domain.
type RouteCondition struct {
	Type    string
	Status  bool
	Reason  string
	Message string
}

// Types and reasons of routes' conditions: the Gateway API's, and ReasonConflicted of its GEP-1294.
const (
	RouteAccepted         = "Accepted"
	RouteResolvedRefs     = "ResolvedRefs"
	RoutePartiallyInvalid = "PartiallyInvalid"
	// RouteInUse is True if a waypoint follows the route, which a service without one has nobody for.
	RouteInUse = "warren.dev/InUse"

	ReasonAccepted            = "Accepted"
	ReasonResolvedRefs        = "ResolvedRefs"
	ReasonNoMatchingParent    = "NoMatchingParent"
	ReasonInvalidKind         = "InvalidKind"
	ReasonUnsupportedValue    = "UnsupportedValue"
	ReasonNotAllowed          = "NotAllowedByListeners"
	ReasonConflicted          = "Conflicted"
	ReasonBackendNotFound     = "BackendNotFound"
	ReasonRefNotPermitted     = "RefNotPermitted"
	ReasonUnsupportedProtocol = "UnsupportedProtocol"
	ReasonNoWaypoint          = "NoWaypoint"
	ReasonWaypoint            = "Waypoint"
)

// finding is something wrong with a route, and where: "rules[1].backendRefs[0]".
type finding struct {
	reason string
	path   string
	why    string
}

func (f finding) String() string { return f.path + ": " + f.why }

// maxFindings is how many findings one message lists.
const maxFindings = 3

func listed(all []finding) string {
	var lines []string
	for _, f := range all[:min(len(all), maxFindings)] {
		lines = append(lines, f.String())
	}
	if more := len(all) - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "; ")
}

// clipped bounds a reason that travels.
func clipped(s string) string {
	const limit = 512
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// status says of every parent of a route what became of it, and reports what is wrong as problems.
func (c *compiler) status(r *route) RouteStatus {
	out := RouteStatus{Key: r.object.Key, UID: r.object.Meta.UID, Generation: r.object.Meta.Generation}
	resolved := RouteCondition{RouteResolvedRefs, true, ReasonResolvedRefs, "every reference leads to a service"}
	if len(r.unresolved) > 0 {
		resolved = RouteCondition{RouteResolvedRefs, false, r.unresolved[0].reason, listed(r.unresolved)}
	}
	for _, f := range slices.Concat(r.unresolved, r.unsupported) {
		c.problem(r.object, "%s; what it is for is refused", f)
	}
	for _, p := range r.parents {
		conditions := []RouteCondition{c.accepted(r, p)}
		if r.spec.HasServiceParent() { // else nobody looked
			conditions = append(conditions, resolved)
		}
		if n := len(r.unsupported); n > 0 && !r.whollyUnsupported() {
			conditions = append(conditions, RouteCondition{RoutePartiallyInvalid, true, ReasonUnsupportedValue,
				"Dropped Rule: requests for it are answered 500: " + listed(r.unsupported)})
		}
		if p.service != nil && r.isHTTP() {
			conditions = append(conditions, c.inUse(r, p))
		}
		out.Parents = append(out.Parents, ParentStatus{p.ref, conditions})
	}
	return out
}

func (c *compiler) accepted(r *route, p *routeParent) RouteCondition {
	switch {
	case p.refused.reason != "":
		c.problem(r.object, "%s", p.refused)
		return RouteCondition{RouteAccepted, false, p.refused.reason, p.refused.String()}
	case r.whollyUnsupported():
		return RouteCondition{RouteAccepted, false, ReasonUnsupportedValue, listed(r.unsupported)}
	case p.lost != "":
		return RouteCondition{RouteAccepted, true, ReasonAccepted, "attached, but not to " + p.lost}
	}
	return RouteCondition{RouteAccepted, true, ReasonAccepted, "attached"}
}

// inUse says whether anybody reads the requests that an L7 route is for.
func (c *compiler) inUse(r *route, p *routeParent) RouteCondition {
	name := c.serviceWaypointName(p.service)
	if name != "" && c.hasWaypoint(p.service) {
		return RouteCondition{RouteInUse, true, ReasonWaypoint, "followed by waypoint " + name}
	}
	why := fmt.Sprintf("%s has no waypoint that takes what is sent to services: label it %s", p.service.Key, manifest.LabelUseWaypoint)
	if name != "" {
		why = fmt.Sprintf("waypoint %s of %s is not there, or must not be used from there: connections are refused", name, p.service.Key)
	}
	c.problem(r.object, "%s: it has no effect: %s", p.path, why)
	return RouteCondition{RouteInUse, false, ReasonNoWaypoint, why}
}
