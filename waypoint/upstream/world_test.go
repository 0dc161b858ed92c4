package upstream

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// field is a mesh of one service, shop/web port 80, and what is needed to ask for it. Its pods' addresses lead to real
// servers on this machine.
type field struct {
	t     testing.TB
	u     *Upstreams
	store *mesh.Store[exchange.World]
	reg   *prometheus.Registry
	dials atomic.Int64
	ahead atomic.Int64 // of the clock, in nanoseconds
	away  atomic.Int64 // dials that find the node's agent away
	leave atomic.Int64 // connections up to this number are about to end

	mu      sync.Mutex
	servers map[netip.AddrPort]string
	version uint64
	svc     *mesh.Service
	pods    []*mesh.Workload
}

const targetPort = 8080

func newField(t testing.TB) *field {
	t.Helper()
	f := &field{t: t, servers: map[netip.AddrPort]string{}, reg: prometheus.NewRegistry()}
	f.svc = &mesh.Service{Namespace: "shop", Name: "web", Hostname: "web.shop",
		VIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Ports: []mesh.Port{{Number: 80}}}
	f.store = mesh.NewStore(&exchange.World{})
	f.publish()
	f.u = start(Config{World: f.store, Dial: f.dial, Registerer: f.reg, Zone: "zone-of-waypoint"}, f.now)
	t.Cleanup(f.u.Close)
	return f
}

// now is the real time, and what the test let pass of it.
func (f *field) now() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) }

func (f *field) pass(d time.Duration) { f.ahead.Add(int64(d)) }

func (f *field) dial(ctx context.Context, to Endpoint, _ *exchange.Conn) (net.Conn, error) {
	n := f.dials.Add(1)
	if f.away.Add(-1) >= 0 {
		return nil, ErrAway
	}
	f.mu.Lock()
	addr := f.servers[to.Addr]
	f.mu.Unlock()
	if addr == "" {
		return nil, fmt.Errorf("nobody is at %s", to.Addr)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return numbered{c.(*net.TCPConn), n, &f.leave}, nil
}

// numbered is a connection that tells as a tunnel's stream does whether it is about to end.
type numbered struct {
	*net.TCPConn
	n     int64
	leave *atomic.Int64
}

func (c numbered) Leaving() bool { return c.n <= c.leave.Load() }

// pod adds a ready pod with an address, served by h, or by nobody if h is nil.
func (f *field) pod(name, addr string, h http.Handler) *mesh.Workload {
	f.t.Helper()
	w := &mesh.Workload{UID: mesh.UID("uid-" + name), Namespace: "shop", Name: name, Node: "n1", Zone: "z1",
		Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
	f.pods = append(f.pods, w)
	f.svc.Endpoints = append(f.svc.Endpoints, mesh.Endpoint{Workload: w.UID, Addrs: w.Addrs,
		TargetPorts: map[uint16]uint16{80: targetPort}, Ready: true, Serving: true})
	if h != nil {
		f.at(addr, serve(f.t, h).Listener.Addr().String())
	}
	return w
}

// at says who answers at a pod's address.
func (f *field) at(addr, server string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.servers[netip.AddrPortFrom(netip.MustParseAddr(addr), targetPort)] = server
}

func (f *field) endpoint(name string) *mesh.Endpoint {
	for i := range f.svc.Endpoints {
		if e := &f.svc.Endpoints[i]; e.Workload == mesh.UID("uid-"+name) {
			return e
		}
	}
	f.t.Fatalf("no endpoint %s", name)
	return nil
}

// publish makes what the field has the world.
func (f *field) publish() {
	f.t.Helper()
	f.version++
	svc := *f.svc
	svc.Endpoints = append([]mesh.Endpoint(nil), f.svc.Endpoints...)
	m, err := mesh.NewSnapshot("e", f.version, append([]*mesh.Workload(nil), f.pods...), []*mesh.Service{&svc})
	if err != nil {
		f.t.Fatal(err)
	}
	f.store.Swap(&exchange.World{Mesh: m})
}

// remove takes a pod out of the world.
func (f *field) remove(name string) {
	for i, w := range f.pods {
		if w.Name == name {
			f.pods = append(f.pods[:i:i], f.pods[i+1:]...)
		}
	}
	for i, e := range f.svc.Endpoints {
		if e.Workload == mesh.UID("uid-"+name) {
			f.svc.Endpoints = append(f.svc.Endpoints[:i:i], f.svc.Endpoints[i+1:]...)
		}
	}
}

func (f *field) ask() Ask {
	return Ask{Service: f.svc, Port: 80, V4: true, Conn: client("z1"), Request: get("/")}
}

// greeted is a field whose one pod says hello, and what asks for it by a protocol.
func greeted(t testing.TB, http2 bool) (*field, Ask) {
	t.Helper()
	f := newField(t)
	f.pod("a", "10.0.0.1", says("hello"))
	f.publish()
	ask := f.ask()
	ask.HTTP2 = http2
	return f, ask
}

func client(zone string) *exchange.Conn {
	return &exchange.Conn{ClientAddr: netip.MustParseAddrPort("10.0.9.9:1234"),
		Workload: &mesh.Workload{UID: "uid-client", Namespace: "shop", Name: "client", Node: "n1", Zone: zone}}
}

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func get(path string) *http.Request {
	return httptest.NewRequest(http.MethodGet, "http://web.shop"+path, nil)
}

func (f *field) pick(a Ask) *Pick {
	f.t.Helper()
	p, err := f.u.Pick(a)
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// chosen returns how often each pod is chosen, without requests that stay open.
func (f *field) chosen(n int, ask func() Ask) map[string]int {
	f.t.Helper()
	got := map[string]int{}
	for range n {
		p := f.pick(ask())
		got[p.Endpoint.Workload.Name]++
		p.Release()
	}
	return got
}

// do picks and sends a request, and returns the answer's body.
func (f *field) do(a Ask, r *http.Request) (string, error) {
	p, err := f.u.Pick(a)
	if err != nil {
		return "", err
	}
	res, err := p.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// serve serves HTTP/1.1 and HTTP/2 without TLS.
func serve(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

// says answers with a text.
func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after 5 s: %s", what)
		}
	}
}

// metric returns the sum of a metric's values whose labels contain some text.
func (f *field) metric(name, label string) (sum float64) {
	f.t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && strings.Contains(m.String(), label) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
