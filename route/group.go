package route

import (
	"cmp"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// group is what is attached at one place, by what the paths of requests can be looked up by. Every list is in order of
// precedence, so that the first candidate that matches is the one.
//
// The Gateway API's order is: exact path, longest prefix, method, most headers, most query parameters, oldest route,
// first by name, first rule. Where regular expressions belong it leaves open: here they come after exact paths and before
// prefixes, the longest first. Behind prefixes they would never be asked, since a rule without a path is a prefix, too.
// A gRPC method is the path /<service>/<method>, so that the same lists do, in the order of [group.findGRPC].
type group struct {
	kind    Kind
	exact   lists
	regex   []*candidate
	prefix  lists // without a / at the end
	methods lists // of GRPCRoutes that name no service
	longest int   // of the keys of prefix
}

// patterns are a match's regular expressions, nil for what it leaves open.
type patterns struct{ path, service, method *regexp.Regexp }

func newPatterns(kind Kind, m *Match) (*patterns, error) {
	p := &patterns{}
	var err error
	switch {
	case kind == HTTP && m.PathKind == Regex && m.Path != "":
		p.path, err = compilePattern(m.Path)
	case kind == GRPC && m.GRPCRegex:
		if m.GRPCService != "" {
			p.service, err = compilePattern(m.GRPCService)
		}
		if m.GRPCMethod != "" && err == nil {
			p.method, err = compilePattern(m.GRPCMethod)
		}
	default:
		return nil, nil
	}
	return p, err
}

// newGroup makes the group of routes of one kind. compiled are those of routes that were seen before.
func newGroup(routes []*Route, compiled map[*Route][]*candidate) (*group, error) {
	g := &group{exact: make(lists), prefix: make(lists), methods: make(lists)}
	for _, r := range routes {
		g.kind = r.Kind
		if compiled[r] == nil {
			var err error
			if compiled[r], err = compile(r); err != nil {
				return nil, err
			}
		}
		for _, c := range compiled[r] {
			g.add(c)
		}
	}
	for _, all := range []lists{g.exact, g.prefix, g.methods} {
		for _, l := range all {
			l.order()
		}
	}
	slices.SortStableFunc(g.regex, func(a, b *candidate) int {
		return cmp.Or(descending(len(a.match.Path), len(b.match.Path)),
			descending(len(a.match.GRPCService), len(b.match.GRPCService)),
			descending(len(a.match.GRPCMethod), len(b.match.GRPCMethod)), compare(a, b))
	})
	return g, nil
}

func (g *group) add(c *candidate) {
	m := &c.match
	switch {
	case c.pattern != nil:
		g.regex = append(g.regex, c)
	case g.kind == GRPC && m.GRPCService != "" && m.GRPCMethod != "":
		path := "/" + m.GRPCService + "/" + m.GRPCMethod
		g.exact.add(path, c)
	case g.kind == GRPC && m.GRPCMethod != "":
		g.methods.add(m.GRPCMethod, c)
	case g.kind == GRPC && m.GRPCService != "":
		g.addPrefix("/"+m.GRPCService, c)
	case g.kind == GRPC:
		g.addPrefix("", c)
	case m.PathKind == Exact && m.Path != "":
		path := oneForm(m.Path)
		g.exact.add(path, c)
	default:
		g.addPrefix(strings.TrimRight(oneForm(m.Path), "/"), c)
	}
}

func (g *group) addPrefix(prefix string, c *candidate) {
	g.prefix.add(prefix, c)
	g.longest = max(g.longest, len(prefix))
}

// find returns the candidate of the highest precedence that matches, nil if none does.
func (g *group) find(r *Request) *candidate {
	if g.kind == GRPC {
		return g.findGRPC(r)
	}
	if c := g.exact[r.Path].first(r); c != nil {
		return c
	}
	for _, c := range g.regex {
		if c.pattern.path.MatchString(r.Path) && c.matches(r) {
			return c
		}
	}
	return g.findPrefix(r)
}

// findPrefix tries the prefixes of a path, element by element, from the longest that there may be.
func (g *group) findPrefix(r *Request) *candidate {
	path := r.Path
	if end := len(path); end > g.longest {
		path = path[:strings.LastIndexByte(path[:g.longest+1], '/')+1]
	}
	for path = strings.TrimRight(path, "/"); path != ""; path = strings.TrimRight(path, "/") {
		if c := g.prefix[path].first(r); c != nil {
			return c
		}
		path = path[:strings.LastIndexByte(path, '/')+1]
	}
	return g.prefix[""].first(r)
}

// findGRPC tries service and method, service, regular expressions, method, and what is for all.
func (g *group) findGRPC(r *Request) *candidate {
	if r.Method != http.MethodPost || !isGRPC(r.Header) || !strings.HasPrefix(r.Path, "/") {
		return nil
	}
	service, method, ok := strings.Cut(r.Path[1:], "/")
	if !ok {
		return nil
	}
	if c := g.exact[r.Path].first(r); c != nil {
		return c
	}
	if c := g.prefix[r.Path[:1+len(service)]].first(r); c != nil {
		return c
	}
	for _, c := range g.regex {
		if fits(c.pattern.service, service) && fits(c.pattern.method, method) && c.matches(r) {
			return c
		}
	}
	if c := g.methods[method].first(r); c != nil {
		return c
	}
	return g.prefix[""].first(r)
}

func fits(pattern *regexp.Regexp, s string) bool { return pattern == nil || pattern.MatchString(s) }

func isGRPC(h http.Header) bool {
	types := h["Content-Type"]
	return len(types) == 1 && strings.HasPrefix(types[0], "application/grpc")
}
