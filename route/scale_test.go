package route

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// scene is a mesh of n routes, and a request that falls to the last but one of them, or to none.
type scene struct {
	name  string
	route func(i int) *Route
	asked func(n int) string
	found bool
}

func lastButOne(format string) func(n int) string {
	return func(n int) string { return fmt.Sprintf(format, n-2, n-2) }
}

var scenes = []scene{
	{"services", func(i int) *Route {
		r := httpRoute(fmt.Sprint("r", i), "/api x=1", "/")
		r.Parents[0].Service = fmt.Sprint("shop/s", i)
		if i == 0 {
			r.Parents[0].Service = "shop/web"
		}
		return r
	}, func(int) string { return "GET /api/things x:1" }, true},
	{"paths", onePathEach, lastButOne("GET /api/v%d/things/7/parts x:%d"), true},
	{"paths-none", onePathEach, func(int) string { return "GET /api/v1/things/7/parts" }, false},
	{"exact", func(i int) *Route { return httpRoute(fmt.Sprint("r", i), fmt.Sprintf("=/exact/%d", i)) }, lastButOne("GET /exact/%d?%d"), true},
	{"headers", oneHeaderEach, lastButOne("GET /a x:%d y:%d"), true},
	{"headers-none", oneHeaderEach, func(int) string { return "GET /a x:none" }, false},
}

func onePathEach(i int) *Route {
	return httpRoute(fmt.Sprint("r", i), fmt.Sprintf("/api/v%d/things x=%d", i, i))
}

// oneHeaderEach has the Gateway API's canaries, all on one path.
func oneHeaderEach(i int) *Route { return httpRoute(fmt.Sprint("r", i), fmt.Sprintf("/ GET x=%d", i)) }

func (s scene) build(t testing.TB, n int) (*Table, *Request) {
	t.Helper()
	var routes []*Route
	for i := range n {
		routes = append(routes, s.route(i))
	}
	table, r := table(t, routes...), asked(s.asked(n))
	if _, attached, found := table.Find("shop/web", 80, "shop", r); !attached || found != s.found {
		t.Fatalf("%s of %d: attached %t, found %t", s.name, n, attached, found)
	}
	return table, r
}

func TestFindingDoesNotAllocateHoweverManyRoutes(t *testing.T) {
	for _, s := range scenes {
		for _, n := range []int{10, 1000} {
			table, r := s.build(t, n)
			if got := testing.AllocsPerRun(100, func() { table.Find("shop/web", 80, "shop", r) }); got != 0 {
				t.Errorf("%s of %d: %v allocations", s.name, n, got)
			}
		}
	}
}

// TestManyOfOnePathAgreeWithTheReference has more candidates on a path than are asked one by one.
func TestManyOfOnePathAgreeWithTheReference(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	values := []string{"x=1", "x=2", "x=3", "y=1", "y=2", "y~[12]", "x~[3]", "host=web", "host=other", "z=a,", "GET", "PUT", "?q=1"}
	requests := []string{"GET /a x:1", "GET /a x:2 y:2", "PUT /a x:3", "GET /a?q=1", "GET /a host:other y:1", "PUT /a x:9", "GET /a y:1 y:2", "GET /a"}
	for range 1000 {
		var routes []*Route
		for i := range fewCandidates + 1 + random.IntN(20) {
			rule := []string{"/a", "=/a"}[random.IntN(2)]
			for range 1 + random.IntN(3) {
				rule += " " + values[random.IntN(len(values))]
			}
			r := httpRoute(fmt.Sprint("r", i), rule)
			r.Created = epoch.AddDate(0, 0, random.IntN(3))
			routes = append(routes, r)
		}
		for _, text := range requests {
			agree(t, routes, asked(text))
		}
	}
}

func TestALineThatIsRepeatedLeadsToWhatItIsAsOne(t *testing.T) {
	var routes []*Route
	for i := range fewCandidates + 1 {
		routes = append(routes, oneHeaderEach(i))
	}
	routes = append(routes, httpRoute("joined"))
	routes[len(routes)-1].Rules = []Rule{{Name: "joined", Matches: []Match{{Path: "/", Headers: []ValueMatch{{Name: "x", Value: "1, 2"}}}}}}
	if got := found(table(t, routes...), asked("GET /a x:1 x:2")); got != "joined" {
		t.Errorf("it falls to %s", got)
	}
}

func BenchmarkFindOfMany(b *testing.B) {
	for _, s := range scenes {
		for _, n := range []int{10, 1000, 10_000} {
			b.Run(fmt.Sprintf("shape=%s/routes=%d", s.name, n), func(b *testing.B) {
				table, r := s.build(b, n)
				b.ReportAllocs()
				for b.Loop() {
					table.Find("shop/web", 80, "shop", r)
				}
			})
		}
	}
}
