package policy

import (
	"fmt"
	"strings"
)

// Explain says, one line a policy, what each policy that t names has to say about c. A STRICT port that refuses
// c comes first. The outcome itself is Decide's.
func (s *Set) Explain(t Target, c Conn) []string {
	c = normalise(c)
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
		lines = append(lines, p.explain(c))
	}
	return lines
}

func (p *compiled) explain(c Conn) string {
	head := p.title + " " + p.policy.Action.String() + ": "
	if len(p.rules) == 0 {
		return head + "has no rules, so it matches nothing"
	}
	var misses []string
	for i := range p.rules {
		field := p.rules[i].mismatch(c, p.policy.Action)
		if field == "" {
			return fmt.Sprintf("%srule[%d] matches: %s", head, i, p.policy.Rules[i])
		}
		misses = append(misses, fmt.Sprintf("rule[%d] by %s", i, field))
	}
	return head + "does not match: " + strings.Join(misses, ", ")
}
