package proxy

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// echo answers with what it was asked.
func echo() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_ = json.NewEncoder(w).Encode(seen{
			Method: r.Method, Host: r.Host, URI: r.RequestURI, Header: r.Header, Body: string(body), Trailer: r.Trailer, Proto: r.Proto,
		})
	})
}

type seen struct {
	Method, Host, URI, Body, Proto string
	Header, Trailer                http.Header
}

func saw(t *testing.T, body string) (s seen) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	return s
}

func TestARequestGoesToTheServiceAndBack(t *testing.T) {
	r := newRig(t, echo()).start()
	for _, http2 := range []bool{false, true} {
		req, _ := http.NewRequest("POST", "http://web.shop/a//b/%61?q=1&r=%20", strings.NewReader("hello"))
		req.Header.Set("X-Test", "1")
		res, body := r.do(r.client(http2), req)
		s := saw(t, body)
		if res.StatusCode != 200 || s.Method != "POST" || s.Host != "web.shop" || s.URI != "/a/b/a?q=1&r=%20" || s.Body != "hello" {
			t.Errorf("got %d %+v", res.StatusCode, s)
		}
		if want := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2]; s.Proto != want {
			t.Errorf("the backend was spoken to in %s, want %s", s.Proto, want)
		}
		rec := r.record()
		if rec.Outcome != exchange.Answered || rec.Status != 200 || len(rec.Tries) != 1 || rec.BytesIn != 5 ||
			rec.BytesOut != uint64(len(body)) || rec.Backend != "shop/web" || rec.Path != "/a/b/a" {
			t.Errorf("record %+v", rec)
		}
	}
	r.nothingRecorded()
}

func TestWhatTheClientSaysAboutItselfIsReplaced(t *testing.T) {
	r := newRig(t, echo())
	r.cfg.ClientCertHeader = true
	r.start()
	_, body := r.get("/", func(q *http.Request) {
		for _, name := range []string{
			"X-Forwarded-For", "Forwarded", "X-Forwarded-Proto", "X-Forwarded-Client-Cert", "X-Warren-Anything", "X_Forwarded_For",
			"X-Forwarded-Host", "Client-Cert", "X-Real-Ip",
		} {
			q.Header[name] = []string{"forged"}
		}
	})
	s := saw(t, body)
	for name, values := range s.Header {
		if strings.Contains(strings.Join(values, ","), "forged") {
			t.Errorf("%s: %v reached the backend", name, values)
		}
	}
	for name, want := range map[string]string{
		"X-Forwarded-For": "10.0.9.9", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "web.shop",
		"Forwarded": "for=10.0.9.9;host=web.shop;proto=http",
	} {
		if got := s.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if cert := s.Header.Get("X-Forwarded-Client-Cert"); !strings.HasSuffix(cert, ";URI="+clientID) || !strings.HasPrefix(cert, "Hash=") {
		t.Errorf("X-Forwarded-Client-Cert is %q", cert)
	}
}

func TestHopByHopFieldsEndHere(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Connection", "X-Mine")
		w.Header().Set("X-Mine", "1")
		w.Header().Set("Keep-Alive", "timeout=1")
		echo().ServeHTTP(w, q)
	})).start()
	res, body := r.get("/", func(q *http.Request) {
		q.Header.Set("Connection", "x-secret, keep-alive")
		q.Header.Set("X-Secret", "1")
		q.Header.Set("Keep-Alive", "1")
		q.Header.Set("Te", "trailers, deflate")
	})
	s := saw(t, body)
	for _, name := range []string{"X-Secret", "Keep-Alive", "Connection"} {
		if s.Header.Get(name) != "" {
			t.Errorf("%s reached the backend", name)
		}
	}
	if s.Header.Get("Te") != "trailers" {
		t.Errorf("TE is %q", s.Header.Get("Te"))
	}
	for _, name := range []string{"X-Mine", "Keep-Alive"} {
		if res.Header.Get(name) != "" {
			t.Errorf("%s reached the client", name)
		}
	}
}

