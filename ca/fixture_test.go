package ca

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	cav1 "github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/ca/attest"
	"github.com/warren-mesh/warren/identity"
)

// fixture is a CA server on loopback.
type fixture struct {
	t         *testing.T
	authority *Authority
	tokens    *attest.TokenStore
	registry  *prometheus.Registry
	log       *syncBuffer
	addr      string

	mu        sync.Mutex
	now       time.Time
	banned    string
	directory directory
}

type directory map[string]Record

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Workload implements Directory.
func (f *fixture) Workload(uid string) (Record, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.directory[uid]
	return r, ok
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

func serve(t *testing.T, change func(*ServerConfig)) *fixture {
	t.Helper()
	f := &fixture{t: t, registry: prometheus.NewRegistry(), log: &syncBuffer{}, now: time.Now()}
	f.directory = directory{
		"web-1": {Node: "n1", ID: web(t), Enrolled: true},
		"web-2": {Node: "n2", ID: web(t), Enrolled: true},
		"out-1": {Node: "n1", ID: web(t)},
		"none":  {Node: "n1", Enrolled: true},
	}
	f.authority = open(t, nil)
	var err error
	f.tokens, err = attest.OpenTokens(filepath.Join(t.TempDir(), "tokens"), f.clock)
	if err != nil {
		t.Fatal(err)
	}
	config := ServerConfig{
		Authority: f.authority, Attestor: f.tokens, Waypoints: f.tokens, Directory: f, Registerer: f.registry, Clock: f.clock,
		Log:         slog.New(slog.NewTextHandler(f.log, nil)),
		NodeAllowed: func(node string) bool { return node != f.banned },
	}
	if change != nil {
		change(&config)
	}
	server, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	f.listen(server)
	return f
}

func (f *fixture) listen(server *Server) {
	key := newKey(f.t)
	chain, err := f.authority.IssueController(key.Public(), 0)
	svid := f.svid(chain, key, err)
	config := identity.ControllerServerConfig(func() (*identity.SVID, error) { return svid, nil }, f.authority.Bundle, "mesh")
	auth := server.Authenticator()
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)), grpc.UnaryInterceptor(auth.Unary()), grpc.StreamInterceptor(auth.Stream()))
	cav1.RegisterCAServer(g, server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.addr = listener.Addr().String()
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	f.t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it served
			f.t.Error(err)
		}
	})
}

func (f *fixture) svid(chain [][]byte, key crypto.Signer, err error) *identity.SVID {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	svid, err := identity.NewSVID(chain, key)
	if err != nil {
		f.t.Fatal(err)
	}
	return svid
}

// node dials as a node of the mesh.
func (f *fixture) node(name string, ttl time.Duration) cav1.CAClient {
	f.t.Helper()
	key := newKey(f.t)
	chain, err := f.authority.IssueNode(name, key.Public(), ttl)
	return f.dial(f.svid(chain, key, err))
}

// dial presents svid, or nothing if it is nil.
func (f *fixture) dial(svid *identity.SVID) cav1.CAClient {
	get := func() (*identity.SVID, error) {
		if svid == nil {
			return nil, identity.ErrNoSVID
		}
		return svid, nil
	}
	return f.dialTLS(identity.NodeClientConfig(get, f.authority.Bundle, "mesh"))
}

func (f *fixture) dialTLS(config *tls.Config) cav1.CAClient {
	f.t.Helper()
	conn, err := grpc.NewClient(f.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	return cav1.NewCAClient(conn)
}

// refused counts what warren_ca_refused_total says about a reason.
func (f *fixture) refused(reason string) (n float64) {
	f.t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if label(metric, "reason") == reason {
				n += metric.GetCounter().GetValue()
			}
		}
	}
	return n
}

func label(metric *dto.Metric, name string) string {
	for _, l := range metric.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func csr(t testing.TB) (crypto.Signer, []byte) {
	t.Helper()
	key, der, err := identity.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}
