package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// asker answers for an external authorizer, and keeps what it was asked.
type asker struct {
	asked  []Question
	answer func(Question) (Answer, error)
}

func (a *asker) Check(_ context.Context, q Question) (Answer, error) {
	a.asked = append(a.asked, q)
	return a.answer(q)
}

func custom(name, path string, by policy.ExternalAuthorizer) *policy.Policy {
	return &policy.Policy{
		Namespace: "shop", Name: name, Action: policy.Custom, Targets: []string{"Service shop/web"}, External: &by,
		Rules: []policy.Rule{{To: []policy.Operation{{Paths: []string{path}}}}},
	}
}

func TestAnExternalAuthorizerIsAskedOnceAndHeard(t *testing.T) {
	ext := &asker{answer: func(q Question) (Answer, error) {
		switch q.Path {
		case "/no":
			return Answer{Status: 402, Header: http.Header{"x-why": {"money"}, "Connection": {"close"}}, Body: "pay"}, nil
		case "/down":
			return Answer{}, errors.New("dial 10.9.9.9: refused")
		}
		query := "by=authorizer"
		return Answer{Allowed: true, Query: &query, AnswerHeader: http.Header{"X-Allowed-By": {"authorizer"}}, Change: route.HeaderModifier{
			Set: []route.Header{{Name: "X-User", Value: "alice"}, {Name: "Host", Value: "evil"}}, Remove: []string{"Cookie"},
		}}, nil
	}}
	r := newRig(t, echo())
	r.cfg.External = ext
	by := policy.ExternalAuthorizer{Service: "shop/authz", Port: 9000, MaxBodyBytes: 4}
	r.workloads[0].Policies = []string{"shop/both"}
	both := custom("both", "*", by)
	both.Targets = nil
	r.policies = []*policy.Policy{custom("first", "*", by), both}
	r.start()
	for _, row := range []struct {
		path    string
		status  int
		outcome exchange.Outcome
	}{{"/yes", 200, exchange.Answered}, {"/no", 402, exchange.Denied}, {"/down", 403, exchange.Denied}} {
		ext.asked = nil
		req, _ := http.NewRequest("POST", "http://web.shop"+row.path, strings.NewReader("the body"))
		req.Header.Set("X-User", "mallory")
		req.Header.Set("Cookie", "a=b")
		res, body := r.do(r.client(false), req)
		rec := r.record()
		if res.StatusCode != row.status || rec.Outcome != row.outcome || len(ext.asked) != 1 || strings.Contains(body, "10.9") {
			t.Fatalf("%s: %d %q, %s, asked %d times", row.path, res.StatusCode, body, rec.Outcome, len(ext.asked))
		}
		if q := ext.asked[0]; string(q.Body) != "the " || !q.Partial || q.By != by || q.Conn.Client.String() != clientID {
			t.Errorf("%s: asked %+v", row.path, q)
		}
		if row.status == 402 && (body != "pay" || res.Header.Get("X-Why") != "money") {
			t.Errorf("the refusal is %q, %v", body, res.Header)
		}
		if row.status == 200 {
			if s := saw(t, body); s.Header.Get("X-User") != "alice" || s.Header.Get("Cookie") != "" || s.Body != "the body" || s.Host != "web.shop" ||
				s.URI != "/yes?by=authorizer" || res.Header.Get("X-Allowed-By") != "authorizer" {
				t.Errorf("the backend saw %+v, the client %v", s, res.Header)
			}
		}
	}
}

// TestWhatAnEndpointsAuthorizerAddsIsThereOnce: it is asked when the request is made already, and every try has its change.
func TestWhatAnEndpointsAuthorizerAddsIsThereOnce(t *testing.T) {
	var seen [][]string
	backend := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		seen = append(seen, q.Header["X-Added"])
		if len(seen) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	r := newRig(t, backend)
	r.cfg.External = &asker{answer: func(Question) (Answer, error) {
		return Answer{Allowed: true, Change: route.HeaderModifier{Add: []route.Header{{Name: "X-Added", Value: "b"}}}}, nil
	}}
	r.workloads[0].Policies = []string{"shop/own"}
	own := custom("own", "*", policy.ExternalAuthorizer{Service: "shop/authz", Port: 9000})
	own.Targets = nil
	r.policies = []*policy.Policy{own}
	r.route(route.Rule{Backends: to("shop/web"), Retry: &route.Retry{Attempts: 1, Codes: []int{503}}}).start()
	if res, _ := r.get("/", func(q *http.Request) { q.Header.Set("X-Added", "a") }); res.StatusCode != 200 {
		t.Fatalf("got %d", res.StatusCode)
	}
	for i, got := range seen {
		if !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("try %d has %q", i+1, got)
		}
	}
	if len(seen) != 2 {
		t.Errorf("%d tries, want 2", len(seen))
	}
}

func TestWithoutAnAuthorizerCustomPoliciesDeny(t *testing.T) {
	r := newRig(t, echo())
	r.policies = []*policy.Policy{custom("p", "/x", policy.ExternalAuthorizer{Service: "shop/authz", Port: 9000})}
	r.start()
	if res, _ := r.get("/x"); res.StatusCode != 403 {
		t.Errorf("got %d", res.StatusCode)
	}
	if res, _ := r.get("/y"); res.StatusCode != 200 {
		t.Errorf("what does not match got %d", res.StatusCode)
	}
}

