package waypoint

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
)

// routeTo is an HTTPRoute of the service pay whose only rule is given, as YAML flow content.
func routeTo(name, rules string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: pay}]
  rules:
%s
`, name, rules)
}

// payClient is a client of the service pay in a pod.
func payClient(m *labtest.Mesh, pod string) *http.Client {
	return m.Client(pod, m.VIP("shop/pay", 80))
}

// get asks for a path of pay and returns the answer with its body read.
func get(t *testing.T, c *http.Client, path string, headers ...string) (*http.Response, echo) {
	t.Helper()
	res, e, err := tryGet(c, path, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return res, e
}

func tryGet(c *http.Client, path string, headers ...string) (*http.Response, echo, error) {
	req, err := http.NewRequest(http.MethodGet, "http://pay.shop"+path, nil)
	if err != nil {
		return nil, echo{}, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, echo{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	var e echo
	if res.StatusCode == http.StatusOK {
		_ = json.Unmarshal(raw, &e) // other answers are not the app's
	}
	return res, e, err
}

// counts asks n times with several clients at once and returns how often who answered; failures are "error" and
// statuses but 200 themselves.
func counts(c *http.Client, n int, headers ...string) map[string]int {
	const clients = 16
	var mu sync.Mutex
	var wg sync.WaitGroup
	by := map[string]int{}
	for i := range clients {
		wg.Go(func() {
			for j := i; j < n; j += clients {
				res, e, err := tryGet(c, "/", headers...)
				who := e.Service
				switch {
				case err != nil:
					who = "error"
				case res.StatusCode != http.StatusOK:
					who = fmt.Sprint(res.StatusCode)
				}
				mu.Lock()
				by[who]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return by
}

// TestCanary: 90 of 100 requests go to one version and 10 to the other, within four standard deviations of 10,000; a
// change of the weights takes effect under load without losing a request.
func TestCanary(t *testing.T) {
	m := up(t, "", routeTo("canary", `
  - backendRefs: [{name: one, port: 80, weight: 90}, {name: two, port: 80, weight: 10}]`))
	c := payClient(m, "shop/web")
	const n = 10_000
	by := counts(c, n)
	sigma := math.Sqrt(n * 0.9 * 0.1)
	if by["v1"]+by["v2"] != n || math.Abs(float64(by["v1"])-0.9*n) > 4*sigma {
		t.Errorf("%v, want %d to v1 give or take %.0f", by, n*9/10, 4*sigma)
	}
	stop := make(chan struct{})
	lost := make(chan map[string]int)
	go func() {
		all := map[string]int{}
		for {
			select {
			case <-stop:
				lost <- all
				return
			default:
				for who, k := range counts(c, 64) {
					all[who] += k
				}
			}
		}
	}()
	for i := range 10 {
		weight := i % 2 * 100
		m.Write("mesh.yaml", fmt.Sprintf(shop, "")+"\n---\n"+routeTo("canary", fmt.Sprintf(`
  - backendRefs: [{name: one, port: 80, weight: %d}, {name: two, port: 80, weight: %d}]`, 100-weight, weight)))
		only := []string{"v1", "v2"}[i%2]
		until(t, "all to "+only, func() bool { return counts(c, 20)[only] == 20 })
	}
	close(stop)
	all := <-lost
	if all["v1"]+all["v2"] == 0 || len(all) > 2 {
		t.Errorf("while weights changed: %v", all)
	}
	t.Logf("while weights changed ten times: %v", all)
}

// TestRoutesByWhatIsAsked is a row for each way to tell requests apart, and to change them.
func TestRoutesByWhatIsAsked(t *testing.T) {
	m := up(t, "", routeTo("beta", `
  - matches: [{headers: [{name: x-group, value: beta}]}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{headers: [{type: RegularExpression, name: cookie, value: "(.*; )?group=beta(;.*)?"}]}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /v2}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-route, value: v2}], remove: [x-secret]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-answered-by, value: waypoint}]}}
    backendRefs: [{name: two, port: 80}]
  - matches: [{path: {type: Exact, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 301}}]
  - matches: [{path: {type: Exact, value: /broken}}]
    backendRefs: [{name: nowhere, port: 80}]
  - backendRefs: [{name: one, port: 80}]`))
	c := payClient(m, "shop/web")
	for _, tt := range []struct {
		name, path string
		headers    []string
		status     int
		service    string
	}{
		{"default", "/", nil, 200, "v1"},
		{"header", "/", []string{"X-Group", "beta"}, 200, "v2"},
		{"another value", "/", []string{"X-Group", "alpha"}, 200, "v1"},
		{"cookie", "/", []string{"Cookie", "a=b; group=beta"}, 200, "v2"},
		{"prefix", "/v2/x", nil, 200, "v2"},
		{"no whole element", "/v2x", nil, 200, "v1"},
		{"dots that lead elsewhere", "/a/../v2/x", nil, 200, "v2"},
		{"redirect", "/old", nil, 301, ""},
		{"broken", "/broken", nil, 500, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, e := get(t, c, tt.path, tt.headers...)
			if res.StatusCode != tt.status || e.Service != tt.service {
				t.Errorf("%d by %q, want %d by %q", res.StatusCode, e.Service, tt.status, tt.service)
			}
		})
	}
	res, e := get(t, c, "/v2/x?y=1", "X-Secret", "s")
	if e.URL != "/x?y=1" || len(e.Headers["X-Route"]) != 1 || len(e.Headers["X-Secret"]) != 0 || res.Header.Get("X-Answered-By") != "waypoint" {
		t.Errorf("rewritten: %+v %v", e, res.Header)
	}
	if res, _ := get(t, c, "/old"); res.Header.Get("Location") != "http://pay.shop/new" {
		t.Errorf("redirected to %q", res.Header.Get("Location"))
	}
	if status := m.Agentctl("status"); !strings.Contains(status.Out+status.Err, "nowhere") {
		t.Errorf("nobody is told of the backend that is not there:\n%s", status.Out)
	}
}

// TestRetriesHideAFailingReplica: one of two replicas does not listen any more, and nobody notices.
func TestRetriesHideAFailingReplica(t *testing.T) {
	m := up(t, "", routeTo("retry", `
  - retry: {attempts: 2, codes: [500, 502, 503, 504]}
    backendRefs: [{name: pay, port: 80}]`))
	c := payClient(m, "shop/web")
	if by := counts(c, 200); by["v1"] == 0 || by["v2"] == 0 || len(by) != 2 {
		t.Fatalf("with both replicas: %v", by)
	}
	procs, err := m.PodProcesses("shop/pay-v2")
	if err != nil {
		t.Fatal(err)
	}
	kill(t, procs)
	if by := counts(c, 400); by["v1"] != 400 {
		t.Errorf("with one that does not listen: %v", by)
	}
}

// TestTrafficPolicies: a fault is made, a client is limited while another is not.
func TestTrafficPolicies(t *testing.T) {
	m := up(t, "", `
