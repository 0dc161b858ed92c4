package policy

import "strings"

// Decide says whether c may pass into t. See the package comment for the order.
// It does not allocate unless it denies or an AUDIT rule matches.
func (s *Set) Decide(t Target, c Conn) Decision {
	c = normalise(c)
	d := s.outcome(t, c)
	d.Audit = s.audit(t, c)
	d.permit = Permit{granted: d.Allowed}
	return d
}

// normalise is the one place where an address's form is looked at. netip's Contains is false for an address with a
// zone, so a zone would slip through a DENY block.
func normalise(c Conn) Conn {
	c.SrcAddr = c.SrcAddr.Unmap().WithZone("")
	return c
}

func (s *Set) outcome(t Target, c Conn) Decision {
	for _, name := range t.Policies {
		if s.lookup(name) == nil {
			return Decision{Reason: ReasonUnresolved, Rule: "AuthorizationPolicy " + name + " has not been received"}
		}
	}
	if t.Strict && c.Src.IsZero() {
		return Decision{Reason: ReasonStrict, Rule: strictRule(t)}
	}
	if rule := s.firstMatch(t, c, Deny); rule != nil {
		return Decision{Reason: ReasonDenied, Rule: rule.title}
	}
	if rule := s.firstMatch(t, c, Allow); rule != nil {
		return Decision{Allowed: true, Reason: ReasonAllowed, Rule: rule.title}
	}
	if names := s.named(t, Allow); len(names) > 0 {
		return Decision{Reason: ReasonNoAllow, Rule: "no rule matched of AuthorizationPolicy " + strings.Join(names, ", ")}
	}
	return Decision{Allowed: true, Reason: ReasonDefault}
}

func strictRule(t Target) string {
	if t.StrictSource == "" {
		return "mesh default"
	}
	return "PeerAuthentication " + t.StrictSource
}

// firstMatch returns the first rule that matches, of the target's policies with the action, or nil.
func (s *Set) firstMatch(t Target, c Conn, action Action) *compiledRule {
	for _, name := range t.Policies {
		p := s.lookup(name)
		if p.policy.Action != action {
			continue
		}
		if rule := p.match(c); rule != nil {
			return rule
		}
	}
	return nil
}

// named returns the names of the target's policies with the action.
func (s *Set) named(t Target, action Action) []string {
	var names []string
	for _, name := range t.Policies {
		if s.lookup(name).policy.Action == action {
			names = append(names, name)
		}
	}
	return names
}

func (s *Set) audit(t Target, c Conn) string {
	var matched string
	for _, name := range t.Policies {
		p := s.lookup(name)
		if p == nil || p.policy.Action != Audit {
			continue
		}
		rule := p.match(c)
		switch {
		case rule == nil:
		case matched == "":
			matched = rule.title
		default:
			matched += ", " + rule.title
		}
	}
	return matched
}

// match returns the first rule that matches, or nil.
func (p *compiled) match(c Conn) *compiledRule {
	for i := range p.rules {
		if p.rules[i].mismatch(c, p.policy.Action) == "" {
			return &p.rules[i]
		}
	}
	return nil
}

// mismatch returns the name of a field that keeps the rule from matching, or "" if the rule matches.
func (r *compiledRule) mismatch(c Conn, action Action) string {
	if field := r.fromMismatch(c, action); field != "" {
		return field
	}
	return r.toMismatch(c, action)
}

func (r *compiledRule) fromMismatch(c Conn, action Action) (field string) {
	for i := range r.from {
		field = r.from[i].mismatch(c, action)
		if field == "" {
			return ""
		}
	}
	return field
}

func (r *compiledRule) toMismatch(c Conn, action Action) (field string) {
	for i := range r.to {
		field = mismatchPort(&r.to[i], c.Dst.Port(), action)
		if field == "" {
			return ""
		}
	}
	return field
}

// mismatch returns the name of the first field that does not match, or "" if all do.
func (s *source) mismatch(c Conn, action Action) string {
	if c.Src.IsZero() {
		if field := s.mismatchPlaintext(action); field != "" {
			return field
		}
	} else if field := s.mismatchIdentity(c); field != "" {
		return field
	}
	switch {
	case len(s.blocks) > 0 && !anyBlock(s.blocks, c):
		return "ipBlocks"
	case s.asksNoAddress && !c.SrcAddr.IsValid() && action == Allow:
		return "notIpBlocks"
	case anyBlock(s.notBlocks, c):
		return "notIpBlocks"
	}
	return ""
}

// mismatchPlaintext is about a peer without an identity; see "Absent facts" in the package comment.
func (s *source) mismatchPlaintext(action Action) string {
	switch {
	case len(s.principals) > 0:
		return "principals"
	case len(s.namespaces) > 0:
		return "namespaces"
	case len(s.accounts) > 0:
		return "serviceAccounts"
	case s.asksIdentity && action == Allow:
		return "identity"
	}
	return ""
}

func (s *source) mismatchIdentity(c Conn) string {
	switch {
	case len(s.principals) > 0 && !anyPrincipal(s.principals, c):
		return "principals"
	case anyPrincipal(s.notPrincipals, c):
		return "notPrincipals"
	case len(s.namespaces) > 0 && !anyNamespace(s.namespaces, c):
		return "namespaces"
	case anyNamespace(s.notNamespaces, c):
		return "notNamespaces"
	case len(s.accounts) > 0 && !anyAccount(s.accounts, c):
		return "serviceAccounts"
	case anyAccount(s.notAccounts, c):
		return "notServiceAccounts"
	}
	return ""
}
