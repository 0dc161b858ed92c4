package resource

import (
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/route"
)

// wholeRoute has every field.
func wholeRoute() *meshv1.Route {
	return &meshv1.Route{
		Kind: meshv1.Route_HTTP, Namespace: "shop", Name: "web", CreatedUnix: 1_700_000_000,
		Parents:   []*meshv1.RouteParent{{Service: "shop/web", Port: 80, ConsumerNamespace: "desk"}},
		Hostnames: []string{"web.example.com"},
		Rules: []*meshv1.RouteRule{{
			Name: "first", TimeoutMs: 1500, BackendTimeoutMs: 500, Broken: "why",
			Matches: []*meshv1.RouteMatch{{
				Path: "/a", PathKind: meshv1.RouteMatch_EXACT, Method: "GET",
				Headers: []*meshv1.ValueMatch{{Name: "x-a", Value: "1"}},
				Query:   []*meshv1.ValueMatch{{Name: "q", Value: "[0-9]", Regex: true}},
			}},
			Filters: &meshv1.RouteFilters{
				RequestHeaders:  &meshv1.HeaderModifier{Set: []*meshv1.Header{{Name: "x-s", Value: "v"}}, Remove: []string{"x-r"}},
				ResponseHeaders: &meshv1.HeaderModifier{Add: []*meshv1.Header{{Name: "x-p", Value: "w"}}},
				Redirect: &meshv1.Redirect{Scheme: "https", Hostname: "example.org", Port: 8443, Status: 301,
					Path: &meshv1.PathChange{Kind: meshv1.PathChange_FULL, Value: "/there"}},
				Rewrite: &meshv1.Rewrite{Hostname: "inner", Path: &meshv1.PathChange{Kind: meshv1.PathChange_PREFIX, Value: "/b"}},
				Mirrors: []*meshv1.Mirror{{Service: "shop/copy", Port: 81, Numerator: 1, Denominator: 10}, {Service: "shop/all", Port: 1}},
				Cors: &meshv1.CORS{AllowOrigins: []string{"https://*.example.com"}, AllowCredentials: true, AllowMethods: []string{"GET"},
					AllowHeaders: []string{"x-a"}, ExposeHeaders: []string{"*"}, MaxAgeSeconds: 60},
			},
			Backends: []*meshv1.RouteBackend{
				{Service: "shop/one", Port: 80, Weight: 9, Filters: &meshv1.RouteFilters{RequestHeaders: &meshv1.HeaderModifier{Remove: []string{"x"}}}},
				{Weight: 1, Broken: "there is no such service"},
			},
			Retry:   &meshv1.RouteRetry{Codes: []uint32{503}, Attempts: 2, BackoffMs: 25},
			Session: &meshv1.SessionPersistence{Name: "sid", Cookie: true, AbsoluteTimeout: 3600, IdleTimeout: 60, Permanent: true},
		}},
	}
}