apiVersion: warren.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: pay, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: pay}]
  fault:
    abort: {percent: 100, status: 418}
    headers: [{name: x-fault, value: "yes"}]
  rateLimits: [{name: each, by: Identity, requests: 5, period: 1h, headers: [{name: x-limited, value: "yes"}]}]
`)
	web, guest := payClient(m, "shop/web"), payClient(m, "shop/guest")
	if res, _ := get(t, web, "/", "X-Fault", "yes"); res.StatusCode != http.StatusTeapot {
		t.Errorf("a fault is answered %d", res.StatusCode)
	}
	if by := counts(web, 20, "X-Limited", "yes"); by["429"] != 15 {
		t.Errorf("20 requests of which 5 may pass: %v", by)
	}
	res, _ := get(t, web, "/", "X-Limited", "yes")
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
		t.Errorf("limited: %d %v", res.StatusCode, res.Header)
	}
	if res, _ := get(t, guest, "/", "X-Limited", "yes"); res.StatusCode != http.StatusOK {
		t.Errorf("another client: %d", res.StatusCode)
	}
	if res, _ := get(t, web, "/"); res.StatusCode != http.StatusOK {
		t.Errorf("without the header: %d", res.StatusCode)
	}
	f := m.AwaitFlow("a limited request", &adminv1.FlowsRequest{From: "shop/web"}, func(f *adminv1.Flow) bool { return f.GetHttp().GetStatus() == 429 })
	if f.GetHttp().GetOutcome() != "rate_limited" {
		t.Errorf("its flow: %v", f)
	}
}

// TestMirrorSeesItsCopy: each request is answered once and seen twice.
func TestMirrorSeesItsCopy(t *testing.T) {
	m := up(t, "", routeTo("mirror", `
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: seen, port: 80}}}]
    backendRefs: [{name: one, port: 80}]`), `
