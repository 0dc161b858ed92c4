package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Set is an immutable, compiled collection of policies. A nil Set is an empty one.
type Set struct {
	byName     map[string]*compiled
	byTarget   map[string]*plan // sorted by full name
	selections selections       // what is found again; no decision depends on it
}

// ErrInvalid is wrapped by every error of NewSet and Validate.
var ErrInvalid = errors.New("invalid authorization policy")

const (
	maxRules  = 512  // of a policy
	maxValues = 4096 // of one list

	maxTargets = 64
)

// titled is what a policy's title has before its full name.
const titled = "AuthorizationPolicy "

type compiled struct {
	policy *Policy
	title  string // "AuthorizationPolicy <namespace>/<name>"
	rules  []compiledRule
}

type compiledRule struct {
	title string // "AuthorizationPolicy <namespace>/<name> rule[<i>]"
	from  []source
	to    []operation
	when  []condition
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
	set.indexTargets()
	return set, nil
}

func (s *Set) indexTargets() {
	s.byTarget = make(map[string]*plan)
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		c := s.byName[name]
		for _, target := range c.policy.Targets {
			if s.byTarget[target] == nil {
				s.byTarget[target] = &plan{}
			}
			s.byTarget[target].add(c)
		}
	}
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

// targeting returns the policies that are held against a Service or a Gateway.
func (s *Set) targeting(target string) []*compiled {
	if p := s.planFor(target); p != nil {
		return p.policies
	}
	return nil
}

func (s *Set) planFor(target string) *plan {
	if s == nil {
		return nil
	}
	return s.byTarget[target]
}

func compile(p *Policy) (*compiled, error) {
	if p == nil {
		return nil, fmt.Errorf("%w: it is nil", ErrInvalid)
	}
	if _, err := parseAccount(p.Namespace+"/"+p.Name, ""); err != nil {
		return nil, fmt.Errorf("%w: name %q in namespace %q: %w", ErrInvalid, p.Name, p.Namespace, err)
	}
	if err := checkAction(p); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, p.FullName(), err)
	}
	if err := checkTargets(p.Targets); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, p.FullName(), err)
	}
	if len(p.Rules) > maxRules {
		return nil, fmt.Errorf("%w: %s: %d rules, more than %d", ErrInvalid, p.FullName(), len(p.Rules), maxRules)
	}
	c := &compiled{policy: p, title: titled + p.FullName()}
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

func checkAction(p *Policy) error {
	switch {
	case p.Action < Allow || p.Action > Custom:
		return fmt.Errorf("action %s is not ALLOW, DENY, AUDIT or CUSTOM", p.Action)
	case p.Action == Custom && p.External == nil:
		return errors.New("action CUSTOM does not say whom to ask")
	case p.Action != Custom && p.External != nil:
		return fmt.Errorf("an external authorizer goes with action CUSTOM, not with %s", p.Action)
	}
	return nil
}

func checkTargets(targets []string) error {
	if len(targets) > maxTargets {
		return fmt.Errorf("%d targets, more than %d", len(targets), maxTargets)
	}
	for i, t := range targets {
		kind, name, _ := strings.Cut(t, " ")
		namespace, name, _ := strings.Cut(name, "/")
		if kind != "Service" && kind != "Gateway" || namespace == "" || name == "" || slices.Contains(targets[:i], t) {
			return fmt.Errorf("target[%d]: %q is not a Service or Gateway <namespace>/<name>, or is there twice", i, t)
		}
	}
	return nil
}

// compileRule's errors begin with the field's path.
func compileRule(r Rule, namespace string) (compiledRule, error) {
	var c compiledRule
	if err := errors.Join(checkList("from", r.From), checkList("to", r.To), checkList("when", r.When)); err != nil {
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
		o, err := compileOperation(t)
		if err != nil {
			return c, fmt.Errorf("to[%d].operation%w", i, err)
		}
		c.to = append(c.to, o)
	}
	for i, w := range r.When {
		condition, err := compileCondition(w)
		if err != nil {
			return c, fmt.Errorf("when[%d]%w", i, err)
		}
		c.when = append(c.when, condition)
	}
	return c, nil
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
