package proxy

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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/upstream"
)

// rig is a waypoint's proxy between real sockets: clients dial the service shop/web on port 80, whose backends are
// net/http servers in this process. What is left out is HBONE.
type rig struct {
	t     testing.TB
	addr  string
	proxy *Proxy
	world *mesh.Store[exchange.World]

	mu       sync.Mutex
	records  []*exchange.Record
	recorded chan struct{}

	services  map[string]*mesh.Service
	workloads []*mesh.Workload
	dial      map[netip.AddrPort]string // endpoints' listeners; "" refuses
	policies  []*policy.Policy
	routes    []*route.Route
	traffic   []*route.TrafficPolicy
	cfg       Config
	version   uint64
	byAddress bool // clients dial the first workload itself
	dials     atomic.Int64
	timers    time.Duration // of the server, for headers and for idle connections; 0 is none
}

const clientID = "spiffe://cluster.local/ns/test/sa/client"

func newRig(t testing.TB, backends ...http.Handler) *rig {
	r := &rig{t: t, services: map[string]*mesh.Service{}, dial: map[netip.AddrPort]string{}, recorded: make(chan struct{}, 1<<16)}
	r.service("shop/web", "", backends...)
	return r
}

// service adds a service with one endpoint for each handler.
func (r *rig) service(name, appProtocol string, backends ...http.Handler) *mesh.Service {
	namespace, short, _ := strings.Cut(name, "/")
	n := len(r.services) + 1
	s := &mesh.Service{
		Namespace: namespace, Name: short, Hostname: short + "." + namespace + ".svc.cluster.local",
		VIPs:  []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(n)})},
		Ports: []mesh.Port{{Name: "http", Number: 80, AppProtocol: appProtocol}},
	}
	for i, h := range backends {
		at := netip.AddrFrom4([4]byte{10, 0, byte(n), byte(i + 1)})
		w := &mesh.Workload{
			UID: mesh.UID(fmt.Sprintf("%s-%d", name, i)), Namespace: namespace, Name: fmt.Sprintf("%s-%d", short, i),
			ServiceAccount: short, TrustDomain: "cluster.local", Addrs: []netip.Addr{at}, Enrolled: true,
		}
		r.workloads = append(r.workloads, w)
		s.Endpoints = append(s.Endpoints, mesh.Endpoint{
			Workload: w.UID, Addrs: w.Addrs, TargetPorts: map[uint16]uint16{80: 8080}, Ready: true,
		})
		addr := ""
		if h != nil {
			addr = serveBackend(r.t, h)
		}
		r.dial[netip.AddrPortFrom(at, 8080)] = addr
	}
	r.services[name] = s
	return s
}

// serveBackend serves HTTP/1 and h2c, and returns the address.
func serveBackend(t testing.TB, h http.Handler) string {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: h, Protocols: &protocols, DisableGeneralOptionsHandler: true}
	return serveOn(t, server)
}

func serveOn(t testing.TB, server *http.Server) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}

// start begins serving what was set up.
func (r *rig) start() *rig {
	r.t.Helper()
	r.world = mesh.NewStore(r.makeWorld())
	ups := upstream.New(upstream.Config{World: r.world, Dial: r.dialEndpoint})
	r.t.Cleanup(ups.Close)
	cfg := r.cfg
	cfg.World, cfg.Upstreams, cfg.Gateway, cfg.Sink = r.world, ups, "shop/waypoint", r.sink
	r.proxy = New(cfg)
	r.t.Cleanup(r.proxy.Close)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: r.proxy, Protocols: &protocols, DisableGeneralOptionsHandler: true, MaxHeaderBytes: 64 << 10,
		ReadHeaderTimeout: r.timers, IdleTimeout: r.timers,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return exchange.WithConn(ctx, c.(*clientConn).info)
		},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr = l.Addr().String()
	go func() { _ = server.Serve(&screening{l, r}) }()
	r.t.Cleanup(func() { _ = server.Close() })
	return r
}

