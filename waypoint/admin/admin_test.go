package admin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/warren-mesh/warren/agent/feed"
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/telemetry"
)

// authority signs for one identity.
type authority struct {
	id   identity.ID
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	down bool
}

func newAuthority(t *testing.T, id identity.ID) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: id.TrustDomain()}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{id: id, cert: cert, key: key}
}

func (a *authority) Sign(_ context.Context, _ string, csr []byte) ([][]byte, error) {
	if a.down {
		return nil, errors.New("the CA sleeps")
	}
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(a.id.String())
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(30 * time.Minute), URIs: []*url.URL{uri},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, request.PublicKey, a.key)
	return [][]byte{der}, err
}

// pod is a waypoint's pod as its admin side sees it.
type pod struct {
	client    adminv1.AdminClient
	telemetry *telemetry.Telemetry
	conn      *exchange.Conn
	id        identity.ID
}

func serve(t *testing.T, down bool, f feed.Status) pod {
	t.Helper()
	id, err := identity.New("cluster.local", "shop", "waypoint")
	if err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t, id)
	ca.down = down
	bundle, err := identity.NewBundle(map[string][]*x509.Certificate{"cluster.local": {ca.cert}})
	if err != nil {
		t.Fatal(err)
	}
	certs, err := identity.NewManager(identity.ManagerConfig{Signer: ca, Bundle: func() *identity.Bundle { return bundle }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	certs.Want("u1", id)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = certs.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	for deadline := time.Now().Add(5 * time.Second); ; <-time.After(time.Millisecond) {
		if s := certs.Snapshot(); len(s) == 1 && (s[0].Serial != "" || s[0].Err != "") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the CA is never asked")
		}
	}
	tel, err := telemetry.New(telemetry.Config{
		Gateway: "shop/waypoint", Pod: "shop/waypoint-1", Node: "n1", Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := mesh.NewSnapshot("e", 1, []*mesh.Workload{{UID: "u2", Namespace: "shop", Name: "pay-0", ServiceAccount: "pay", TrustDomain: "cluster.local"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn := &exchange.Conn{
		TraceID: strings.Repeat("ab", 16), ClientAddr: netip.MustParseAddrPort("10.0.0.1:40000"), Dialled: netip.MustParseAddrPort("10.96.0.1:80"),
		Workload: &mesh.Workload{Namespace: "front", Name: "web-0"},
	}
	s := New(Config{
		Gateway: "shop/waypoint", Pod: "shop/waypoint-1", Node: "n1", Version: "v1", Started: time.Unix(1000, 0), ID: id,
		Bundle: func() *identity.Bundle { return bundle }, Certs: certs, Feed: func() feed.Status { return f },
		World:     mesh.NewStore(&exchange.World{Mesh: snapshot, Policies: &policy.Set{}}),
		Telemetry: tel,
		Open: func() []*exchange.Record {
			return []*exchange.Record{{ID: conn.TraceID, Conn: conn, Protocol: telemetry.TCP, Start: time.Now(), GRPCStatus: -1}}
		},
	})
	return pod{client: clientOf(t, s), telemetry: tel, conn: conn, id: id}
}

func clientOf(t *testing.T, s *Server) adminv1.AdminClient {
	t.Helper()
	g := grpc.NewServer()
	adminv1.RegisterAdminServer(g, s)
	l := bufconn.Listen(1 << 20)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); g.Stop(); <-served })
	return adminv1.NewAdminClient(conn)
}

// ask runs a request through the pod's telemetry.
func (p pod) ask(path string) {
	r := &exchange.Record{Conn: p.conn, Protocol: "HTTP/1.1", Method: "GET", Path: path, Outcome: exchange.Answered, Status: 200, GRPCStatus: -1, Start: time.Now()}
	p.telemetry.Start(&http.Request{Header: http.Header{}}, p.conn).Describe(r)
	p.telemetry.Sink(r)
}

func TestStatusSaysHowThePodFares(t *testing.T) {
	p := serve(t, false, feed.Status{Connected: true, Epoch: "e1", Enforced: 5, Latest: 6, EnforcedAt: time.Unix(2000, 0)})
	p.ask("/")
	p.telemetry.Start(&http.Request{Header: http.Header{}}, p.conn)
	reply, err := p.client.Status(t.Context(), &adminv1.StatusRequest{})
	if err != nil || len(reply.GetWaypoints()) != 1 || len(reply.GetNodes()) != 0 {
		t.Fatalf("%v, %v", reply, err)
	}
	w := reply.GetWaypoints()[0]
	if w.GetNamespace() != "shop" || w.GetGateway() != "waypoint" || w.GetPod() != "waypoint-1" || w.GetEnforcedVersion() != 5 || w.GetLatestVersion() != 6 ||
		w.GetSpiffeId() != p.id.String() || w.GetSvidNotAfterUnix() == 0 || w.GetOpenRequests() != 1 || w.GetRequests() != 1 || w.GetOpenConnections() != 1 ||
		len(w.GetProblems()) != 0 {
		t.Errorf("it says %v", w)
	}
}

func TestStatusSaysWhatIsWrong(t *testing.T) {
	p := serve(t, true, feed.Status{LastError: "connection refused", LastNack: "route/x: no such thing"})
	reply, err := p.client.Status(t.Context(), &adminv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, problem := range reply.GetProblems() {
		texts = append(texts, problem.GetSeverity().String()+" "+problem.GetText())
		if problem.GetSubject() != "waypoint pod shop/waypoint-1" || problem.GetHint() == "" {
			t.Errorf("a problem without subject or hint: %v", problem)
		}
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{"ERROR it has no SVID: ", "the CA sleeps", "WARNING it does not follow the controller: connection refused", "ERROR it refused an update: route/x"} {
		if !strings.Contains(all, want) {
			t.Errorf("nothing says %q in\n%s", want, all)
		}
	}
}

// TestFlowsAreWhatEndedAndWhatIsOpen: with the connection's id in both.
func TestFlowsAreWhatEndedAndWhatIsOpen(t *testing.T) {
	p := serve(t, false, feed.Status{Connected: true})
	p.ask("/cart")
	p.ask("/pay")
	for q, want := range map[*adminv1.FlowsRequest]int{
		{}: 3, {Type: "request"}: 2, {Type: "connection"}: 1, {Path: "/pay"}: 1, {Id: p.conn.TraceID}: 3, {Last: 1}: 1, {Status: "5xx"}: 0,
	} {
		stream, err := p.client.Flows(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for {
			f, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if n++; f.GetId() != p.conn.TraceID || f.GetReporter() != "waypoint" || f.GetPod() != "shop/waypoint-1" {
				t.Errorf("%v: got %v", q, f)
			}
		}
		if n != want {
			t.Errorf("%v: %d flows, want %d", q, n, want)
		}
	}
	reply, err := p.client.Connections(t.Context(), &adminv1.ListRequest{Namespace: "front"})
	if err != nil || len(reply.GetConnections()) != 1 || reply.GetConnections()[0].GetEndUnixNano() != 0 {
		t.Errorf("%v, %v", reply, err)
	}
}

func TestFollowersGetRequestsAsTheyEnd(t *testing.T) {
	p := serve(t, false, feed.Status{Connected: true})
	stream, err := p.client.Flows(t.Context(), &adminv1.FlowsRequest{Follow: true, Method: "GET"})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string)
	go func() {
		defer close(got)
		for {
			f, err := stream.Recv()
			if err != nil {
				return
			}
			got <- f.GetHttp().GetPath()
		}
	}()
	for deadline := time.After(5 * time.Second); ; {
		p.ask("/late") // until it follows
		select {
		case path := <-got:
			if path != "/late" {
				t.Errorf("got %q", path)
			}
			return
		case <-deadline:
			t.Fatal("nothing comes")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestCertsAndLists(t *testing.T) {
	p := serve(t, false, feed.Status{Connected: true})
	certs, err := p.client.Certs(t.Context(), &adminv1.ListRequest{})
	if err != nil || len(certs.GetCerts()) != 1 || certs.GetCerts()[0].GetState() != "valid" || certs.GetCerts()[0].GetRoot() == "" || len(certs.GetBundles()) != 1 {
		t.Errorf("%v, %v", certs, err)
	}
	if renewed, err := p.client.Renew(t.Context(), &adminv1.RenewRequest{Root: strings.Repeat("0", 64)}); err != nil || renewed.GetDue() != 1 {
		t.Errorf("%v, %v", renewed, err)
	}
	if _, err := p.client.Renew(t.Context(), &adminv1.RenewRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("renew without a root: %v", err)
	}
	if w, err := p.client.Workloads(t.Context(), &adminv1.ListRequest{}); err != nil || len(w.GetWorkloads()) != 1 {
		t.Errorf("%v, %v", w, err)
	}
	if _, err := p.client.Services(t.Context(), &adminv1.ListRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := p.client.Policies(t.Context(), &adminv1.ListRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := p.client.Why(t.Context(), &adminv1.WhyRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("why: %v", err)
	}
}