func TestABackendsOwnPoliciesCountToo(t *testing.T) {
	r := newRig(t, named("web"))
	r.service("shop/v2", "", named("v2"))
	r.policies = []*policy.Policy{{Namespace: "shop", Name: "v2", Action: policy.Deny, Targets: []string{"Service shop/v2"},
		Rules: []policy.Rule{{To: []policy.Operation{{Methods: []string{"GET"}}}}}}}
	r.route(route.Rule{Backends: to("shop/v2")}).start()
	if res, _ := r.get("/"); res.StatusCode != 403 {
		t.Errorf("got %d", res.StatusCode)
	}
}

func TestASessionStaysWithItsEndpoint(t *testing.T) {
	r := newRig(t, named("a"), named("b"), named("c"))
	r.service("shop/v2", "", named("d"), named("e"))
	r.route(route.Rule{Backends: to("shop/web", "shop/v2"), Session: &route.Session{Name: "stay", Cookie: true}}).start()
	res, first := r.get("/")
	cookies := res.Cookies()
	if len(cookies) != 1 || cookies[0].Name != "stay" {
		t.Fatalf("cookies: %v", cookies)
	}
	for range 20 {
		if _, body := r.get("/", func(q *http.Request) { q.AddCookie(cookies[0]) }); body != first {
			t.Fatalf("began at %s, came to %s", first, body)
		}
	}
}

type placed struct{ injected *[]string }

func (p placed) Inject(h http.Header) string {
	h.Set("Traceparent", "00-1-2-01")
	*p.injected = append(*p.injected, h.Get("Traceparent"))
	return "span"
}
func (placed) Silent() bool                { return false }
func (placed) Describe(r *exchange.Record) { r.TraceID, r.Sampled = "trace", true }

func TestEveryTryHasItsSpan(t *testing.T) {
	var injected []string
	backend, _ := failing(1, 503)
	r := newRig(t, backend)
	started := 0
	r.cfg.Tracer = func(*http.Request, *exchange.Conn) Trace { started++; return placed{&injected} }
	r.route(route.Rule{Backends: to("shop/web"), Retry: &route.Retry{Codes: []int{503}, Attempts: 1}}).start()
	r.get("/")
	rec := r.record()
	if started != 1 || rec.TraceID != "trace" || len(injected) != 2 || len(rec.Tries) != 2 || rec.Tries[1].SpanID != "span" {
		t.Errorf("started %d, injected %d, record %+v", started, len(injected), rec)
	}
}

// TestHTTP2IsReadAsStrictly sends header blocks that no client library would.
func TestHTTP2IsReadAsStrictly(t *testing.T) {
	backend := &counter{}
	r := newRig(t, backend).start()
	for _, row := range []struct {
		name   string
		fields []hpack.HeaderField
		status string
		passes int
	}{
		{"plain", h2("GET", "/a", "w"), "200", 1},
		{"the same host twice", h2("GET", "/a", "w", "host", "w"), "200", 1},
		{"another host", h2("GET", "/a", "w", "host", "v"), "400", 0},
		{"two hosts", h2("GET", "/a", "w", "host", "w", "host", "w"), "400", 0},
		{"a user", h2("GET", "/a", "me@w"), "400", 0},
		{"dots with a parameter", h2("GET", "/..;/a", "w"), "400", 0},
		{"an escaped slash", h2("GET", "/a%2fb", "w"), "400", 0},
		{"a fragment", h2("GET", "/a#b", "w"), "400", 0},
		{"a path without a slash", h2("GET", "a", "w"), "RST", 0},
		{"a hop-by-hop header", h2("GET", "/a", "w", "connection", "x"), "400", 0},
		{"a coding", h2("POST", "/a", "w", "transfer-encoding", "chunked"), "400", 0},
	} {
		status := askH2(t, r.addr, row.fields)
		passed := len(backend.take())
		if status != row.status && (row.passes > 0 || status == "200") || passed != row.passes {
			t.Errorf("%s: %s, want %s; the backend saw %d", row.name, status, row.status, passed)
		}
	}
}

func h2(method, path, authority string, more ...string) []hpack.HeaderField {
	list := []hpack.HeaderField{
		{Name: ":method", Value: method}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path}, {Name: ":authority", Value: authority},
	}
	for i := 0; i < len(more); i += 2 {
		list = append(list, hpack.HeaderField{Name: more[i], Value: more[i+1]})
	}
	return list
}

// askH2 sends one request and returns its status, or how it ended.
func askH2(t *testing.T, addr string, fields []hpack.HeaderField) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte(http2.ClientPreface))
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = f.WriteSettings()
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for _, field := range fields {
		_ = enc.WriteField(field)
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true})
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "RST"
		case *http2.GoAwayFrame:
			return "GOAWAY"
		}
	}
}

func TestAMirrorGetsWhatAnAuthorizerReadFirst(t *testing.T) {
	copies := &collector{got: make(chan struct{}, 1)}
	r := newRig(t, echo())
	r.service("shop/copy", "", copies)
	r.cfg.External = &asker{answer: func(Question) (Answer, error) { return Answer{Allowed: true}, nil }}
	r.policies = []*policy.Policy{custom("p", "*", policy.ExternalAuthorizer{Service: "shop/authz", Port: 9000, MaxBodyBytes: 8})}
	r.route(route.Rule{Backends: to("shop/web"), Filters: route.Filters{Mirrors: []route.Mirror{{Service: "shop/copy", Port: 80}}}}).start()
	req, _ := http.NewRequest("POST", "http://web.shop/", strings.NewReader("more than eight bytes"))
	_, body := r.do(r.client(true), req)
	<-copies.got
	if saw(t, body).Body != "more than eight bytes" || copies.bodies[0] != "more than eight bytes" {
		t.Errorf("the backend got %s, the mirror %q", body, copies.bodies)
	}
}
