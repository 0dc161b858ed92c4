package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// failing answers a status the first n times, and then what it was sent.
func failing(n int64, status int) (http.Handler, *atomic.Int64) {
	asked := new(atomic.Int64)
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		if asked.Add(1) <= n {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "not now")
			return
		}
		_, _ = w.Write(b)
	}), asked
}

func dying() (http.Handler, *atomic.Int64) {
	asked := new(atomic.Int64)
	return http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		asked.Add(1)
		_, _ = io.Copy(io.Discard, q.Body)
		panic(http.ErrAbortHandler)
	}), asked
}

func TestAReplicaThatCannotBeReachedIsHidden(t *testing.T) {
	r := newRig(t, nil, echo()).start()
	for _, http2 := range []bool{false, true} {
		for range 20 {
			req, _ := http.NewRequest("POST", "http://web.shop/", strings.NewReader("body"))
			res, body := r.do(r.client(http2), req)
			if res.StatusCode != 200 || saw(t, body).Body != "body" {
				t.Fatalf("%d %q", res.StatusCode, body)
			}
			rec := r.record()
			if last := rec.Tries[len(rec.Tries)-1]; len(rec.Tries) > 2 || last.Status != 200 || len(rec.Tries) == 2 && rec.Tries[0].Err == "" {
				t.Fatalf("tries: %+v", rec.Tries)
			}
		}
	}
}

func TestNothingThatMayHaveBeenSeenIsSentAgainUnlessTheRouteSaysSo(t *testing.T) {
	backend, asked := dying()
	r := newRig(t, backend).start()
	for _, method := range []string{"POST", "GET"} {
		for _, http2 := range []bool{false, true} {
			asked.Store(0)
			req, _ := http.NewRequest(method, "http://web.shop/", nil)
			res, body := r.do(r.client(http2), req)
			rec := r.record()
			if res.StatusCode != 502 || rec.Outcome != exchange.Unreachable || asked.Load() != 1 || strings.Contains(body, "127.0") {
				t.Errorf("%s: %d %q, asked %d times, record %s", method, res.StatusCode, body, asked.Load(), rec.Outcome)
			}
		}
	}
}

func TestARoutesRetries(t *testing.T) {
	big := strings.Repeat("x", maxKeep+1)
	for _, row := range []struct {
		name    string
		fails   int64
		status  int
		retry   *route.Retry
		body    string
		want    int
		asked   int64
		outcome exchange.Outcome
	}{
		{"a code that is named", 2, 503, &route.Retry{Codes: []int{503}, Attempts: 2, Backoff: time.Millisecond}, "body", 200, 3, exchange.Answered},
		{"too many of them", 9, 503, &route.Retry{Codes: []int{503}, Attempts: 2, Backoff: time.Millisecond}, "body", 503, 3, exchange.Answered},
		{"a code that is not", 2, 500, &route.Retry{Codes: []int{503}, Attempts: 2, Backoff: time.Millisecond}, "body", 500, 1, exchange.Answered},
		{"no retries", 2, 503, nil, "body", 503, 1, exchange.Answered},
		{"a body that is too large", 2, 503, &route.Retry{Codes: []int{503}, Attempts: 2, Backoff: time.Millisecond}, big, 503, 1, exchange.Answered},
		{"a body that is just small enough", 1, 503, &route.Retry{Codes: []int{503}, Attempts: 1, Backoff: time.Millisecond}, big[1:], 200, 2, exchange.Answered},
	} {
		t.Run(row.name, func(t *testing.T) {
			backend, asked := failing(row.fails, row.status)
			r := newRig(t, backend)
			r.route(route.Rule{Backends: to("shop/web"), Retry: row.retry}).start()
			for _, http2 := range []bool{false, true} {
				asked.Store(0)
				req, _ := http.NewRequest("POST", "http://web.shop/", strings.NewReader(row.body))
				res, body := r.do(r.client(http2), req)
				rec := r.record()
				if res.StatusCode != row.want || asked.Load() != row.asked || len(rec.Tries) != int(row.asked) || rec.Outcome != row.outcome {
					t.Errorf("HTTP/2 %t: %d, asked %d times, %d tries, %s", http2, res.StatusCode, asked.Load(), len(rec.Tries), rec.Outcome)
				}
				if row.want == 200 && body != row.body || row.want != 200 && body != "not now" {
					t.Errorf("HTTP/2 %t: the body is %.20q of %d bytes", http2, body, len(body))
				}
			}
			if left := r.proxy.kept.left.Load(); left != maxKept {
				t.Errorf("%d bytes were not given back", maxKept-left)
			}
		})
	}
}

