package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/route"
)

// moody answers with a status that the test sets.
type moody struct{ status atomic.Int32 }

func (m *moody) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(int(m.status.Load()))
}

// moodyField has n endpoints p0, p1 and so on that answer 200 until told otherwise.
func moodyField(t *testing.T, n int) (*field, []*moody) {
	f := newField(t)
	all := make([]*moody, n)
	for i := range all {
		all[i] = &moody{}
		all[i].status.Store(200)
		f.pod(fmt.Sprint("p", i), fmt.Sprintf("10.0.0.%d", i+1), all[i])
	}
	f.publish()
	return f, all
}

func (f *field) watched(o route.Outlier) Ask {
	a := f.ask()
	a.Traffic.Outlier = &o
	a.Traffic.LoadBalancing = &route.LoadBalancing{Kind: route.RoundRobin}
	return a
}

// send sends requests, and returns how often each endpoint was chosen.
func (f *field) send(n int, a Ask) map[string]int {
	got := map[string]int{}
	for range n {
		p := f.pick(a)
		got[p.Endpoint.Workload.Name]++
		if res, err := p.RoundTrip(get("/")); err == nil {
			_ = res.Body.Close()
		}
	}
	return got
}

func TestEndpointThatFailsIsLeftOutForLongerEachTime(t *testing.T) {
	f, all := moodyField(t, 3)
	a := f.watched(route.Outlier{
		ConsecutiveErrors: 4, BaseEjection: 10 * time.Second, MaxEjection: 25 * time.Second, MaxEjectedPercent: 50,
	})
	all[1].status.Store(503)
	if got := f.send(60, a); got["p1"] != 4 {
		t.Errorf("chosen %v, want p1 four times", got)
	}
	if n := f.metric("warren_waypoint_endpoints", "ejected"); n != 1 {
		t.Errorf("%v endpoints are told as left out, want 1", n)
	}
	for i, lasts := range []time.Duration{10 * time.Second, 20 * time.Second, 25 * time.Second, 25 * time.Second} {
		f.pass(lasts - time.Second)
		if got := f.send(30, a); got["p1"] != 0 {
			t.Fatalf("ejection %d did not last %v: %v", i+1, lasts, got)
		}
		f.pass(time.Second)
		if got := f.send(30, a); got["p1"] != 1 {
			t.Fatalf("after ejection %d p1 was chosen %d times, want one try", i+1, got["p1"])
		}
	}
	all[1].status.Store(200)
	f.pass(25 * time.Second)
	if got := f.send(30, a); got["p1"] != 10 {
		t.Errorf("p1 is well again, and chosen %v", got)
	}
	for range 5 { // what it did is forgiven step by step
		f.pass(30 * time.Second)
		f.send(3, a)
	}
	all[1].status.Store(500)
	f.send(30, a)
	f.pass(10 * time.Second)
	if got := f.send(30, a); got["p1"] != 1 {
		t.Errorf("after a long time of health p1 was not left out for the base time: %v", got)
	}
}

func TestSuccessInBetweenEndsTheRow(t *testing.T) {
	f, all := moodyField(t, 2)
	a := f.watched(route.Outlier{ConsecutiveErrors: 3, MaxEjectedPercent: 50})
	for range 10 {
		all[0].status.Store(500)
		f.send(4, a)
		all[0].status.Store(404) // is an answer
		f.send(2, a)
	}
	if got := f.send(10, a); got["p0"] != 5 {
		t.Errorf("chosen %v, want both", got)
	}
}

func TestNeverTooManyAreLeftOutAndNeverAll(t *testing.T) {
	tests := []struct{ endpoints, percent, want int }{
		{1, 100, 0}, {2, 100, 1}, {2, 10, 1}, {10, 10, 1}, {10, 30, 3}, {10, 100, 9}, {5, 39, 1}, {5, 40, 2}, {3, 0, 1},
	}
	for _, tt := range tests {
		f, all := moodyField(t, tt.endpoints)
		for _, m := range all {
			m.status.Store(500)
		}
		f.send(tt.endpoints*10, f.watched(route.Outlier{ConsecutiveErrors: 2, MaxEjectedPercent: tt.percent}))
		if n := f.metric("warren_waypoint_endpoints", "ejected"); n != float64(tt.want) {
			t.Errorf("%v of %d endpoints are left out at %d%%, want %d", n, tt.endpoints, tt.percent, tt.want)
		}
	}
}

func TestIfAllThatAreReadyAreLeftOutTheyAreUsed(t *testing.T) {
	f, all := moodyField(t, 3)
	all[0].status.Store(500)
	a := f.watched(route.Outlier{ConsecutiveErrors: 1, MaxEjectedPercent: 50})
	f.send(10, a)
	f.endpoint("p1").Ready, f.endpoint("p2").Ready = false, false
	f.publish()
	if got := f.send(5, a); got["p0"] != 5 {
		t.Errorf("chosen %v, want what there is", got)
	}
}

func TestEndpointThatCannotBeReachedIsLeftOut(t *testing.T) {
	f, _ := moodyField(t, 2)
	f.at("10.0.0.1", "")
	a := f.watched(route.Outlier{ConsecutiveErrors: 3, MaxEjectedPercent: 50})
	if got := f.send(40, a); got["p0"] != 3 {
		t.Errorf("chosen %v, want p0 three times", got)
	}
	if n := f.metric("warren_waypoint_ejections_total", "unanswered"); n != 1 {
		t.Errorf("%v ejections are counted, want 1", n)
	}
}

