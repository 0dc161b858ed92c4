package proxy

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/limit"
)

func TestFiltersChangeRequestsAndAnswers(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("X-From", "backend")
		w.Header().Set("X-Gone", "backend")
		echo().ServeHTTP(w, q)
	}))
	backends := to("shop/web")
	backends[0].Filters = route.Filters{
		Request:  route.HeaderModifier{Add: []route.Header{{Name: "X-B", Value: "backend"}}},
		Response: route.HeaderModifier{Set: []route.Header{{Name: "X-Answer", Value: "backend"}}},
	}
	r.route(route.Rule{
		Matches: []route.Match{{Path: "/old"}}, Backends: backends,
		Filters: route.Filters{
			Request: route.HeaderModifier{
				Set: []route.Header{{Name: "X-Set", Value: "new"}}, Add: []route.Header{{Name: "X-B", Value: "rule"}}, Remove: []string{"X-Remove"},
			},
			Response: route.HeaderModifier{Add: []route.Header{{Name: "X-From", Value: "rule"}}, Remove: []string{"X-Gone"}},
			Rewrite:  &route.Rewrite{Hostname: "other.example", Path: route.PathChange{Kind: route.ReplacePrefix, Value: "/new%20/path"}},
		},
	}).start()
	res, body := r.get("/old/x%20y?q=1", func(q *http.Request) {
		q.Header.Set("X-Set", "old")
		q.Header.Set("X-Remove", "1")
	})
	s := saw(t, body)
	if s.Host != "other.example" || s.URI != "/new%20/path/x%20y?q=1" || s.Header.Get("X-Set") != "new" || s.Header.Get("X-Remove") != "" ||
		strings.Join(s.Header["X-B"], ",") != "rule,backend" || s.Header.Get("X-Forwarded-Host") != "web.shop" {
		t.Errorf("the backend saw %+v", s)
	}
	if strings.Join(res.Header["X-From"], ",") != "backend,rule" || res.Header.Get("X-Gone") != "" || res.Header.Get("X-Answer") != "backend" {
		t.Errorf("the client saw %v", res.Header)
	}
}

func TestRedirects(t *testing.T) {
	for _, row := range []struct {
		name     string
		redirect route.Redirect
		want     string
		status   int
	}{
		{"host", route.Redirect{Hostname: "example.org"}, "http://example.org/a/b?q=1", 302},
		{"scheme", route.Redirect{Scheme: "https", Status: 301}, "https://web.shop/a/b?q=1", 301},
		{"port", route.Redirect{Port: 8083}, "http://web.shop:8083/a/b?q=1", 302},
		{"path", route.Redirect{Path: route.PathChange{Kind: route.ReplaceFull, Value: "/c"}, Status: 308}, "http://web.shop/c?q=1", 308},
		{"prefix", route.Redirect{Path: route.PathChange{Kind: route.ReplacePrefix, Value: "/c"}, Status: 303}, "http://web.shop/c/b?q=1", 303},
	} {
		r := newRig(t, named("backend"))
		r.route(route.Rule{Matches: []route.Match{{Path: "/a"}}, Filters: route.Filters{Redirect: &row.redirect}}).start()
		for _, method := range []string{"GET", "POST", "HEAD"} {
			req, _ := http.NewRequest(method, "http://web.shop/a/b?q=1", nil)
			res, body := r.do(r.client(false), req)
			if got := res.Header.Get("Location"); got != row.want || res.StatusCode != row.status || body != "" {
				t.Errorf("%s: %s got %d to %q, want %d to %q; body %q", row.name, method, res.StatusCode, got, row.status, row.want, body)
			}
			if rec := r.record(); rec.Outcome != exchange.Redirected || rec.Status != row.status {
				t.Errorf("%s: record %s %d", row.name, rec.Outcome, rec.Status)
			}
		}
	}
}

