package policy

import (
	"fmt"
	"strings"
)

// Explain says, one line a policy, what each policy of t has to say about c. A STRICT port that refuses c comes first.
// The outcome itself is Decide's.
func (s *Set) Explain(t Target, c Conn) []string { return s.ExplainRequest(t, c, nil) }

// ExplainRequest is Explain for a request; the outcome itself is DecideRequest's.
func (s *Set) ExplainRequest(t Target, c Conn, r *Request) []string {
	if len(t.Through) > 0 {
		return []string{through(t, c).Rule + ", which decides by policies"}
	}
	who := newSubject(c, r)
	var lines []string
	if t.Strict && c.Src.IsZero() {
		lines = append(lines, strictRule(t)+" STRICT: refuses a peer without an identity")
	}
	for _, name := range t.Policies {
		p := s.lookup(name)
		if p == nil {
			lines = append(lines, "AuthorizationPolicy "+name+": has not been received, so everything is denied")
			continue
		}
		lines = append(lines, p.explain(&who))
	}
	for _, target := range t.Targets {
		for _, p := range s.targeting(target) {
			lines = append(lines, p.explain(&who))
		}
	}
	return lines
}

func (p *compiled) explain(who *subject) string {
	head := p.title + " " + p.policy.Action.String() + ": "
	if len(p.rules) == 0 {
		return head + "has no rules, so it matches nothing"
	}
	var misses []string
	for i := range p.rules {
		field := p.rules[i].mismatch(who, p.policy.Action)
		if field == "" {
			return fmt.Sprintf("%srule[%d] matches: %s%s", head, i, p.policy.Rules[i], p.unasked(i, who))
		}
		misses = append(misses, fmt.Sprintf("rule[%d] by %s", i, field))
	}
	return head + "does not match: " + strings.Join(misses, ", ")
}

// unasked says that a rule matches only because nobody has read the request that it asks about.
func (p *compiled) unasked(rule int, who *subject) string {
	if who.request != nil || !p.policy.Rules[rule].asksRequests() {
		return ""
	}
	return " (what it asks of requests only a waypoint can tell, so that is left out)"
}