func TestGRPCStatusOfTheTrailerCounts(t *testing.T) {
	for status, want := range map[string]bool{"0": false, "5": false, "13": true, "14": true} {
		for name, h := range map[string]http.HandlerFunc{
			"trailer": func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/grpc")
				w.Header().Set("Trailer", "Grpc-Status")
				_, _ = io.WriteString(w, "message")
				w.Header().Set("Grpc-Status", status)
			},
			"header only": func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/grpc+proto")
				w.Header().Set("Grpc-Status", status)
			},
		} {
			f := newField(t)
			f.pod("a", "10.0.0.1", h)
			f.pod("b", "10.0.0.2", nil)
			f.publish()
			a := f.watched(route.Outlier{ConsecutiveErrors: 2, MaxEjectedPercent: 50})
			a.HTTP2, a.Tried = true, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:8080")}
			for range 2 {
				if _, err := f.do(a, get("/")); err != nil {
					t.Fatal(err)
				}
			}
			if got := f.metric("warren_waypoint_ejections_total", "grpc") == 1; got != want {
				t.Errorf("%s with status %s: left out %v, want %v", name, status, got, want)
			}
		}
	}
}

func TestAnswerThatBreaksOffIsAFailure(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	f.pod("b", "10.0.0.2", nil)
	rude(t, f, "10.0.0.1", func(_ int, c net.Conn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
	})
	f.publish()
	a := f.watched(route.Outlier{ConsecutiveErrors: 1, MaxEjectedPercent: 50})
	a.Tried = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:8080")}
	if _, err := f.do(a, get("/")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
	if f.metric("warren_waypoint_ejections_total", "broken") != 1 {
		t.Error("the endpoint was not left out")
	}
}

// TestClientsCannotHaveEndpointsLeftOut sends what fails by the client's own doing.
func TestClientsCannotHaveEndpointsLeftOut(t *testing.T) {
	hang := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	own := func(r *http.Request) (*http.Request, func()) {
		ctx, cancel := context.WithTimeoutCause(r.Context(), 20*time.Millisecond, ErrClientDeadline)
		return r.WithContext(ctx), cancel
	}
	tests := []struct {
		name    string
		request func() (*http.Request, func())
	}{
		{"it goes away", func() (*http.Request, func()) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(20*time.Millisecond, cancel)
			return get("/").WithContext(ctx), cancel
		}},
		{"its own deadline passes", func() (*http.Request, func()) { return own(get("/")) }},
		{"its body breaks off", func() (*http.Request, func()) {
			r := get("/")
			r.Method, r.ContentLength = http.MethodPost, 100
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), broken{}))
			return r, func() {}
		}},
		{"its body is shorter than it says", func() (*http.Request, func()) {
			r := get("/")
			r.Method, r.ContentLength, r.Body = http.MethodPost, 100, io.NopCloser(strings.NewReader("half"))
			return r, func() {}
		}},
		{"its header cannot be sent", func() (*http.Request, func()) {
			r := get("/")
			r.Header["Bad Name"] = []string{"x"}
			return own(r)
		}},
		{"its header cannot be sent by HTTP/2", func() (*http.Request, func()) {
			r := get("/")
			r.Header["Upgrade"] = []string{"other"}
			return own(r)
		}},
	}
	for _, tt := range tests {
		for _, protocol := range protocols {
			t.Run(tt.name+" "+protocol.name, func(t *testing.T) {
				f := newField(t)
				f.pod("a", "10.0.0.1", hang)
				f.pod("b", "10.0.0.2", hang)
				f.publish()
				a := f.watched(route.Outlier{ConsecutiveErrors: 1, MaxEjectedPercent: 50})
				a.HTTP2 = protocol.http2
				for range 4 {
					r, done := tt.request()
					_, err := f.do(a, r)
					if err == nil {
						t.Error("it did not fail")
					}
					known := errors.Is(err, ErrUnsendable) || errors.Is(err, ErrClientDeadline)
					if strings.Contains(tt.name, "header") && !known {
						t.Errorf("error %v, want ErrUnsendable", err)
					}
					done()
				}
				if n := f.metric("warren_waypoint_endpoints", "ejected"); n != 0 {
					t.Errorf("%v endpoints are left out", n)
				}
			})
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestRouteTimeoutIsTheEndpointsFailure(t *testing.T) {
	f := newField(t)
	for _, addr := range []string{"10.0.0.1", "10.0.0.2"} {
		f.pod("p"+addr[7:], addr, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	}
	f.publish()
	a := f.watched(route.Outlier{ConsecutiveErrors: 1, MaxEjectedPercent: 50})
	ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, errors.New("the route's timeout"))
	defer cancel()
	if _, err := f.do(a, get("/").WithContext(ctx)); err == nil {
		t.Error("it did not fail")
	}
	if n := f.metric("warren_waypoint_endpoints", "ejected"); n != 1 {
		t.Errorf("%v endpoints are left out, want 1", n)
	}
}