func TestARouteMayHaveLostRequestsSentAgain(t *testing.T) {
	dead, asked := dying()
	r := newRig(t, dead, named("alive"))
	r.route(route.Rule{Backends: to("shop/web"), Retry: &route.Retry{Attempts: 3, Backoff: time.Millisecond}}).start()
	for range 20 {
		if res, body := r.get("/"); res.StatusCode != 200 || body != "alive" {
			t.Fatalf("%d %q", res.StatusCode, body)
		}
	}
	if asked.Load() == 0 {
		t.Error("the replica that fails was never asked")
	}
}

func TestARetryWaitsAtLeastAsTheRouteSays(t *testing.T) {
	backend, _ := failing(2, 503)
	r := newRig(t, backend)
	r.route(route.Rule{Backends: to("shop/web"), Retry: &route.Retry{Codes: []int{503}, Attempts: 2, Backoff: 40 * time.Millisecond}}).start()
	r.get("/")
	tries := r.record().Tries
	if len(tries) != 3 || tries[1].Start.Sub(tries[0].Start) < 40*time.Millisecond || tries[2].Start.Sub(tries[1].Start) < 80*time.Millisecond {
		t.Errorf("tries: %+v", tries)
	}
}

func TestTimeouts(t *testing.T) {
	slow := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/body" {
			_, _ = io.WriteString(w, "half")
			w.(http.Flusher).Flush()
		}
		select {
		case <-q.Context().Done():
		case <-time.After(5 * time.Second):
		}
	})
	for _, row := range []struct {
		name  string
		rule  route.Rule
		tries int
	}{
		{"the whole request", route.Rule{Timeout: 60 * time.Millisecond}, 1},
		{"one try", route.Rule{BackendTimeout: 60 * time.Millisecond}, 1},
		{"each try", route.Rule{BackendTimeout: 40 * time.Millisecond, Retry: &route.Retry{Attempts: 1, Backoff: time.Millisecond}}, 2},
		{"the whole request ends before its tries", route.Rule{
			Timeout: 100 * time.Millisecond, BackendTimeout: 60 * time.Millisecond, Retry: &route.Retry{Attempts: 9, Backoff: time.Millisecond}}, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t, slow)
			row.rule.Backends = to("shop/web")
			r.route(row.rule).start()
			began := time.Now()
			res, _ := r.get("/")
			rec := r.record()
			if res.StatusCode != 504 || rec.Outcome != exchange.TimedOut || len(rec.Tries) != row.tries || time.Since(began) > 2*time.Second {
				t.Errorf("%d after %s, record %s, tries %+v", res.StatusCode, time.Since(began), rec.Outcome, rec.Tries)
			}
			res, err := r.client(false).Get("http://web.shop/body")
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("%q looked whole", body)
			}
			if rec = r.record(); rec.Outcome != exchange.TimedOut || rec.Status != 200 {
				t.Errorf("record of the cut answer: %s %d", rec.Outcome, rec.Status)
			}
		})
	}
}

func TestWeightsAreKept(t *testing.T) {
	r := newRig(t)
	r.service("shop/v1", "", named("v1"))
	r.service("shop/v2", "", named("v2"))
	r.route(route.Rule{Backends: []route.Backend{{Service: "shop/v1", Port: 80, Weight: 90}, {Service: "shop/v2", Port: 80, Weight: 10}}}).start()
	got := map[string]int{}
	c := r.client(true)
	for range 2000 {
		req, _ := http.NewRequest("GET", "http://web.shop/", nil)
		_, body := r.do(c, req)
		got[body]++
	}
	if n := got["v2"]; n < 140 || n > 260 || got["v1"]+n != 2000 {
		t.Errorf("of 2000 requests with weights 90 and 10: %s", fmt.Sprint(got))
	}
}
