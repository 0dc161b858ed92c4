package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Set is an immutable, compiled collection of policies. A nil Set is an empty one.
type Set struct {
	byName map[string]*compiled
}

// ErrInvalid is wrapped by every error of NewSet and Validate.
var ErrInvalid = errors.New("invalid authorization policy")

const (
	maxRules  = 512  // of a policy
	maxValues = 4096 // of one list
)

type compiled struct {
	policy *Policy
	title  string // "AuthorizationPolicy <namespace>/<name>"
	rules  []compiledRule
}

type compiledRule struct {
	title string // "AuthorizationPolicy <namespace>/<name> rule[<i>]"
	from  []source
	to    []Operation
}

type source struct {
	principals, notPrincipals   []pattern
	namespaces, notNamespaces   []pattern
	accounts, notAccounts       []account
	blocks, notBlocks           []netip.Prefix
	asksIdentity, asksNoAddress bool // has a negative identity field, a negative address field
}

// NewSet compiles policies. Callers must not change them afterwards.
// Returns an error that wraps ErrInvalid and names the policy, the rule, the field and the value.
func NewSet(policies []*Policy) (*Set, error) {
	set := &Set{byName: make(map[string]*compiled, len(policies))}
	for _, p := range policies {
		c, err := compile(p)
		if err != nil {
			return nil, err
		}
		name := p.FullName()
		if _, twice := set.byName[name]; twice {
			return nil, fmt.Errorf("%w: %s is there twice", ErrInvalid, name)
		}
		set.byName[name] = c
	}
	return set, nil
}

// Validate returns the error that NewSet would return for p alone. A policy that is refused is best left out of the
// set: the workloads that name it then deny, which is the safe half of a policy that nobody can read.
func Validate(p *Policy) error {
	_, err := compile(p)
	return err
}

// Has tells whether the set has the policy "<namespace>/<name>".
func (s *Set) Has(name string) bool { return s.lookup(name) != nil }

// All returns the policies, sorted by full name.
func (s *Set) All() []*Policy {
	if s == nil {
		return nil
	}
	all := make([]*Policy, 0, len(s.byName))
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		all = append(all, s.byName[name].policy)
	}
	return all
}

func (s *Set) lookup(name string) *compiled {
	if s == nil {
		return nil
	}
	return s.byName[name]
}

func compile(p *Policy) (*compiled, error) {
	if p == nil {
		return nil, fmt.Errorf("%w: it is nil", ErrInvalid)
	}
	if _, err := parseAccount(p.Namespace+"/"+p.Name, ""); err != nil {
		return nil, fmt.Errorf("%w: name %q in namespace %q: %w", ErrInvalid, p.Name, p.Namespace, err)
	}
	if p.Action < Allow || p.Action > Audit {
		return nil, fmt.Errorf("%w: %s: action %s is not ALLOW, DENY or AUDIT", ErrInvalid, p.FullName(), p.Action)
	}
	if len(p.Rules) > maxRules {
		return nil, fmt.Errorf("%w: %s: %d rules, more than %d", ErrInvalid, p.FullName(), len(p.Rules), maxRules)
	}
	c := &compiled{policy: p, title: "AuthorizationPolicy " + p.FullName()}
	for i, r := range p.Rules {
		rule, err := compileRule(r, p.Namespace)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: rule[%d].%w", ErrInvalid, p.FullName(), i, err)
		}
		rule.title = fmt.Sprintf("%s rule[%d]", c.title, i)
		c.rules = append(c.rules, rule)
	}
	return c, nil
}

// compileRule's errors begin with the field's path.
func compileRule(r Rule, namespace string) (compiledRule, error) {
	var c compiledRule
	if err := errors.Join(checkList("from", r.From), checkList("to", r.To)); err != nil {
		return c, err
	}
	for i, f := range r.From {
		s, err := compileSource(f, namespace)
		if err != nil {
			return c, fmt.Errorf("from[%d].source%w", i, err)
		}
		c.from = append(c.from, s)
	}
	for i, t := range r.To {
		if err := checkOperation(t); err != nil {
			return c, fmt.Errorf("to[%d].operation%w", i, err)
		}
		c.to = append(c.to, Operation{slices.Clone(t.Ports), slices.Clone(t.NotPorts)})
	}
	return c, nil
}

func compileSource(f Source, namespace string) (source, error) {
	var s source
	var errs [8]error
	parse := func(value string) (account, error) { return parseAccount(value, namespace) }
	s.principals, errs[0] = compileList(".principals", f.Principals, parsePrincipal)
	s.notPrincipals, errs[1] = compileList(".notPrincipals", f.NotPrincipals, parsePrincipal)
	s.namespaces, errs[2] = compileList(".namespaces", f.Namespaces, parseNamespace)
	s.notNamespaces, errs[3] = compileList(".notNamespaces", f.NotNamespaces, parseNamespace)
	s.accounts, errs[4] = compileList(".serviceAccounts", f.ServiceAccounts, parse)
	s.notAccounts, errs[5] = compileList(".notServiceAccounts", f.NotServiceAccounts, parse)
	s.blocks, errs[6] = compileList(".ipBlocks", f.IPBlocks, parseBlock)
	s.notBlocks, errs[7] = compileList(".notIpBlocks", f.NotIPBlocks, parseBlock)
	for _, err := range errs {
		if err != nil {
			return s, err
		}
	}
	s.asksIdentity = len(s.notPrincipals)+len(s.notNamespaces)+len(s.notAccounts) > 0
	s.asksNoAddress = len(s.notBlocks) > 0
	if !s.asksIdentity && !s.asksNoAddress && len(s.principals)+len(s.namespaces)+len(s.accounts)+len(s.blocks) == 0 {
		return s, errors.New(": no field is set, which would match everybody: set one, or leave out from")
	}
	return s, nil
}

func compileList[T, P any](field string, values []T, parse func(T) (P, error)) ([]P, error) {
	if err := checkList(field, values); err != nil {
		return nil, err
	}
	var out []P
	for i, v := range values {
		p, err := parse(v)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %q: %w", field, i, fmt.Sprint(v), err)
		}
		out = append(out, p)
	}
	return out, nil
}

func checkList[T any](field string, values []T) error {
	if values != nil && len(values) == 0 {
		return fmt.Errorf("%s: the list is empty, which would match everything: fill it, or leave it out", field)
	}
	if len(values) > maxValues {
		return fmt.Errorf("%s: %d values, more than %d", field, len(values), maxValues)
	}
	return nil
}

func checkOperation(o Operation) error {
	if o.Ports == nil && o.NotPorts == nil {
		return errors.New(": no field is set, which would match every port: set one, or leave out to")
	}
	if err := errors.Join(checkList(".ports", o.Ports), checkList(".notPorts", o.NotPorts)); err != nil {
		return err
	}
	if i := slices.Index(o.Ports, 0); i >= 0 {
		return fmt.Errorf(".ports[%d]: port 0 does not exist", i)
	}
	if i := slices.Index(o.NotPorts, 0); i >= 0 {
		return fmt.Errorf(".notPorts[%d]: port 0 does not exist", i)
	}
	return nil
}

func parseBlock(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, errors.New("not a CIDR block")
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return p, errors.New("an IPv4-mapped block must be of at least 96 bits: write the IPv4 block")
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}
