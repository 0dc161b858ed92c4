package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// The reference says the package comment again, slowly: patterns become regular expressions, addresses become strings
// of bits, and what is not known about a connection is a third truth value.

type truth int

const (
	no truth = iota
	yes
	unknown
)

type verdict struct {
	allowed bool
	reason  Reason
	rule    string
	audit   string
}

func reference(policies []*Policy, t Target, c Conn, r *Request) verdict {
	byName := map[string]*Policy{}
	for _, p := range policies {
		byName[p.Namespace+"/"+p.Name] = p
	}
	matched := map[Action][]string{}
	selected := map[Action]int{}
	missing := false
	names := slices.Clone(t.Policies)
	for _, target := range t.Targets {
		var its []string
		for name, p := range byName {
			if slices.Contains(p.Targets, target) {
				its = append(its, name)
			}
		}
		slices.Sort(its)
		names = append(names, its...)
	}
	for _, name := range names {
		p, ok := byName[name]
		if !ok {
			missing = true
			continue
		}
		if p.Action == Custom && r != nil && p.External.Broken == "" && slices.Contains(r.Passed, *p.External) {
			continue
		}
		selected[p.Action]++
		for i, rule := range p.Rules {
			if referenceRule(p, rule, c, r) {
				matched[p.Action] = append(matched[p.Action], fmt.Sprintf("AuthorizationPolicy %s rule[%d]", name, i))
				break
			}
		}
	}
	v := verdict{audit: strings.Join(matched[Audit], ", ")}
	switch {
	case missing:
		v.reason = ReasonUnresolved
	case t.Strict && c.Src.String() == "":
		v.reason = ReasonStrict
	case len(matched[Custom]) > 0:
		v.reason = ReasonExternal
	case len(matched[Deny]) > 0:
		v.reason, v.rule = ReasonDenied, matched[Deny][0]
	case len(matched[Allow]) > 0:
		v.allowed, v.reason, v.rule = true, ReasonAllowed, matched[Allow][0]
	case selected[Allow] > 0:
		v.reason = ReasonNoAllow
	default:
		v.allowed, v.reason = true, ReasonDefault
	}
	return v
}

func referenceRule(p *Policy, r Rule, c Conn, req *Request) bool {
	from, to := len(r.From) == 0, len(r.To) == 0
	for _, s := range r.From {
		from = from || referenceSource(p, s, c) && referencePrincipals(p.Action, s, req)
	}
	for _, o := range r.To {
		port := func(ports []uint16) truth { return referencePort(ports, c.Dst.Port()) }
		to = to || positive(len(o.Ports), port(o.Ports)) && negative(p.Action, len(o.NotPorts), port(o.NotPorts)) &&
			referenceOperation(p.Action, o, req)
	}
	for _, w := range r.When {
		from = from && referenceCondition(p, w, c, req)
	}
	return from && to
}

func referenceSource(p *Policy, s Source, c Conn) bool {
	accounts := func(values []string) []string {
		var full []string
		for _, v := range values {
			if !strings.Contains(v, "/") {
				v = p.Namespace + "/" + v
			}
			full = append(full, v)
		}
		return full
	}
	name := c.Src.Namespace() + "/" + c.Src.ServiceAccount()
	principal := strings.TrimPrefix(c.Src.String(), "spiffe://")
	glob := func(values []string, star, subject string) truth { return referenceGlob(values, star, subject, c) }
	return positive(len(s.Principals), glob(s.Principals, ".*", principal)) &&
		negative(p.Action, len(s.NotPrincipals), glob(s.NotPrincipals, ".*", principal)) &&
		positive(len(s.Namespaces), glob(s.Namespaces, ".*", c.Src.Namespace())) &&
		negative(p.Action, len(s.NotNamespaces), glob(s.NotNamespaces, ".*", c.Src.Namespace())) &&
		positive(len(s.ServiceAccounts), glob(accounts(s.ServiceAccounts), "[^/]*", name)) &&
		negative(p.Action, len(s.NotServiceAccounts), glob(accounts(s.NotServiceAccounts), "[^/]*", name)) &&
		positive(len(s.IPBlocks), referenceBlocks(s.IPBlocks, c.SrcAddr)) &&
		negative(p.Action, len(s.NotIPBlocks), referenceBlocks(s.NotIPBlocks, c.SrcAddr))
}

func positive(set int, any truth) bool { return set == 0 || any == yes }

func negative(action Action, set int, any truth) bool {
	return set == 0 || any == no || any == unknown && action != Allow
}

func referenceGlob(values []string, star, subject string, c Conn) truth {
	if c.Src.IsZero() {
		return unknown
	}
	for _, v := range values {
		expression := "^" + strings.ReplaceAll(regexp.QuoteMeta(v), `\*`, star) + "$"
		if regexp.MustCompile(expression).MatchString(subject) {
			return yes
		}
	}
	return no
}

func referencePort(ports []uint16, port uint16) truth {
	if port == 0 {
		return unknown
	}
	for _, p := range ports {
		if p == port {
			return yes
		}
	}
	return no
}

func referenceBlocks(blocks []netip.Prefix, addr netip.Addr) truth {
	if !addr.IsValid() {
		return unknown
	}
	for _, b := range blocks {
		isV4 := func(a netip.Addr) bool { return a.Is4() || a.Is4In6() }
		n := b.Bits()
		if b.Addr().Is4() {
			n += 96
		}
		if isV4(b.Addr()) == isV4(addr) && bits(b.Addr())[:n] == bits(addr)[:n] {
			return yes
		}
	}
	return no
}

func bits(a netip.Addr) string {
	var s strings.Builder
	for _, b := range a.As16() {
		fmt.Fprintf(&s, "%08b", b)
	}
	return s.String()
}