func TestCORS(t *testing.T) {
	var asked counter
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "backend's")
		asked.ServeHTTP(w, q)
	}))
	r.policies = []*policy.Policy{{
		Namespace: "shop", Name: "get-only", Action: policy.Allow, Targets: []string{"Service shop/web"},
		Rules: []policy.Rule{{To: []policy.Operation{{Methods: []string{"GET"}}}}},
	}}
	r.route(route.Rule{Backends: to("shop/web"), Filters: route.Filters{CORS: &route.CORS{
		AllowOrigins: []string{"https://a.example", "https://*.b.example"}, AllowMethods: []string{"GET", "PUT"}, AllowHeaders: []string{"X-A"},
		ExposeHeaders: []string{"X-E"}, AllowCredentials: true, MaxAge: time.Hour,
	}}}).start()
	for _, row := range []struct {
		method, origin, want string
		outcome              exchange.Outcome
	}{
		{"OPTIONS", "https://a.example", "https://a.example", exchange.Preflight},
		{"OPTIONS", "https://x.b.example", "https://x.b.example", exchange.Preflight},
		{"OPTIONS", "https://evil.example", "", exchange.Preflight},
		{"GET", "https://a.example", "https://a.example", exchange.Answered},
		{"GET", "https://evil.example", "", exchange.Answered},
		{"POST", "https://a.example", "https://a.example", exchange.Denied},
	} {
		req, _ := http.NewRequest(row.method, "http://web.shop/", nil)
		req.Header.Set("Origin", row.origin)
		if row.method == "OPTIONS" {
			req.Header.Set("Access-Control-Request-Method", "GET")
		}
		res, _ := r.do(r.client(false), req)
		if got := res.Header.Get("Access-Control-Allow-Origin"); got != row.want {
			t.Errorf("%s from %s: allowed is %q, want %q", row.method, row.origin, got, row.want)
		}
		if row.outcome == exchange.Preflight && row.want != "" && (res.Header.Get("Access-Control-Allow-Methods") != "GET, PUT" || res.Header.Get("Access-Control-Max-Age") != "3600") {
			t.Errorf("the preflight's answer is %v", res.Header)
		}
		if rec := r.record(); rec.Outcome != row.outcome {
			t.Errorf("%s from %s: %s", row.method, row.origin, rec.Outcome)
		}
	}
	if got := asked.take(); len(got) != 2 {
		t.Errorf("the backend was asked %q", got)
	}
}

// collector keeps the bodies that it gets.
type collector struct {
	mu     sync.Mutex
	bodies []string
	hosts  []string
	got    chan struct{}
}

func (c *collector) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	c.mu.Lock()
	c.bodies, c.hosts = append(c.bodies, string(b)), append(c.hosts, r.Host)
	c.mu.Unlock()
	c.got <- struct{}{}
}