func TestARouteIsDecodedWhole(t *testing.T) {
	got, err := DecodeRoute(wholeRoute())
	want := &route.Route{
		Kind: route.HTTP, Namespace: "shop", Name: "web", Created: time.Unix(1_700_000_000, 0).UTC(),
		Parents:   []route.Parent{{Service: "shop/web", Port: 80, Consumer: "desk"}},
		Hostnames: []string{"web.example.com"},
		Rules: []route.Rule{{
			Name: "first", Timeout: 1500 * time.Millisecond, BackendTimeout: 500 * time.Millisecond, Broken: "why",
			Matches: []route.Match{{
				Path: "/a", PathKind: route.Exact, Method: "GET",
				Headers: []route.ValueMatch{{Name: "x-a", Value: "1"}}, Query: []route.ValueMatch{{Name: "q", Value: "[0-9]", Regex: true}},
			}},
			Filters: route.Filters{
				Request:  route.HeaderModifier{Set: []route.Header{{Name: "x-s", Value: "v"}}, Remove: []string{"x-r"}},
				Response: route.HeaderModifier{Add: []route.Header{{Name: "x-p", Value: "w"}}},
				Redirect: &route.Redirect{Scheme: "https", Hostname: "example.org", Port: 8443, Status: 301,
					Path: route.PathChange{Kind: route.ReplaceFull, Value: "/there"}},
				Rewrite: &route.Rewrite{Hostname: "inner", Path: route.PathChange{Kind: route.ReplacePrefix, Value: "/b"}},
				Mirrors: []route.Mirror{{Service: "shop/copy", Port: 81, Numerator: 1, Denominator: 10},
					{Service: "shop/all", Port: 1, Numerator: 1, Denominator: 1}},
				CORS: &route.CORS{AllowOrigins: []string{"https://*.example.com"}, AllowCredentials: true, AllowMethods: []string{"GET"},
					AllowHeaders: []string{"x-a"}, ExposeHeaders: []string{"*"}, MaxAge: time.Minute},
			},
			Backends: []route.Backend{
				{Service: "shop/one", Port: 80, Weight: 9, Filters: route.Filters{Request: route.HeaderModifier{Remove: []string{"x"}}}},
				{Weight: 1, Broken: "there is no such service"},
			},
			Retry:   &route.Retry{Codes: []int{503}, Attempts: 2, Backoff: 25 * time.Millisecond},
			Session: &route.Session{Name: "sid", Cookie: true, Absolute: time.Hour, Idle: time.Minute, Permanent: true},
		}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

func TestImpossibleRoutesAreRefusedByField(t *testing.T) {
	for says, change := range map[string]func(*meshv1.Route, *meshv1.RouteRule){
		"kind: 7":                                 func(r *meshv1.Route, _ *meshv1.RouteRule) { r.Kind = 7 },
		"a name of 0 bytes":                       func(r *meshv1.Route, _ *meshv1.RouteRule) { r.Name = "" },
		"a name of 254 bytes":                     func(r *meshv1.Route, _ *meshv1.RouteRule) { r.Namespace = strings.Repeat("n", 254) },
		"257 rules":                               func(r *meshv1.Route, _ *meshv1.RouteRule) { r.Rules = make([]*meshv1.RouteRule, 257) },
		"parents: 257":                            func(r *meshv1.Route, _ *meshv1.RouteRule) { r.Parents = make([]*meshv1.RouteParent, 257) },
		`parents[0]: service: "web"`:              func(r *meshv1.Route, _ *meshv1.RouteRule) { r.Parents[0].Service = "web" },
		"parents[0]: port 65536":                  func(r *meshv1.Route, _ *meshv1.RouteRule) { r.Parents[0].Port = 65536 },
		"rules[0]: more than 1024 matches":        func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Matches = make([]*meshv1.RouteMatch, 1025) },
		"a timeout of more than":                  func(_ *meshv1.Route, r *meshv1.RouteRule) { r.TimeoutMs = 1<<32 - 1 },
		`matches[0]: method: "GET /"`:             func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Matches[0].Method = "GET /" },
		`matches[0]: path: "a"`:                   func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Matches[0].Path = "a" },
		`"/a b" has a character`:                  func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Matches[0].Path = "/a b" },
		"path_kind: 9":                            func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Matches[0].PathKind = 9 },
		`path: "(" is not a regular expression`:   func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Matches[0].Path, r.Matches[0].PathKind = "(", 2 },
		`headers[0]: "x a" is not a name`:         func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Matches[0].Headers[0].Name = "x a" },
		`query[0]: "" is not a name`:              func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Matches[0].Query[0].Name = "" },
		"headers: 65":                             func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Matches[0].Headers = make([]*meshv1.ValueMatch, 65) },
		"backends[0]: weight 1000001":             func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Backends[0].Weight = 1_000_001 },
		"backends[0]: port: it is missing":        func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Backends[0].Port = 0 },
		"backends[1]: port: it is missing":        func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Backends[1].Broken = "" },
		"Content-Length says how a message is":    func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Filters.RequestHeaders.Set[0].Name = "Content-Length" },
		"transfer-encoding says how a message is": func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Filters.RequestHeaders.Remove[0] = "transfer-encoding" },
		`may not be a header's value`:             func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Filters.ResponseHeaders.Add[0].Value = "a\r\nb: c" },
		`redirect: scheme: "ftp"`:                 func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Filters.Redirect.Scheme = "ftp" },
		"redirect: status: 200":                   func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Filters.Redirect.Status = 200 },
		`redirect: hostname: "a/b"`:               func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Filters.Redirect.Hostname = "a/b" },
		`rewrite: path: value: "/b\r\nX"`:         func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Filters.Rewrite.Path.Value = "/b\r\nX" },
		"rewrite: path: kind: 5":                  func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Filters.Rewrite.Path.Kind = 5 },
		"mirrors[0]: 11 of 10":                    func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Filters.Mirrors[0].Numerator = 11 },
		`allow_origins: "example.com"`:            func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Filters.Cors.AllowOrigins[0] = "example.com" },
		`allow_methods: "A B"`:                    func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Filters.Cors.AllowMethods[0] = "A B" },
		"retry: codes: 200":                       func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Retry.Codes[0] = 200 },
		"retry: 101 attempts":                     func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Retry.Attempts = 101 },
		`session: name: "a;b"`:                    func(_ *meshv1.Route, r *meshv1.RouteRule) { r.Session.Name = "a;b" },
		"regular expressions are too complex": func(_ *meshv1.Route, r *meshv1.RouteRule) {
			for range 12 {
				r.Matches = append(r.Matches, &meshv1.RouteMatch{Path: "/(abcdefghi){800}", PathKind: meshv1.RouteMatch_REGEX})
			}
		},
	} {
		wire := wholeRoute()
		change(wire, wire.Rules[0])
		if _, err := DecodeRoute(wire); !errors.Is(err, ErrUndecodable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestAGRPCMethodIsNoPath(t *testing.T) {
	wire := &meshv1.Route{Kind: meshv1.Route_GRPC, Namespace: "shop", Name: "cart", Rules: []*meshv1.RouteRule{{
		Matches: []*meshv1.RouteMatch{{GrpcService: "shop.Cart", GrpcMethod: "Get"}},
	}}}
	got, err := DecodeRoute(wire)
	if err != nil || got.Kind != route.GRPC || got.Rules[0].Matches[0].GRPCMethod != "Get" {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, m := range []*meshv1.RouteMatch{{GrpcService: "a/b"}, {GrpcMethod: "a\n"}, {GrpcMethod: "(", GrpcRegex: true}} {
		wire.Rules[0].Matches[0] = m
		if _, err := DecodeRoute(wire); !errors.Is(err, ErrUndecodable) {
			t.Errorf("%v: %v", m, err)
		}
	}
}

func TestRoutesAndTrafficPoliciesOfAStateAreUsed(t *testing.T) {
	r, p := Route(wholeRoute()), Traffic(&meshv1.TrafficPolicy{
		Namespace: "shop", Name: "limits", Targets: []string{"HTTPRoute shop/web/first"},
		RateLimits: []*meshv1.RateLimit{{Requests: 10, PeriodMs: 1000}},
	})
	d, err := Decode("e", 1, map[string]*meshv1.Resource{"route/HTTPRoute/shop/web": r, "traffic/shop/limits": p})
	if err != nil {
		t.Fatal(err)
	}
	hit, attached, found := d.Routes.Find("shop/web", 80, "desk", &route.Request{
		Method: "GET", Path: "/a", RawQuery: "q=7", Header: http.Header{"X-A": {"1"}},
	})
	if !attached || !found || hit.RuleName() != "first" {
		t.Fatalf("%+v %v %v", hit, attached, found)
	}
	if limits := d.Traffic.For("shop/web", &hit).RateLimits; len(limits) != 1 || limits[0].Requests != 10 {
		t.Errorf("%+v", limits)
	}
}

func TestAStateWithoutRoutesHasAnEmptyTable(t *testing.T) {
	d, err := Decode("e", 1, nil)
	if err != nil || d.Routes == nil || d.Traffic == nil {
		t.Fatalf("%+v, %v", d, err)
	}
}

func TestARouteStandsUnderItsKindAndName(t *testing.T) {
	r := Route(wholeRoute())
	if r.Key != "route/HTTPRoute/shop/web" {
		t.Error(r.Key)
	}
	if _, err := Decode("e", 1, map[string]*meshv1.Resource{"route/GRPCRoute/shop/web": r}); !errors.Is(err, ErrUndecodable) {
		t.Errorf("under another key: %v", err)
	}
	for _, wire := range []*meshv1.Route{{Namespace: "a", Name: "b"}, {Kind: meshv1.Route_HTTP, Name: "b"}} {
		if key, err := Key(Route(wire)); err == nil {
			t.Errorf("%v has the key %q", wire, key)
		}
	}
}

// FuzzRoute: whatever bytes come, a route that is taken can be searched, and its filters applied.
func FuzzRoute(f *testing.F) {
	b, err := proto.Marshal(wholeRoute())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, "/a/b", "q=1&q=2")
	f.Fuzz(func(t *testing.T, data []byte, path, query string) {
		var wire meshv1.Route
		if proto.Unmarshal(data, &wire) != nil {
			return
		}
		r, err := DecodeRoute(&wire)
		if err != nil {
			if !errors.Is(err, ErrUndecodable) {
				t.Fatalf("refused by %v", err)
			}
			return
		}
		table, err := route.NewTable([]*route.Route{r})
		if err != nil {
			t.Fatalf("what was decoded is no table: %v", err)
		}
		for _, p := range r.Parents {
			request := &route.Request{Method: "GET", Host: "h", Path: path, RawQuery: query, Header: http.Header{"X-A": {"1"}}}
			hit, attached, found := table.Find(p.Service, p.Port, p.Consumer, request)
			if !attached || found && hit.Route != r {
				t.Fatalf("%+v %v %v", hit, attached, found)
			}
			if !found {
				continue
			}
			hit.Rule.Choose(1)
			if d := hit.Rule.Filters.Redirect; d != nil {
				d.Location(route.Asked{Scheme: "http", Host: "h", Port: 80, Path: path}, hit.Match)
			}
			if w := hit.Rule.Filters.Rewrite; w != nil && !strings.HasPrefix(w.Path.Apply("/"+path, hit.Match), "/") {
				t.Fatalf("the rewritten path is not absolute")
			}
		}
	})
}
