package route

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// httpRoute makes a route of shop/web whose rules are named by what they match, as "METHOD path header=value ?query=value".
func httpRoute(name string, rules ...string) *Route {
	r := &Route{Kind: HTTP, Namespace: "shop", Name: name, Created: epoch, Parents: []Parent{{Service: "shop/web"}}}
	for _, text := range rules {
		rule := Rule{Name: text}
		for _, alternative := range strings.Split(text, " | ") {
			rule.Matches = append(rule.Matches, parseMatch(alternative))
		}
		r.Rules = append(r.Rules, rule)
	}
	return r
}

// parseMatch reads /prefix, =/exact, ~regex, METHOD, ?query=value and header=value, the latter two with ~ for =.
func parseMatch(text string) (m Match) {
	for _, word := range strings.Fields(text) {
		switch {
		case strings.HasPrefix(word, "/"):
			m.Path = word
		case strings.HasPrefix(word, "=/"):
			m.Path, m.PathKind = word[1:], Exact
		case strings.HasPrefix(word, "~"):
			m.Path, m.PathKind = word[1:], Regex
		case strings.HasPrefix(word, "?"):
			m.Query = append(m.Query, parseValue(word[1:]))
		case strings.ContainsAny(word, "=~"):
			m.Headers = append(m.Headers, parseValue(word))
		default:
			m.Method = word
		}
	}
	return m
}

func parseValue(word string) ValueMatch {
	i := strings.IndexAny(word, "=~")
	return ValueMatch{Name: word[:i], Value: word[i+1:], Regex: word[i] == '~'}
}

func grpcRoute(name string, matches ...Match) *Route {
	r := &Route{Kind: GRPC, Namespace: "shop", Name: name, Created: epoch, Parents: []Parent{{Service: "shop/web"}}}
	for i, m := range matches {
		r.Rules = append(r.Rules, Rule{Name: fmt.Sprint(name, i), Matches: []Match{m}})
	}
	return r
}

// asked makes a request of "METHOD path header:value".
func asked(text string) *Request {
	words := strings.Fields(text)
	r := &Request{Method: words[0], Host: "web", Header: http.Header{}}
	r.Path, r.RawQuery, _ = strings.Cut(words[1], "?")
	for _, w := range words[2:] {
		name, value, _ := strings.Cut(w, ":")
		if http.CanonicalHeaderKey(name) == "Host" {
			r.Host = HostOf(value)
			continue
		}
		r.Header.Add(name, value)
	}
	return r
}

