package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cav1 "github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/ca/attest"
	"github.com/warren-mesh/warren/identity"
)

func TestNodeJoinsRenewsAndAsksForItsWorkloads(t *testing.T) {
	f := serve(t, nil)
	token, err := f.tokens.Create("n1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	key, request := csr(t)
	reply, err := f.dial(nil).AttestNode(t.Context(), &cav1.AttestNodeRequest{Node: "n1", JoinToken: token, Csr: request})
	if err != nil {
		t.Fatal(err)
	}
	check := func(reply *cav1.SVID, key crypto.Signer, id string) *identity.SVID {
		t.Helper()
		svid, err := identity.CheckReply(reply.GetChain(), key, id, f.authority.Bundle(), time.Now())
		if err != nil || reply.GetSpiffeId() != id {
			t.Fatal(reply.GetSpiffeId(), err)
		}
		return svid
	}
	node := f.dial(check(reply, key, "spiffe://mesh/node/n1"))

	key, request = csr(t)
	reply, err = node.RenewNode(t.Context(), &cav1.RenewNodeRequest{Csr: request})
	if err != nil {
		t.Fatal(err)
	}
	check(reply, key, "spiffe://mesh/node/n1")

	key, request = csr(t)
	reply, err = node.SignWorkload(t.Context(), &cav1.SignWorkloadRequest{WorkloadUid: "web-1", Csr: request})
	if err != nil {
		t.Fatal(err)
	}
	svid := check(reply, key, "spiffe://mesh/ns/shop/sa/web")
	for _, want := range []string{`msg="certificate issued" kind=workload id=spiffe://mesh/ns/shop/sa/web node=n1 workload=web-1 serial=` + svid.Serial(), "kind=attest", "kind=node"} {
		if !strings.Contains(f.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, f.log)
		}
	}
}

// TestUnauthorisedSigningIsRefusedAlike: the caller learns nothing about why; log and metrics say it.
func TestUnauthorisedSigningIsRefusedAlike(t *testing.T) {
	f := serve(t, nil)
	f.banned = "n9"
	_, request := csr(t)
	sign := func(client cav1.CAClient, uid string) error {
		_, err := client.SignWorkload(t.Context(), &cav1.SignWorkloadRequest{WorkloadUid: uid, Csr: request})
		return err
	}
	node := f.node("n1", 0)
	_, renewNone := f.dial(nil).RenewNode(t.Context(), &cav1.RenewNodeRequest{Csr: request})
	_, renewBanned := f.node("n9", 0).RenewNode(t.Context(), &cav1.RenewNodeRequest{Csr: request})
	for name, tt := range map[string]struct {
		err    error
		reason string // "" if the interceptor refuses before the server
	}{
		"no certificate":           {sign(f.dial(nil), "web-1"), ""},
		"no certificate, renewing": {renewNone, ""},
		"another node's workload":  {sign(node, "web-2"), "other_node"},
		"unknown uid":              {sign(node, "web-3"), "unknown_workload"},
		"empty uid":                {sign(node, ""), "unknown_workload"},
		"huge uid":                 {sign(node, strings.Repeat("x", 100_000)), "unknown_workload"},
		"not enrolled":             {sign(node, "out-1"), "not_enrolled"},
		"a node put out":           {renewBanned, "node_not_allowed"},
	} {
		if s := status.Convert(tt.err); s.Code() != codes.PermissionDenied || s.Message() != "not allowed" {
			t.Errorf("%s: %v", name, tt.err)
		}
		if tt.reason != "" && f.refused(tt.reason) == 0 {
			t.Errorf("%s: reason %s is not counted", name, tt.reason)
		}
	}
	if err := sign(node, "none"); status.Code(err) != codes.Unavailable || !strings.Contains(f.log.String(), ErrForeign.Error()) {
		t.Errorf("a record without an identity: %v", err)
	}
	if len(f.log.String()) > 20_000 {
		t.Errorf("the log has %d bytes", len(f.log.String()))
	}
}