apiVersion: v1
kind: Service
metadata: {name: seen, namespace: shop}
spec: {selector: {app: guest}, ports: [{name: http, port: 80, targetPort: 8090}]}
`)
	l, err := m.ListenIn("shop/guest", ":8090")
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Int64
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-For") != "" {
			seen.Add(1)
		}
	})}
	go func() { _ = server.Serve(l) }() // it ends with the test
	t.Cleanup(func() { _ = server.Close() })
	const n = 50
	if by := counts(payClient(m, "shop/web"), n); by["v1"] != n {
		t.Fatalf("answered by %v", by)
	}
	labtest.Await(t, "a copy of each", 10*time.Second, func() bool { return seen.Load() >= n })
	if got := seen.Load(); got != n {
		t.Errorf("%d copies of %d requests", got, n)
	}
}

// TestAuthorizationReadsRequests: a policy on methods and paths is held against the true client.
func TestAuthorizationReadsRequests(t *testing.T) {
	m := up(t, "", `
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: pay}]
  rules:
  - from: [{source: {serviceAccounts: [web]}}]
  - to: [{operation: {methods: [GET], paths: [/public/*]}}]
`)
	web, guest := payClient(m, "shop/web"), payClient(m, "shop/guest")
	for _, tt := range []struct {
		name   string
		client *http.Client
		path   string
		status int
	}{
		{"web anywhere", web, "/private", 200},
		{"guest where all may", guest, "/public/x", 200},
		{"guest elsewhere", guest, "/private", 403},
		{"guest by a detour", guest, "/public/../private", 403},
		{"guest by an escaped detour", guest, "/public/%2e%2e/private", 403},
	} {
		if res, _ := get(t, tt.client, tt.path); res.StatusCode != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, res.StatusCode, tt.status)
		}
	}
	f := m.AwaitFlow("a denied request", &adminv1.FlowsRequest{From: "shop/guest"}, func(f *adminv1.Flow) bool { return f.GetHttp().GetStatus() == 403 })
	if !strings.Contains(f.GetRule(), "shop/readers") {
		t.Errorf("the denial does not name its rule: %v", f)
	}
}

// TestAPolicyOfAServiceHoldsForItsPodsToo: what targets a service is held against who dials one of its pods as well, by
// address or by another service.
func TestAPolicyOfAServiceHoldsForItsPodsToo(t *testing.T) {
	m := up(t, "", `
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-only, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: pay}]
  rules:
  - from: [{source: {serviceAccounts: [web]}}]
`)
	addrs, err := m.PodAddrs("shop/pay-v1")
	if err != nil {
		t.Fatal(err)
	}
	for name, address := range map[string]string{
		"by the service": m.VIP("shop/pay", 80), "by address": net.JoinHostPort(addrs[0].String(), "8080"), "by another service": m.VIP("shop/one", 80),
	} {
		for pod, want := range map[string]int{"shop/web": 200, "shop/guest": 403} {
			if res, _ := get(t, m.Client(pod, address), "/"); res.StatusCode != want {
				t.Errorf("%s %s: %d, want %d", pod, name, res.StatusCode, want)
			}
		}
	}
}
