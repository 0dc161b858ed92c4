package route

import (
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// reference finds a rule the slow way: it holds every match of every route against the request, and orders those that fit
// by the words of the Gateway API. It knows nothing of lists by path.
func reference(routes []*Route, r *Request) (*Rule, *Match) {
	type fit struct {
		rank, length int
		c            *candidate
	}
	var fits []fit
	for _, route := range routes {
		cs, err := compile(route)
		if err != nil {
			return nil, nil
		}
		for _, c := range cs {
			if rank, length, ok := refPath(&c.match, r.Path); ok && c.matches(r) {
				fits = append(fits, fit{rank, length, c})
			}
		}
	}
	if len(fits) == 0 {
		return nil, nil
	}
	best := slices.MinFunc(fits, func(a, b fit) int {
		switch {
		case a.rank != b.rank:
			return b.rank - a.rank
		case a.length != b.length:
			return b.length - a.length
		}
		return compare(a.c, b.c)
	})
	return best.c.hit.Rule, best.c.hit.Match
}

func refPath(m *Match, path string) (rank, length int, ok bool) {
	switch {
	case m.Path == "":
		return 1, 0, true
	case m.PathKind == Exact:
		return 3, 0, path == m.Path
	case m.PathKind == Regex:
		re, err := regexp.Compile("^(?:" + m.Path + ")$")
		return 2, len(m.Path), err == nil && re.FindString(path) == path && re.MatchString(path)
	}
	want, got := elements(m.Path), elements(path)
	if len(want) > len(got) || !slices.Equal(want, got[:len(want)]) {
		return 0, 0, false
	}
	return 1, len(strings.Join(want, "/")), true
}

func elements(path string) []string {
	path = strings.TrimRight(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

var words = []string{"/", "/a", "/a/", "/a/b", "/ab", "=/a", "=/a/b", "=/", "~/a.*", "~/[ab]", "~.*", "GET", "x=1", "y=2", "x~[12]", "?q=1", "?r=2", "", "|"}

// randomRoutes makes routes of words.
func randomRoutes(rnd *rand.Rand) []*Route {
	var routes []*Route
	for i := range 1 + rnd.IntN(4) {
		var rules []string
		for range 1 + rnd.IntN(4) {
			var rule []string
			for range rnd.IntN(5) {
				rule = append(rule, words[rnd.IntN(len(words))])
			}
			rules = append(rules, strings.Join(rule, " "))
		}
		r := httpRoute(string(rune('a'+i)), rules...)
		r.Created = epoch.AddDate(0, 0, rnd.IntN(2))
		routes = append(routes, r)
	}
	return routes
}

func agree(t *testing.T, routes []*Route, r *Request) {
	t.Helper()
	table, err := NewTable(routes)
	if err != nil {
		return
	}
	hit, attached, found := table.Find("shop/web", 80, "", r)
	rule, match := reference(routes, r)
	if !attached || found != (rule != nil) || hit.Rule != rule || hit.Match != match {
		var all []string
		for _, route := range routes {
			for _, rule := range route.Rules {
				all = append(all, route.Name+": "+rule.Name)
			}
		}
		t.Fatalf("%s %s?%s %v falls to %+v, the reference to %+v, of\n%s", r.Method, r.Path, r.RawQuery, r.Header, hit.Rule, rule, strings.Join(all, "\n"))
	}
}

func TestFindAgreesWithTheReference(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	requests := []string{"GET /a/b?q=1&r=2 x:1 y:2", "PUT /a x:1", "GET / y:2", "GET /ab?r=2 x:2", "GET /a/b/c", "POST /a/?q=1", "GET /c"}
	for range 5000 {
		routes := randomRoutes(rnd)
		for _, text := range requests {
			agree(t, routes, asked(text))
		}
	}
}

// FuzzFind makes routes of a seed and asks them for the fuzzer's request.
func FuzzFind(f *testing.F) {
	f.Add(uint64(1), "GET", "/a/b", "q=1&r=%32", "1", "/a")
	f.Add(uint64(9), "PUT", "*", "q", "", "%")
	f.Fuzz(func(t *testing.T, seed uint64, method, path, query, header, extra string) {
		routes := randomRoutes(rand.New(rand.NewPCG(seed, seed)))
		routes[0].Rules[0].Matches[0].Path = oneForm(extra)
		routes[0].Rules[0].Matches[0].PathKind = PathKind(seed % 2)
		if extra == "" || !strings.HasPrefix(extra, "/") || oneForm(oneForm(extra)) != oneForm(extra) {
			return
		}
		agree(t, routes, &Request{Method: method, Host: "h", Path: path, RawQuery: query, Header: http.Header{"X": {header}, "Y": {"2"}}})
	})
}
