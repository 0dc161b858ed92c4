package policy

import "strings"

// through decides for a workload that takes connections from its waypoints only. What the waypoint lets pass it has
// decided by the true client's identity; here only the waypoint's own is known.
func through(t Target, c Conn) Decision {
	for _, account := range t.Through {
		if isAccount(t.TrustDomain, account, c) {
			return Decision{Allowed: true, Reason: ReasonThrough, Rule: "waypoint " + account}
		}
	}
	return Decision{Reason: ReasonBypass, Rule: "use-waypoint: only " + strings.Join(t.Through, ", ") + " may connect"}
}

func isAccount(trustDomain, account string, c Conn) bool {
	namespace, name, ok := strings.Cut(account, "/")
	return ok && !c.Src.IsZero() && c.Src.TrustDomain() == trustDomain &&
		c.Src.Namespace() == namespace && c.Src.ServiceAccount() == name
}
