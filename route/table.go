package route

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Table finds the rule for a request. It is immutable.
type Table struct{ groups map[place]*group }

// place is where routes are attached: at a service's port, 0 for all that none is attached to by number, for clients of
// a namespace, or for all others if that is empty.
type place struct {
	service  string
	port     uint16
	consumer string
}

// Request is what a route looks at.
type Request struct {
	Method   string
	Host     string // as HostOf returns it
	Path     string // as normalised by whoever read the request, still escaped
	RawQuery string
	Header   http.Header
}

// Hit is the rule that a request falls to.
type Hit struct {
	Route *Route
	Rule  *Rule
	Index int    // the rule's, in its route
	Match *Match // nil if the rule has none
}

// HostOf returns a Host header without its port, in lower case.
func HostOf(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
		host = host[:i]
	}
	return strings.ToLower(host)
}

// NewTable indexes routes. Their hostnames are left aside, as the Gateway API asks of a mesh (GEP-1294): a request is a
// service's by the address that was dialled, whatever its Host says.
// Returns an error that wraps ErrInvalid if a regular expression is not one.
func NewTable(routes []*Route) (*Table, error) {
	attached := make(map[place][]*Route)
	for _, r := range routes {
		for _, p := range r.Parents {
			at := place{p.Service, p.Port, p.Consumer}
			if !slices.Contains(attached[at], r) {
				attached[at] = append(attached[at], r)
			}
		}
	}
	t := &Table{groups: make(map[place]*group, len(attached))}
	compiled := make(map[*Route][]*candidate, len(routes))
	for at := range attached {
		g, err := newGroup(effective(attached, at), compiled)
		if err != nil {
			return nil, err
		}
		t.groups[at] = g
	}
	return t, nil
}

// effective returns the routes that count at a place: what is attached to its port and what is attached to the whole
// service are one. Of two kinds GRPCRoutes alone count, since kinds are not to be merged (GEP-1294, route types).
func effective(attached map[place][]*Route, at place) []*Route {
	all := slices.Clone(attached[at])
	for _, r := range attached[place{at.service, 0, at.consumer}] {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	if slices.ContainsFunc(all, func(r *Route) bool { return r.Kind == GRPC }) {
		all = slices.DeleteFunc(all, func(r *Route) bool { return r.Kind != GRPC })
	}
	return all
}

// Find returns the rule for a request of a client to a service's port. attached tells whether any route is attached
// there for clients of that namespace: without one, requests go to the service itself; with one, a request that no rule
// matches is answered 404. It does not allocate, unless a regular expression or a repeated header is looked at.
func (t *Table) Find(service string, port uint16, clientNamespace string, r *Request) (hit Hit, attached, found bool) {
	g := t.group(service, port, clientNamespace)
	if g == nil {
		return Hit{}, false, false
	}
	c := g.find(r)
	if c == nil {
		return Hit{}, true, false
	}
	return c.hit, true, true
}

// Attached tells whether a route is attached to a service's port for clients of a namespace.
func (t *Table) Attached(service string, port uint16, clientNamespace string) bool {
	return t.group(service, port, clientNamespace) != nil
}

// group returns what is attached: for clients of a namespace with routes of its own those alone, for all others the
// producer's.
func (t *Table) group(service string, port uint16, namespace string) *group {
	if t == nil || len(t.groups) == 0 {
		return nil
	}
	for _, consumer := range [2]string{namespace, ""} {
		for _, p := range [2]uint16{port, 0} {
			if g := t.groups[place{service, p, consumer}]; g != nil {
				return g
			}
		}
	}
	return nil
}

// candidate is one match of one rule, ready to be asked.
type candidate struct {
	hit     Hit
	match   Match // the zero value for a rule without any
	index   int   // the match's, in its rule
	headers *values
	query   *values
	pattern *patterns
}

// compile returns a candidate for every match of a route.
func compile(r *Route) ([]*candidate, error) {
	var out []*candidate
	for i := range r.Rules {
		rule := &r.Rules[i]
		if len(rule.Matches) == 0 {
			out = append(out, &candidate{hit: Hit{Route: r, Rule: rule, Index: i}, headers: &values{}, query: &values{}})
		}
		for j := range rule.Matches {
			c, err := newCandidate(Hit{Route: r, Rule: rule, Index: i, Match: &rule.Matches[j]})
			if err != nil {
				return nil, fmt.Errorf("%w: %s %s: rules[%d]: matches[%d]: %w", ErrInvalid, r.Kind, r.FullName(), i, j, err)
			}
			c.index = j
			out = append(out, c)
		}
	}
	return out, nil
}

func newCandidate(hit Hit) (c *candidate, err error) {
	c = &candidate{hit: hit, match: *hit.Match}
	if c.headers, err = newValues(c.match.Headers, http.CanonicalHeaderKey); err != nil {
		return nil, fmt.Errorf("headers: %w", err)
	}
	if c.query, err = newValues(c.match.Query, asIs); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	c.pattern, err = newPatterns(hit.Route.Kind, &c.match)
	return c, err
}

// matches tells whether a request that fits by its path does so by the rest.
func (c *candidate) matches(r *Request) bool {
	if c.match.Method != "" && c.match.Method != r.Method && !c.preflight(r) {
		return false
	}
	return c.headers.matchHeaders(r) && c.query.matchQuery(r.RawQuery)
}

// preflight tells whether a browser asks if it may send a request of the method that the match names: a rule with CORS
// has to answer that itself.
func (c *candidate) preflight(r *Request) bool {
	if r.Method != http.MethodOptions || c.hit.Rule.Filters.CORS == nil || len(r.Header["Origin"]) == 0 {
		return false
	}
	asked := r.Header["Access-Control-Request-Method"]
	return len(asked) == 1 && asked[0] == c.match.Method
}

// compare orders candidates whose path is alike: the first that matches wins.
func compare(a, b *candidate) int {
	return cmp.Or(
		descending(truth(a.match.Method != ""), truth(b.match.Method != "")),
		descending(len(a.headers.all), len(b.headers.all)),
		descending(len(a.query.all), len(b.query.all)),
		a.hit.Route.Created.Compare(b.hit.Route.Created),
		cmp.Compare(a.hit.Route.FullName(), b.hit.Route.FullName()),
		cmp.Compare(a.hit.Index, b.hit.Index),
		cmp.Compare(a.index, b.index),
	)
}

func descending(a, b int) int { return cmp.Compare(b, a) }

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}