func table(t testing.TB, routes ...*Route) *Table {
	t.Helper()
	out, err := NewTable(routes)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func found(t *Table, r *Request) string {
	hit, attached, ok := t.Find("shop/web", 80, "shop", r)
	switch {
	case !attached:
		return "nothing attached"
	case !ok:
		return "404"
	}
	return hit.Rule.Name
}

func TestTheMostSpecificMatchWins(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules []string
		asked map[string]string // request: rule
	}{
		{"an exact path before a prefix", []string{"/a", "=/a"}, map[string]string{"GET /a": "=/a", "GET /a/b": "/a"}},
		{"the longer prefix", []string{"/", "/a", "/a/b"},
			map[string]string{"GET /a/b/c": "/a/b", "GET /a/bc": "/a", "GET /ab": "/", "GET /": "/", "GET /a/": "/a"}},
		{"a prefix is of whole elements", []string{"/foo"},
			map[string]string{"GET /foo": "/foo", "GET /foo/": "/foo", "GET /foo/x": "/foo", "GET /foobar": "404", "GET /fo": "404"}},
		{"a prefix's last slash means nothing", []string{"/foo/"},
			map[string]string{"GET /foo": "/foo/", "GET /foo/": "/foo/", "GET /foo/x": "/foo/", "GET /foobar": "404"}},
		{"an exact path's does", []string{"=/foo/"}, map[string]string{"GET /foo": "404", "GET /foo/": "=/foo/"}},
		{"paths keep their case", []string{"=/Foo", "/Bar"}, map[string]string{"GET /foo": "404", "GET /bar": "404"}},
		{"a regular expression before prefixes", []string{"/", "/users/7", "~/users/[0-9]+"},
			map[string]string{"GET /users/7": "~/users/[0-9]+", "GET /users/x": "/"}},
		{"and behind exact paths", []string{"~/users/[0-9]+", "=/users/7"}, map[string]string{"GET /users/7": "=/users/7"}},
		{"the longer regular expression", []string{"~/.*", "~/users/.*"}, map[string]string{"GET /users/7": "~/users/.*"}},
		{"a regular expression matches the whole path", []string{"~/a|/b"},
			map[string]string{"GET /a": "~/a|/b", "GET /b": "~/a|/b", "GET /ab": "404", "GET /a/b": "404"}},
		{"a method before headers", []string{"/a x=1 y=2", "/a GET"}, map[string]string{"GET /a x:1 y:2": "/a GET", "PUT /a x:1 y:2": "/a x=1 y=2"}},
		{"more headers", []string{"/a x=1", "/a x=1 y=2"}, map[string]string{"GET /a x:1 y:2": "/a x=1 y=2", "GET /a x:1": "/a x=1"}},
		{"headers before query parameters", []string{"/a ?q=1 ?r=2", "/a x=1"}, map[string]string{"GET /a?q=1&r=2 x:1": "/a x=1"}},
		{"more query parameters", []string{"/a ?q=1", "/a ?q=1 ?r=2"}, map[string]string{"GET /a?r=2&q=1": "/a ?q=1 ?r=2"}},
		{"the path before all else", []string{"/a GET x=1 ?q=1", "/a/b"}, map[string]string{"GET /a/b?q=1 x:1": "/a/b"}},
		{"the first rule of equals", []string{"/a x=1", "/a y=1"}, map[string]string{"GET /a x:1 y:1": "/a x=1"}},
		{"any match of a rule", []string{"/a | /b x=1", "/"}, map[string]string{"GET /b x:1": "/a | /b x=1", "GET /b": "/"}},
		{"a rule without a path is for every path", []string{"x=1"}, map[string]string{"GET /any x:1": "x=1", "OPTIONS * x:1": "x=1"}},
		{"escapes mean what they escape", []string{"=/%7eann", "/a%2fb"}, map[string]string{"GET /~ann": "=/%7eann", "GET /a%2Fb/c": "/a%2fb"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := table(t, httpRoute("r", c.rules...))
			for request, want := range c.asked {
				if got := found(table, asked(request)); got != want {
					t.Errorf("%s falls to %q, want %q", request, got, want)
				}
			}
		})
	}
}

func TestHeadersAndQueryParametersAreCompared(t *testing.T) {
	for _, c := range []struct {
		rule, request string
		want          bool
	}{
		{"x-a=1", "GET / X-A:1", true},
		{"X-A=1", "GET / x-a:1", true},
		{"x-a=V", "GET / x-a:v", false},
		{"x-a=1", "GET / x-a:12", false},
		{"x-a=1,", "GET / x-a:1 x-a:2", false},
		{"x-a~[0-9]+", "GET / x-a:12", true},
		{"x-a~[0-9]+", "GET / x-a:a12", false},
		{"x-a~1,\\s2", "GET / x-a:1 x-a:2", true}, // a repeated header is one list
		{"x-a=1 X-A=2", "GET / x-a:1", true},      // of one name the first counts
		{"x-a=1 X-A=2", "GET / x-a:2", false},
		{"host=web", "GET / Host:web", true},
		{"host=web", "GET / Host:WEB:8080", true},
		{"host=web", "GET / Host:other", false},
		{"host~web|mail", "GET / Host:mail", true},
		{"?q=1", "GET /?q=1", true},
		{"?q=1", "GET /?Q=1", false},
		{"?q=1", "GET /?q=2&q=1", false}, // of a repeated one the first counts
		{"?q=1", "GET /?q=1&q=2", true},
		{"?q=1 ?q=2", "GET /?q=1", true},
		{"?q=a+b", "GET /?q=a%2Bb", true},
		{"?q=é", "GET /?q=%C3%A9", true},
		{"?q=1", "GET /?%71=%31", true},
		{"?q=1", "GET /?q=%3", false},
		{"?q=1", "GET /?q", false},
		{"?q~[a-z]+", "GET /?q=%61b", true},
		{"?q~[a-z]+", "GET /?q=%zz", false},
	} {
		if got := found(table(t, httpRoute("r", c.rule)), asked(c.request)) != "404"; got != c.want {
			t.Errorf("%s on %s: %v, want %v", c.rule, c.request, got, c.want)
		}
	}
}

