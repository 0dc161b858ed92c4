package policy

// Decide says whether c may pass into t, of whose requests nobody knows. See the package comment for the order.
// It does not allocate unless it denies, an AUDIT rule matches, or it is a set's first about a target with many policies.
func (s *Set) Decide(t Target, c Conn) Decision { return s.DecideRequest(t, c, nil) }

// DecideRequest says whether r, which came by c, may pass into t. A nil r is one that nobody has read. It does not
// allocate unless Decide would or a header is there several times.
func (s *Set) DecideRequest(t Target, c Conn, r *Request) Decision {
	if len(t.Through) > 0 {
		d := through(t, c)
		d.permit = Permit{granted: d.Allowed}
		return d
	}
	who := newSubject(c, r)
	f := s.survey(t, &who)
	d := s.outcome(t, &who, &f)
	d.Audit = f.audit
	d.permit = Permit{granted: d.Allowed}
	return d
}

func (s *Set) survey(t Target, who *subject) findings {
	var f findings
	if selected := s.selected(t.Policies); selected != nil {
		selected.survey(&f, who)
	} else {
		s.surveyNames(&f, t.Policies, who)
	}
	for _, target := range t.Targets {
		if p := s.planFor(target); p != nil {
			p.survey(&f, who)
		}
	}
	return f
}

func (s *Set) surveyNames(f *findings, names []string, who *subject) {
	for _, name := range names {
		p := s.lookup(name)
		if p == nil {
			f.missed(name)
			continue
		}
		f.add(p, who)
	}
}

// findings are what the policies of a target have to say, each action's first rule that matches.
type findings struct {
	missing             string
	custom, deny, allow *compiledRule
	external            *ExternalAuthorizer
	allows              bool // there is an ALLOW policy
	audit               string
}

func (f *findings) missed(name string) {
	if f.missing == "" {
		f.missing = name
	}
}

func (f *findings) add(p *compiled, who *subject) {
	switch p.policy.Action {
	case Custom:
		if f.custom == nil && !who.passed(p.policy.External) {
			if f.custom = p.match(who); f.custom != nil {
				f.external = p.policy.External
			}
		}
	case Deny:
		if f.deny == nil {
			f.deny = p.match(who)
		}
	case Allow:
		f.allows = true
		if f.allow == nil {
			f.allow = p.match(who)
		}
	case Audit:
		if rule := p.match(who); rule != nil {
			f.audit = joined(f.audit, rule.title)
		}
	}
}

func joined(list, more string) string {
	if list == "" {
		return more
	}
	return list + ", " + more
}

func (s *Set) outcome(t Target, who *subject, f *findings) Decision {
	switch {
	case f.missing != "":
		return Decision{Reason: ReasonUnresolved, Rule: "AuthorizationPolicy " + f.missing + " has not been received"}
	case t.Strict && who.Src.IsZero():
		return Decision{Reason: ReasonStrict, Rule: strictRule(t)}
	case f.custom != nil:
		return asking(f, who)
	case f.deny != nil:
		return Decision{Reason: ReasonDenied, Rule: f.deny.title}
	case f.allow != nil:
		return Decision{Allowed: true, Reason: ReasonAllowed, Rule: f.allow.title}
	case f.allows:
		return Decision{Reason: ReasonNoAllow, Rule: "no rule matched of AuthorizationPolicy " + s.allowing(t)}
	}
	return Decision{Allowed: true, Reason: ReasonDefault}
}

// asking is the decision while an authorizer has not said yes.
func asking(f *findings, who *subject) Decision {
	d := Decision{Reason: ReasonExternal, Rule: f.custom.title}
	switch {
	case who.request == nil:
		d.Rule += ": only a waypoint can ask its authorizer"
	case f.external.Broken != "":
		d.Rule += ": its authorizer cannot be asked: " + f.external.Broken
	default:
		d.Ask = f.external
	}
	return d
}

func strictRule(t Target) string {
	if t.StrictSource == "" {
		return "mesh default"
	}
	return "PeerAuthentication " + t.StrictSource
}

// match returns the first rule that matches, or nil.
func (p *compiled) match(who *subject) *compiledRule {
	for i := range p.rules {
		if p.rules[i].mismatch(who, p.policy.Action) == "" {
			return &p.rules[i]
		}
	}
	return nil
}

// mismatch returns the name of a field that keeps the rule from matching, or "" if the rule matches.
func (r *compiledRule) mismatch(who *subject, action Action) string {
	if field := r.fromMismatch(who, action); field != "" {
		return field
	}
	if field := r.toMismatch(who, action); field != "" {
		return field
	}
	for i := range r.when {
		if r.when[i].mismatches(who, action) {
			return r.when[i].key
		}
	}
	return ""
}

func (r *compiledRule) fromMismatch(who *subject, action Action) (field string) {
	for i := range r.from {
		field = r.from[i].mismatch(who, action)
		if field == "" {
			return ""
		}
	}
	return field
}

func (r *compiledRule) toMismatch(who *subject, action Action) (field string) {
	for i := range r.to {
		field = r.to[i].mismatch(who, action)
		if field == "" {
			return ""
		}
	}
	return field
}