func TestAMirrorSeesItsCopyAndHoldsNothingUp(t *testing.T) {
	copies := &collector{got: make(chan struct{}, 10000)}
	release := make(chan struct{})
	r := newRig(t, echo())
	r.service("shop/copy", "", copies)
	r.service("shop/stuck", "", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer close(release)
	r.route(route.Rule{Backends: to("shop/web"), Filters: route.Filters{Mirrors: []route.Mirror{
		{Service: "shop/copy", Port: 80}, {Service: "shop/stuck", Port: 80}, {Service: "shop/absent", Port: 80}, {Service: "x/y", Port: 80, Broken: "no grant"},
	}}}).start()
	large := strings.Repeat("0123456789", 200_000) // more than a mirror may be behind
	for _, body := range []string{"", "small", large} {
		for _, http2 := range []bool{false, true} {
			req, _ := http.NewRequest("POST", "http://web.shop/", strings.NewReader(body))
			began := time.Now()
			res, answer := r.do(r.client(http2), req)
			if res.StatusCode != 200 || saw(t, answer).Body != body || time.Since(began) > 3*time.Second {
				t.Fatalf("%d after %s", res.StatusCode, time.Since(began))
			}
			if body == large { // the mirror may have been too slow
				continue
			}
			<-copies.got
			copies.mu.Lock()
			if got := copies.bodies[len(copies.bodies)-1]; got != body || copies.hosts[0] != "web.shop" {
				t.Errorf("the mirror got %d bytes for %s, want %d", len(got), copies.hosts[0], len(body))
			}
			copies.mu.Unlock()
		}
	}
	r.proxy.Close()
	if left := r.proxy.kept.left.Load(); left != maxKept {
		t.Errorf("%d bytes were not given back", maxKept-left)
	}
}

func TestAMirrorGetsItsPart(t *testing.T) {
	copies := &collector{got: make(chan struct{}, 10000)}
	r := newRig(t, named("web"))
	r.service("shop/copy", "", copies)
	r.route(route.Rule{Backends: to("shop/web"), Filters: route.Filters{Mirrors: []route.Mirror{
		{Service: "shop/copy", Port: 80, Numerator: 20, Denominator: 100},
	}}}).start()
	c := r.client(true)
	for range 1000 {
		req, _ := http.NewRequest("GET", "http://web.shop/", nil)
		r.do(c, req)
	}
	time.Sleep(100 * time.Millisecond)
	r.proxy.Close()
	if n := len(copies.bodies); n < 130 || n > 270 {
		t.Errorf("of 1000 requests the mirror got %d, want about 200", n)
	}
}

func TestLimitsAndFaults(t *testing.T) {
	r := newRig(t, named("web"))
	r.cfg.Limiter = limit.New()
	r.traffic = []*route.TrafficPolicy{{Namespace: "shop", Name: "limits", Targets: []string{"Service shop/web"}, Traffic: route.Traffic{
		RateLimits: []route.RateLimit{{Name: "few", By: route.ByHeader, Header: "X-User", Requests: 2, Period: time.Minute}},
		Fault: &route.Fault{
			DelayPerMyriad: 10_000, Delay: 30 * time.Millisecond, AbortPerMyriad: 10_000, AbortStatus: 418,
			Headers: []route.ValueMatch{{Name: "X-Fault", Value: "yes"}},
		},
	}}}
	r.start()
	user := func(name string) func(*http.Request) { return func(q *http.Request) { q.Header.Set("X-User", name) } }
	for i, want := range []int{200, 200, 429} {
		res, _ := r.get("/", user("one"))
		if res.StatusCode != want {
			t.Fatalf("request %d: %d", i, res.StatusCode)
		}
		if want == 429 && (res.Header.Get("Retry-After") == "" || !strings.Contains(res.Header.Get("Ratelimit"), ";r=0;t=") ||
			!strings.Contains(res.Header.Get("Ratelimit-Policy"), ";q=2") || res.Header.Get("X-Ratelimit-Limit") != "2") {
			t.Errorf("the answer's header is %v", res.Header)
		}
		if rec := r.record(); (rec.Outcome == exchange.Limited) != (want == 429) {
			t.Errorf("record: %s", rec.Outcome)
		}
	}
	if res, _ := r.get("/", user("two")); res.StatusCode != 200 {
		t.Errorf("another client got %d", res.StatusCode)
	}
	r.record()
	began := time.Now()
	res, _ := r.get("/", user("three"), func(q *http.Request) { q.Header.Set("X-Fault", "yes") })
	if rec := r.record(); res.StatusCode != 418 || rec.Outcome != exchange.Injected || time.Since(began) < 30*time.Millisecond {
		t.Errorf("the fault: %d after %s, %s", res.StatusCode, time.Since(began), rec.Outcome)
	}
}

func TestPolicyOfTheServiceAndOfTheChosenEndpoint(t *testing.T) {
	r := newRig(t, named("web"))
	r.workloads[0].Policies = []string{"shop/workload"}
	r.policies = []*policy.Policy{
		{Namespace: "shop", Name: "workload", Action: policy.Deny, Rules: []policy.Rule{{To: []policy.Operation{{Paths: []string{"/workload"}, Ports: []uint16{8080}}}}}},
		{Namespace: "shop", Name: "service", Action: policy.Deny, Targets: []string{"Service shop/web"},
			Rules: []policy.Rule{{To: []policy.Operation{{Paths: []string{"/service/*"}, Ports: []uint16{80}}}}}},
		{Namespace: "shop", Name: "gateway", Action: policy.Deny, Targets: []string{"Gateway shop/waypoint"},
			Rules: []policy.Rule{{From: []policy.Source{{Principals: []string{"cluster.local/ns/test/sa/client"}}}, To: []policy.Operation{{Methods: []string{"DELETE"}}}}}},
	}
	r.start()
	for _, row := range []struct {
		method, path string
		status       int
		rule         string
	}{
		{"GET", "/", 200, ""},
		{"GET", "/workload", 403, "shop/workload"},
		{"GET", "/x/..//%77orkload", 403, "shop/workload"},
		{"GET", "/service/a", 403, "shop/service"},
		{"DELETE", "/", 403, "shop/gateway"},
	} {
		res, body := r.get(row.path, func(q *http.Request) { q.Method = row.method })
		rec := r.record()
		if res.StatusCode != row.status || !strings.Contains(rec.Policy, row.rule) || strings.Contains(body, "shop/") {
			t.Errorf("%s %s: %d %q, rule %q", row.method, row.path, res.StatusCode, body, rec.Policy)
		}
		if (rec.Outcome == exchange.Denied) != (row.status == 403) {
			t.Errorf("%s %s: record %s", row.method, row.path, rec.Outcome)
		}
	}
}

func TestAMirrorThatIsTooFarBehindIsGivenUp(t *testing.T) {
	allowed := newBudget(maxKept)
	c := newCopied(allowed)
	chunk := make([]byte, copySize)
	for range maxBehind / copySize {
		c.offer(chunk, nil)
	}
	if _, err := c.Read(chunk); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.offer(chunk, nil)
	}
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, errBehind) {
		t.Errorf("it ended with %v", err)
	}
	if left := allowed.left.Load(); left != maxKept {
		t.Errorf("%d bytes were not given back", maxKept-left)
	}
}