func TestRoutesOfOneServiceAreTakenTogether(t *testing.T) {
	older, newer := httpRoute("z", "/a", "/only-older"), httpRoute("a", "/a ", "/only-newer")
	newer.Created = epoch.Add(time.Second)
	both := table(t, newer, older)
	for request, want := range map[string]string{"/a": "/a", "/only-older": "/only-older", "/only-newer": "/only-newer"} {
		if got := found(both, asked("GET "+request)); got != want {
			t.Errorf("%s falls to %q, want %q of the older", request, got, want)
		}
	}
	newer.Created = older.Created
	if got := found(table(t, older, newer), asked("GET /a")); got != "/a " {
		t.Errorf("of two as old falls to %q, want that of shop/a, the first by name", got)
	}
}

func TestAPortsRoutesAndTheServicesAreTakenTogether(t *testing.T) {
	whole, port, other := httpRoute("whole", "/", "/whole"), httpRoute("port", "/port"), httpRoute("other", "/other")
	port.Parents[0].Port, other.Parents[0].Port = 80, 8080
	table := table(t, whole, port, other)
	for _, c := range []struct {
		port       uint16
		path, want string
	}{
		{80, "/port", "/port"}, {80, "/whole", "/whole"}, {80, "/other", "/"},
		{8080, "/other", "/other"}, {8080, "/port", "/"}, {9090, "/whole", "/whole"}, {9090, "/port", "/"},
	} {
		hit, _, ok := table.Find("shop/web", c.port, "", asked("GET "+c.path))
		if !ok || hit.Rule.Name != c.want {
			t.Errorf("%s at port %d: %+v, want %s", c.path, c.port, hit, c.want)
		}
	}
}

func TestAPortWithoutRoutesHasNone(t *testing.T) {
	r := httpRoute("r", "/")
	r.Parents[0].Port = 80
	table := table(t, r)
	for name, attached := range map[string]bool{"shop/web:80": true, "shop/web:81": false, "shop/other:80": false} {
		var port uint16
		service, number, _ := strings.Cut(name, ":")
		fmt.Sscan(number, &port)
		if _, got, _ := table.Find(service, port, "shop", asked("GET /")); got != attached {
			t.Errorf("%s: attached %v, want %v", name, got, attached)
		}
	}
	var none *Table
	if _, attached, ok := none.Find("shop/web", 80, "", asked("GET /")); attached || ok {
		t.Error("no table has a route")
	}
}

func TestClientsWithRoutesOfTheirOwnGetThoseAlone(t *testing.T) {
	producer, consumer := httpRoute("p", "/", "/producer"), httpRoute("c", "/mine")
	consumer.Namespace, consumer.Parents[0].Consumer = "desk", "desk"
	table := table(t, producer, consumer)
	for _, c := range []struct{ namespace, path, want string }{
		{"desk", "/mine", "/mine"}, {"desk", "/producer", ""}, {"shop", "/mine", "/"}, {"", "/producer", "/producer"},
	} {
		hit, attached, ok := table.Find("shop/web", 80, c.namespace, asked("GET "+c.path))
		if !attached || ok != (c.want != "") || ok && hit.Rule.Name != c.want {
			t.Errorf("%s of %q: %+v %v, want %q", c.path, c.namespace, hit, ok, c.want)
		}
	}
}

func TestAConsumersRouteForOnePortLeavesTheOthersToTheProducer(t *testing.T) {
	producer, consumer := httpRoute("p", "/"), httpRoute("c", "/mine")
	consumer.Parents[0] = Parent{Service: "shop/web", Port: 80, Consumer: "desk"}
	table := table(t, producer, consumer)
	if hit, _, ok := table.Find("shop/web", 81, "desk", asked("GET /x")); !ok || hit.Route != producer {
		t.Errorf("%+v %v", hit, ok)
	}
	if _, attached, ok := table.Find("shop/web", 80, "desk", asked("GET /x")); !attached || ok {
		t.Errorf("port 80: attached %v, found %v", attached, ok)
	}
}

func TestHostnamesAreLeftAside(t *testing.T) {
	r := httpRoute("r", "/")
	r.Hostnames = []string{"other.example.com"}
	if got := found(table(t, r), asked("GET /")); got != "/" {
		t.Errorf("falls to %q", got)
	}
}

func TestAPreflightFindsTheRuleOfTheMethodItAsksFor(t *testing.T) {
	r := httpRoute("r", "/a POST", "/a GET")
	r.Rules[0].Filters.CORS = &CORS{AllowOrigins: []string{"*"}}
	table := table(t, r)
	const preflight = "OPTIONS /a Origin:http://x Access-Control-Request-Method:"
	if got := found(table, asked(preflight+"POST")); got != "/a POST" {
		t.Errorf("POST falls to %q", got)
	}
	if got := found(table, asked(preflight+"GET")); got != "404" { // no CORS there
		t.Errorf("GET falls to %q", got)
	}
}

