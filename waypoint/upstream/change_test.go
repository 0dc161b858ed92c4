package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestAddressThatAnotherPodTakesOverGetsNothingOfTheOld(t *testing.T) {
	for _, tt := range protocols {
		t.Run(tt.name, func(t *testing.T) {
			f := newField(t)
			f.pod("old", "10.0.0.1", says("old"))
			f.publish()
			ask := f.ask()
			ask.HTTP2 = tt.http2
			if got, err := f.do(ask, get("/")); got != "old" || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
			f.peerNamed("old").latency.observe(time.Hour, f.now())
			f.remove("old")
			f.pod("new", "10.0.0.1", says("new")) // the old one's server is there still
			f.publish()
			if got, err := f.do(ask, get("/")); got != "new" || err != nil {
				t.Errorf("%q, %v from the address's new pod", got, err)
			}
			if c := f.peerNamed("new").latency.cost(0, f.now()); c > float64(time.Minute) {
				t.Error("the new pod has the old one's latency")
			}
			eventually(t, "the old one's connection is closed", func() bool {
				return f.metric("warren_waypoint_endpoint_connections", "http") == 1
			})
		})
	}
}

func TestRequestsOfAnEndpointThatLeavesAreFinished(t *testing.T) {
	for _, tt := range protocols {
		t.Run(tt.name, func(t *testing.T) {
			f := newField(t)
			release := make(chan struct{})
			f.pod("a", "10.0.0.1", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "be")
				w.(http.Flusher).Flush()
				<-release
				_, _ = io.WriteString(w, "gun")
			}))
			f.publish()
			ask := f.ask()
			ask.HTTP2 = tt.http2
			res, err := f.pick(ask).RoundTrip(get("/"))
			if err != nil {
				t.Fatal(err)
			}
			late := f.pick(ask)
			f.remove("a")
			f.publish()
			eventually(t, "the endpoint is forgotten, and its connections after that", func() bool {
				f.u.mu.Lock()
				defer f.u.mu.Unlock()
				return len(f.u.peers) == 0 && late.entry.peer.pool(tt.http2).retired.Load()
			})
			if _, err := late.RoundTrip(get("/")); !errors.Is(err, ErrNotSent) {
				t.Errorf("error %v of a request that comes too late, want ErrNotSent", err)
			}
			close(release)
			if b, err := io.ReadAll(res.Body); string(b) != "begun" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			eventually(t, "its connection is closed", func() bool {
				return f.metric("warren_waypoint_endpoint_connections", "http") == 0
			})
		})
	}
}

func TestUnusedConnectionsAndServicesAreForgotten(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", says("a"))
	f.publish()
	for _, tt := range protocols {
		ask := f.ask()
		ask.HTTP2 = tt.http2
		if _, err := f.do(ask, get("/")); err != nil {
			t.Fatal(err)
		}
	}
	f.u.sweep(f.now().Add(idleTimeout - time.Second))
	if n := f.peerNamed("a").http1.open.Load() + f.peerNamed("a").http2.open.Load(); n != 2 {
		t.Errorf("%d connections before they are idle for long, want 2", n)
	}
	f.u.sweep(f.now().Add(idleTimeout + time.Second))
	eventually(t, "idle connections are closed", func() bool {
		return f.peerNamed("a").http1.open.Load()+f.peerNamed("a").http2.open.Load() == 0
	})
	f.u.sweep(f.now().Add(forgetAfter + 2*time.Second))
	f.u.mu.Lock()
	left := len(f.u.peers) + len(f.u.services) + len(*f.u.groups.Load())
	f.u.mu.Unlock()
	if left != 0 {
		t.Errorf("%d things are remembered of a service that nobody uses", left)
	}
	if got, err := f.do(f.ask(), get("/")); got != "a" || err != nil {
		t.Errorf("after all was forgotten: %q, %v", got, err)
	}
}

// TestSilentUpgradedConnectionIsNotTakenForUnused: whatever is swept, and whatever else changes in the world.
func TestSilentUpgradedConnectionIsNotTakenForUnused(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", http.HandlerFunc(echo))
	f.publish()
	req := get("/")
	req.Header.Set("Connection", "upgrade")
	req.Header.Set("Upgrade", "echo")
	res, err := f.pick(f.ask()).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	for _, later := range [...]time.Duration{sweepEvery, idleTimeout, forgetAfter, 24 * time.Hour} {
		f.u.sweep(f.now().Add(later + time.Second))
		f.pod("b"+later.String(), "10.0.0.2", nil)
		f.publish()
		f.u.refreshAll()
		f.remove("b" + later.String())
		f.publish()
		f.u.refreshAll()
		stream := res.Body.(io.ReadWriter)
		if _, err := io.WriteString(stream, "still there"); err != nil {
			t.Fatalf("after %s: %v", later, err)
		}
		got := make([]byte, len("still there"))
		if _, err := io.ReadFull(stream, got); err != nil || string(got) != "still there" {
			t.Fatalf("after %s: %q, %v", later, got, err)
		}
	}
}

// TestWorldChangesUnderLoadLoseNoRequest takes pods out of the world and back while requests run. Whoever was chosen
// and left before the request went out is told so, and may choose again.
func TestWorldChangesUnderLoadLoseNoRequest(t *testing.T) {
	f := newField(t)
	for i := range 4 {
		f.pod(fmt.Sprint("p", i), fmt.Sprintf("10.0.0.%d", i+1), says("ok"))
	}
	f.publish()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var sent, again atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ask := f.askNow(i%2 == 0)
				got, err := f.do(ask, get("/"))
				for tries := 0; errors.Is(err, ErrNotSent) && tries < 3; tries++ {
					again.Add(1)
					got, err = f.do(ask, get("/"))
				}
				if sent.Add(1); got != "ok" || err != nil {
					t.Errorf("%q, %v", got, err)
					return
				}
			}
		})
	}
	pods, endpoints := f.pods, f.svc.Endpoints
	for i := range 100 {
		n := 1 + i%4
		f.pods, f.svc.Endpoints = pods[:n:n], endpoints[:n:n]
		f.publish()
		time.Sleep(2 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	t.Logf("%d requests, %d chose again, %d connections", sent.Load(), again.Load(), f.dials.Load())
}

// askNow may be called while the field's pods change.
func (f *field) askNow(http2 bool) Ask {
	a := Ask{Port: 80, V4: true, Conn: client("z1"), Request: get("/"), HTTP2: http2}
	a.Service = f.store.Load().Mesh.ServiceNamed("shop/web")
	return a
}

func TestCloseEndsEverything(t *testing.T) {
	before := goleak.IgnoreCurrent()
	f := newField(t)
	f.pod("a", "10.0.0.1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	f.pod("b", "10.0.0.2", nil)
	f.publish()
	for i := range 10 {
		ask := f.ask()
		ask.HTTP2 = i%2 == 0
		p := f.pick(ask)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if res, err := p.RoundTrip(get("/").WithContext(ctx)); err == nil {
			defer func() { _, _ = io.Copy(io.Discard, res.Body); _ = res.Body.Close() }()
		}
	}
	f.u.Close()
	if _, err := f.u.Pick(f.ask()); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("error %v after Close", err)
	}
	f.u.wires.mu.Lock()
	if n := len(f.u.wires.open); n > 0 {
		t.Errorf("%d connections are open after Close", n)
	}
	f.u.wires.mu.Unlock()
	if err := goleak.Find(before, goleak.IgnoreAnyFunction("net/http.(*Server).Serve"),
		goleak.IgnoreAnyFunction("net/http.(*conn).serve")); err != nil {
		t.Error(err)
	}
}