func TestWithRoutesOnlyWhatMatchesPasses(t *testing.T) {
	r := newRig(t, named("web"))
	r.service("shop/v2", "", named("v2"))
	r.service("shop/none", "")
	two := to("shop/v2")
	r.route(
		route.Rule{Name: "v2", Matches: []route.Match{{Path: "/v2"}}, Backends: two},
		route.Rule{Matches: []route.Match{{Path: "/missing"}}, Backends: to("shop/absent")},
		route.Rule{Matches: []route.Match{{Path: "/broken"}}, Backends: []route.Backend{{Service: "x/y", Port: 80, Weight: 1, Broken: "no grant"}}},
		route.Rule{Matches: []route.Match{{Path: "/nothing"}}, Backends: []route.Backend{{Service: "shop/v2", Port: 80}}},
		route.Rule{Matches: []route.Match{{Path: "/rule"}}, Broken: "a filter is unknown", Backends: two},
		route.Rule{Matches: []route.Match{{Path: "/empty"}}, Backends: to("shop/none")},
	).start()
	for _, row := range []struct {
		path    string
		status  int
		outcome exchange.Outcome
		rule    string
	}{
		{"/v2/x", 200, exchange.Answered, "v2"},
		{"/other", 404, exchange.NoRoute, ""},
		{"/missing", 500, exchange.Broken, "1"},
		{"/broken", 500, exchange.Broken, "2"},
		{"/nothing", 500, exchange.Broken, "3"},
		{"/rule", 500, exchange.Broken, "4"},
		{"/empty", 503, exchange.NoEndpoint, "5"},
	} {
		res, body := r.get(row.path)
		rec := r.record()
		if res.StatusCode != row.status || rec.Outcome != row.outcome || rec.Rule != row.rule || rec.Status != row.status {
			t.Errorf("%s: %d %q, record %s %q %d (%s)", row.path, res.StatusCode, body, rec.Outcome, rec.Rule, rec.Status, rec.Detail)
		}
		if strings.Contains(body, "10.") || strings.Contains(body, "shop/") {
			t.Errorf("%s: the answer tells too much: %q", row.path, body)
		}
	}
}

func TestThePortSaysWhatTheBackendSpeaks(t *testing.T) {
	r := newRig(t, echo())
	r.service("shop/two", "kubernetes.io/h2c", echo())
	r.service("shop/one", "http", echo())
	r.route(
		route.Rule{Matches: []route.Match{{Path: "/two"}}, Backends: to("shop/two")},
		route.Rule{Matches: []route.Match{{Path: "/one"}}, Backends: to("shop/one")},
	).start()
	for path, want := range map[string]string{"/two": "HTTP/2.0", "/one": "HTTP/1.1"} {
		for _, http2 := range []bool{false, true} {
			req, _ := http.NewRequest("PUT", "http://web.shop"+path, strings.NewReader("x"))
			_, body := r.do(r.client(http2), req)
			if s := saw(t, body); s.Proto != want || s.Body != "x" || s.Host != "web.shop" {
				t.Errorf("%s by HTTP/2 %t: %+v", path, http2, s)
			}
		}
	}
}

func TestAWorkloadCanBeDialledByItsOwnAddress(t *testing.T) {
	r := newRig(t, echo())
	r.workloads[0].Policies = []string{"shop/p"}
	r.policies = []*policy.Policy{{Namespace: "shop", Name: "p", Action: policy.Deny,
		Rules: []policy.Rule{{To: []policy.Operation{{Paths: []string{"/no"}}}}}}}
	r.byAddress = true
	r.start()
	if res, body := r.get("/yes"); res.StatusCode != 200 || saw(t, body).URI != "/yes" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	if rec := r.record(); rec.Outcome != exchange.Answered || rec.Backend != "" || rec.Tries[0].Endpoint != r.workloads[0] {
		t.Errorf("record: %+v", rec)
	}
	if res, _ := r.get("/no"); res.StatusCode != 403 {
		t.Errorf("what its policy denies got %d", res.StatusCode)
	}
}