func TestTheMostSpecificGRPCMethodWins(t *testing.T) {
	table := table(t, grpcRoute("g",
		Match{},
		Match{GRPCMethod: "Get"},
		Match{GRPCService: "shop.*", GRPCMethod: "L.*", GRPCRegex: true},
		Match{GRPCService: "shop.Cart"},
		Match{GRPCService: "shop.Cart", GRPCMethod: "Get"},
		Match{GRPCService: "shop.Cart", GRPCMethod: "Get", Headers: []ValueMatch{{Name: "v", Value: "2"}}},
	))
	for request, want := range map[string]string{
		"POST /shop.Cart/Get v:2":   "g5",
		"POST /shop.Cart/Get":       "g4",
		"POST /shop.Cart/Put":       "g3",
		"POST /shop.CartX/Put":      "g0",
		"POST /shop.Wish/List":      "g2",
		"POST /desk.Wish/Get":       "g1",
		"POST /desk.Wish/Put":       "g0",
		"POST /shop.cart/Get":       "g1",
		"POST /shop.Cart":           "404",
		"GET /shop.Cart/Get":        "404",
		"POST /shop.Cart/Get/Extra": "g3",
	} {
		r := asked(request)
		r.Header.Set("Content-Type", "application/grpc+proto")
		if got := found(table, r); got != want {
			t.Errorf("%s falls to %q, want %q", request, got, want)
		}
	}
	if got := found(table, asked("POST /shop.Cart/Get Content-Type:application/json")); got != "404" {
		t.Errorf("what is no gRPC falls to %q", got)
	}
}

func TestHTTPRoutesGiveWayToGRPCRoutes(t *testing.T) {
	all, one := httpRoute("h", "/"), grpcRoute("g", Match{})
	one.Parents[0].Port = 7070
	table := table(t, all, one)
	if hit, _, ok := table.Find("shop/web", 80, "", asked("GET /")); !ok || hit.Route != all {
		t.Errorf("port 80: %+v %v", hit, ok)
	}
	if _, attached, ok := table.Find("shop/web", 7070, "", asked("GET /")); !attached || ok {
		t.Errorf("port 7070: attached %v, found %v", attached, ok)
	}
}

func TestAnExpressionThatIsNoneIsRefusedByPlace(t *testing.T) {
	for says, rule := range map[string]string{
		"HTTPRoute shop/r: rules[0]: matches[0]: \"[\"": "~[",
		"matches[0]: \"a)(b\"":                          "~a)(b",
		"headers: x: \"(\"":                             "x~(",
		"query: q: \"*\"":                               "?q~*",
		"too complex":                                   "~(abcdefghijkl){1000}",
		"of 5000 bytes":                                 "~" + strings.Repeat("a", 5000),
	} {
		_, err := NewTable([]*Route{httpRoute("r", rule)})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestWeightsAreKept(t *testing.T) {
	r := Rule{Backends: []Backend{{Service: "a", Weight: 1}, {Service: "none"}, {Service: "b", Weight: 3}}}
	got := map[string]int{}
	for i := range 1 << 16 {
		got[r.Choose(uint32(i)<<16).Service]++
	}
	if got["a"] != 1<<14 || got["b"] != 3<<14 || got["none"] != 0 {
		t.Errorf("%v", got)
	}
	if b := (&Rule{Backends: []Backend{{Service: "none"}}}).Choose(7); b != nil {
		t.Errorf("without weights: %+v", b)
	}
	heavy := Rule{Backends: []Backend{{Service: "a", Weight: 1<<32 - 1}, {Service: "b", Weight: 1<<32 - 1}}}
	if heavy.Choose(0).Service != "a" || heavy.Choose(1<<32-1).Service != "b" {
		t.Error("large weights")
	}
}

func TestFindingDoesNotAllocate(t *testing.T) {
	table := table(t, httpRoute("r", "/", "/a/b", "=/exact", "/a GET x=1 ?q=1", "/a/b host=web"), grpcRoute("g"))
	for _, text := range []string{"GET /a/b/c/d?z=1&q=%31 x:1", "GET /exact", "GET /nowhere", "GET /a?q=1 x:1"} {
		r := asked(text)
		if n := testing.AllocsPerRun(100, func() { table.Find("shop/web", 80, "shop", r) }); n != 0 {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
}