// TestServerDoesNotRelyOnTheInterceptor calls the methods as if it had been forgotten.
func TestServerDoesNotRelyOnTheInterceptor(t *testing.T) {
	server, err := NewServer(ServerConfig{Authority: open(t, nil), Attestor: &attest.TokenStore{}, Directory: &fixture{}, Log: quiet(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	_, request := csr(t)
	if _, err := server.SignWorkload(t.Context(), &cav1.SignWorkloadRequest{WorkloadUid: "web-1", Csr: request}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("SignWorkload = %v", err)
	}
	if _, err := server.RenewNode(t.Context(), &cav1.RenewNodeRequest{Csr: request}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("RenewNode = %v", err)
	}
}

func TestRequestGivesAKeyAndNothingElse(t *testing.T) {
	f := serve(t, nil)
	key := newKey(t)
	node := f.node("n1", 0)
	reply, err := node.SignWorkload(t.Context(), &cav1.SignWorkloadRequest{WorkloadUid: "web-1", Csr: requestFor(t, key, "spiffe://mesh/ns/bank/sa/root")})
	if err != nil {
		t.Fatal(err)
	}
	svid, err := identity.NewSVID(reply.GetChain(), key)
	if err != nil || svid.ID != "spiffe://mesh/ns/shop/sa/web" || len(svid.Chain[0].DNSNames) != 0 || svid.Chain[0].Subject.CommonName != "" {
		t.Errorf("the certificate is for %q, %v", svid.ID, err)
	}
	for name, request := range badRequests(t) {
		_, err := node.SignWorkload(t.Context(), &cav1.SignWorkloadRequest{WorkloadUid: "web-1", Csr: request})
		_, renew := node.RenewNode(t.Context(), &cav1.RenewNodeRequest{Csr: request})
		if status.Code(err) != codes.InvalidArgument || status.Code(renew) != codes.InvalidArgument {
			t.Errorf("%s: %v; renewing: %v", name, err, renew)
		}
	}
}

func TestAttestationIsRefusedAlike(t *testing.T) {
	f := serve(t, nil)
	_, request := csr(t)
	client := f.dial(nil)
	attestAs := func(node, token string, request []byte) error {
		_, err := client.AttestNode(t.Context(), &cav1.AttestNodeRequest{Node: node, JoinToken: token, Csr: request})
		return err
	}
	create := func(node string) string {
		token, err := f.tokens.Create(node, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	old := create("n1")
	f.advance(time.Hour)
	good, used := create("n1"), create("n1")
	if err := attestAs("n1", used, request); err != nil {
		t.Fatal(err)
	}
	if err := attestAs("n1", good, []byte("no request")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a bad request: %v", err)
	}
	for name, err := range map[string]error{
		"expired": attestAs("n1", old, request), "used": attestAs("n1", used, request), "another node's": attestAs("n2", good, request),
		"no token": attestAs("n1", "", request), "huge token": attestAs("n1", strings.Repeat("x", maxProofBytes+1), request),
		"no node": attestAs("", good, request), "controller": attestAs("../controller", good, request),
	} {
		if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != "not allowed" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := attestAs("n1", good, request); err != nil {
		t.Errorf("a good token after all that: %v", err)
	}
}

func TestExpiredNodeIsRefused(t *testing.T) {
	f := serve(t, nil)
	_, request := csr(t)
	sign := func(client cav1.CAClient) error {
		_, err := client.SignWorkload(t.Context(), &cav1.SignWorkloadRequest{WorkloadUid: "web-1", Csr: request})
		return err
	}
	node := f.node("n1", time.Hour)
	if err := sign(node); err != nil {
		t.Fatal(err)
	}
	f.advance(2 * time.Hour) // the connection stays open
	if err := sign(node); status.Code(err) != codes.PermissionDenied {
		t.Errorf("on the connection it made before: %v", err)
	}
	if err := sign(f.node("n1", time.Nanosecond)); status.Code(err) != codes.Unavailable {
		t.Errorf("on a new connection: %v", err)
	}
}

func TestStrangersDoNotPassTheHandshake(t *testing.T) {
	f := serve(t, nil)
	key, request := csr(t)
	stranger := open(t, nil)
	node, err := stranger.IssueNode("n1", key.Public(), 0)
	workload, err2 := stranger.IssueWorkload(web(t), key.Public(), 0)
	for name, svid := range map[string]*identity.SVID{"node": f.svid(node, key, err), "workload": f.svid(workload, key, err2)} {
		_, err := f.dial(svid).SignWorkload(t.Context(), &cav1.SignWorkloadRequest{WorkloadUid: "web-1", Csr: request})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("a stranger's %s: %v", name, err)
		}
	}
}

func TestEachNodeIsHeldToItsRate(t *testing.T) {
	f := serve(t, func(c *ServerConfig) { c.Rate, c.Burst = 1, 3 })
	_, request := csr(t)
	n1, n2 := f.node("n1", 0), f.node("n2", 0)
	sign := func(client cav1.CAClient, uid string) codes.Code {
		_, err := client.SignWorkload(t.Context(), &cav1.SignWorkloadRequest{WorkloadUid: uid, Csr: request})
		return status.Code(err)
	}
	for i, want := range []codes.Code{codes.OK, codes.OK, codes.OK, codes.ResourceExhausted} {
		if got := sign(n1, "web-1"); got != want {
			t.Errorf("call %d: %s", i, got)
		}
	}
	if got := sign(n2, "web-2"); got != codes.OK {
		t.Errorf("the other node: %s", got)
	}
	f.advance(time.Second)
	if got := sign(n1, "web-1"); got != codes.OK {
		t.Errorf("a second later: %s", got)
	}
	if f.refused("rate_limited") != 1 {
		t.Errorf("%g are counted", f.refused("rate_limited"))
	}
}

func TestGuessingTokensIsHeldToARate(t *testing.T) {
	f := serve(t, nil)
	_, request := csr(t)
	client := f.dial(nil)
	for i := range attestBurst + 1 {
		_, err := client.AttestNode(t.Context(), &cav1.AttestNodeRequest{Node: "n1", JoinToken: "guess", Csr: request})
		want := codes.PermissionDenied
		if i == attestBurst {
			want = codes.ResourceExhausted
		}
		if status.Code(err) != want {
			t.Errorf("guess %d: %v", i, err)
		}
	}
}

type brokenAttestor struct{}

func (brokenAttestor) Attest(context.Context, string, string) error {
	return errors.New("disk on fire")
}

func TestBrokenAttestorIsNotARefusal(t *testing.T) {
	f := serve(t, func(c *ServerConfig) { c.Attestor = brokenAttestor{} })
	_, request := csr(t)
	_, err := f.dial(nil).AttestNode(t.Context(), &cav1.AttestNodeRequest{Node: "n1", JoinToken: "x", Csr: request})
	if status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "fire") {
		t.Errorf("AttestNode = %v", err)
	}
}

func TestServerNeedsItsParts(t *testing.T) {
	if _, err := NewServer(ServerConfig{}); err == nil {
		t.Error("NewServer succeeds with nothing")
	}
	f := serve(t, nil)
	_, err := NewServer(ServerConfig{Authority: f.authority, Attestor: f.tokens, Directory: f, Log: quiet(), Registerer: f.registry})
	if err == nil {
		t.Error("metrics are registered twice")
	}
}

// fakeStream is a stream of a given context.
type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s fakeStream) Context() context.Context { return s.ctx }

func TestInterceptorsTellWhoCalls(t *testing.T) {
	f := serve(t, nil)
	key := newKey(t)
	chain, err := f.authority.IssueNode("n1", key.Public(), 0)
	svid := f.svid(chain, key, err)
	auth := &Authenticator{TrustDomain: "mesh", Bundle: f.authority.Bundle, Clock: time.Now}
	called := withPeer(t.Context(), svid.Chain)
	var seen []string
	note := func(ctx context.Context) {
		node, ok := NodeFromContext(ctx)
		if !ok {
			t.Error("no node in the context")
		}
		seen = append(seen, node)
	}
	_, err = auth.Unary()(called, nil, &grpc.UnaryServerInfo{FullMethod: "/x/Y"}, func(ctx context.Context, _ any) (any, error) { note(ctx); return nil, nil })
	if err != nil {
		t.Error(err)
	}
	err = auth.Stream()(nil, fakeStream{ctx: called}, nil, func(_ any, s grpc.ServerStream) error { note(s.Context()); return nil })
	if err != nil || len(seen) != 2 || seen[0] != "n1" || seen[1] != "n1" {
		t.Errorf("seen %q, %v", seen, err)
	}
	for name, ctx := range map[string]context.Context{"no peer": t.Context(), "no certificate": withPeer(t.Context(), []*x509.Certificate{})} {
		err = auth.Stream()(nil, fakeStream{ctx: ctx}, nil, func(any, grpc.ServerStream) error { t.Error("served"); return nil })
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := &Authenticator{TrustDomain: "other.org", Bundle: f.authority.Bundle, Clock: time.Now}
	if _, err := other.Node(called); !errors.Is(err, identity.ErrUnexpectedPeer) {
		t.Errorf("a node of another trust domain: %v", err)
	}
	if _, ok := NodeFromContext(t.Context()); ok {
		t.Error("an empty context has a node")
	}
}