func (r *rig) makeWorld() *exchange.World {
	r.t.Helper()
	r.version++
	var services []*mesh.Service
	for _, s := range r.services {
		services = append(services, s)
	}
	snapshot, err := mesh.NewSnapshot("rig", r.version, r.workloads, services)
	w := &exchange.World{Mesh: snapshot}
	if err == nil {
		w.Policies, err = policy.NewSet(r.policies)
	}
	if err == nil {
		w.Routes, err = route.NewTable(r.routes)
	}
	if err == nil {
		w.Traffic, err = route.NewTrafficSet(r.traffic)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return w
}

func (r *rig) dialEndpoint(ctx context.Context, to upstream.Endpoint, _ *exchange.Conn) (net.Conn, error) {
	r.dials.Add(1)
	at := r.dial[to.Addr]
	if at == "" {
		return nil, errors.New("connection refused")
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", at)
}

func (r *rig) sink(rec *exchange.Record) {
	r.mu.Lock()
	r.records = append(r.records, rec)
	r.mu.Unlock()
	r.recorded <- struct{}{}
}

// record waits for the next record.
func (r *rig) record() *exchange.Record {
	r.t.Helper()
	select {
	case <-r.recorded:
	case <-time.After(10 * time.Second):
		r.t.Fatal("no record came")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[0]
	r.records = r.records[1:]
	return rec
}

// nothingRecorded fails if there is another record.
func (r *rig) nothingRecorded() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.records) > 0 {
		r.t.Errorf("a record too many: %+v", r.records[0])
	}
}

// screening is the listener as the waypoint would have it.
type screening struct {
	net.Listener
	r *rig
}

type clientConn struct {
	net.Conn
	info *exchange.Conn
}

func (c *clientConn) NetConn() net.Conn { return c.Conn }
func (c *clientConn) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

func (s *screening) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	id, err := identity.Parse(clientID)
	if err != nil {
		return nil, err
	}
	web := s.r.services["shop/web"]
	info := &exchange.Conn{
		Client: id, ClientAddr: netip.MustParseAddrPort("10.0.9.9:40000"), ClientCert: []byte("a certificate"),
		Dialled: netip.AddrPortFrom(web.VIPs[0], 80), Service: web, Port: web.Ports[0], TraceID: "0af7651916cd43dd8448eb211c80319c",
	}
	if s.r.byAddress {
		info.Service, info.Port, info.Target = nil, mesh.Port{}, s.r.workloads[0]
		info.Dialled = netip.AddrPortFrom(info.Target.Addrs[0], 8080)
	}
	return &clientConn{s.r.proxy.Screen(c, info), info}, nil
}

// route attaches an HTTPRoute to shop/web.
func (r *rig) route(rules ...route.Rule) *rig {
	r.routes = append(r.routes, &route.Route{
		Kind: route.HTTP, Namespace: "shop", Name: "web", Parents: []route.Parent{{Service: "shop/web"}}, Rules: rules,
	})
	return r
}

func to(services ...string) []route.Backend {
	var list []route.Backend
	for _, s := range services {
		list = append(list, route.Backend{Service: s, Port: 80, Weight: 1})
	}
	return list
}

// client returns an HTTP client of the waypoint's, by HTTP/1 or h2c.
func (r *rig) client(http2 bool) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	t := &http.Transport{
		Protocols: &protocols, DisableCompression: true, ExpectContinueTimeout: 5 * time.Second,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, r.addr)
		},
	}
	r.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{
		Transport: t, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get asks by HTTP/1 and returns the answer with its body read.
func (r *rig) get(path string, edit ...func(*http.Request)) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://web.shop"+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range edit {
		e(req)
	}
	return r.do(r.client(false), req)
}

func (r *rig) do(c *http.Client, req *http.Request) (*http.Response, string) {
	r.t.Helper()
	res, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatalf("the answer's body: %v", err)
	}
	return res, string(b)
}

// raw writes bytes to a connection of its own and returns it with a reader.
func (r *rig) raw(text string) (net.Conn, *bufio.Reader) {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err = io.WriteString(c, text); err != nil {
		r.t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

// named answers with a name.
func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
}
