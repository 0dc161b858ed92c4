package controller_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/agent/feed"
	agentrelay "github.com/warren-mesh/warren/agent/relay"
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/ca/attest"
	"github.com/warren-mesh/warren/controller"
	"github.com/warren-mesh/warren/identity"
)

const shop = `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {warren.dev/mesh: enabled}}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, serviceAccountName: web}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: n1, serviceAccountName: db}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: db}, ports: [{port: 5432}]}
`

const shopStatus = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u-web}
status: {phase: Running, podIPs: [{ip: 10.1.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, uid: u-db}
status: {phase: Running, podIPs: [{ip: 10.1.0.3}, {ip: "fd00::3"}]}
`

const denyWeb = `apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: deny-web, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {app: db}}
  rules: [{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {ports: ["5432"]}}]}]
`

// rig is a running controller with its folders.
type rig struct {
	t                        *testing.T
	manifests, status, state string
	socket, addr, metrics    string
	stop                     func()
}

func (r *rig) config() controller.Config {
	return controller.Config{
		Manifests: []string{r.manifests}, StatusManifests: []string{r.status}, StateDir: r.state,
		Listen: "127.0.0.1:0", AdminSocket: r.socket, MetricsListen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler),
	}
}

func newRig(t *testing.T) *rig {
	dir := t.TempDir()
	r := &rig{t: t, manifests: filepath.Join(dir, "manifests"), status: filepath.Join(dir, "status"),
		state: filepath.Join(dir, "state"), socket: filepath.Join(dir, "a.sock")}
	for _, d := range []string{r.manifests, r.status} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r.write(r.manifests, "shop.yaml", shop)
	r.write(r.status, "shop.yaml", shopStatus)
	r.start()
	return r
}

func (r *rig) start() {
	r.t.Helper()
	c, err := controller.New(r.config())
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr, r.metrics = c.AgentsAddr().String(), c.MetricsAddr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("controller: %v", err)
		}
	}
	r.t.Cleanup(func() { r.stop() })
}

// write replaces a file as an editor should: aside, then renamed.
func (r *rig) write(dir, name, content string) {
	r.t.Helper()
	tmp := filepath.Join(dir, "."+name)
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) admin() adminv1.AdminClient {
	r.t.Helper()
	conn, err := grpc.NewClient("unix:"+r.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return adminv1.NewAdminClient(conn)
}

func (r *rig) bundle() *identity.Bundle {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.state, "bundle.pem"))
	if err != nil {
		r.t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	b, err := identity.ParseBundle(map[string][][]byte{"cluster.local": {block.Bytes}})
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// dial connects as svid says, or without a certificate.
func (r *rig) dial(svid *identity.SVID) *grpc.ClientConn {
	r.t.Helper()
	bundle := r.bundle()
	get := func() (*identity.SVID, error) {
		if svid == nil {
			return nil, identity.ErrNoSVID
		}
		return svid, nil
	}
	creds := credentials.NewTLS(identity.NodeClientConfig(get, func() *identity.Bundle { return bundle }, "cluster.local"))
	conn, err := grpc.NewClient(r.addr, append(feed.DialOptions(), grpc.WithTransportCredentials(creds))...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// join attests a node with a fresh token.
func (r *rig) join(node string) *identity.SVID {
	r.t.Helper()
	tokens, err := attest.OpenTokens(controller.TokenFile(r.state), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	token, err := tokens.Create(node, time.Minute)
	if err != nil {
		r.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		r.t.Fatal(err)
	}
	reply, err := cav1.NewCAClient(r.dial(nil)).AttestNode(r.t.Context(), &cav1.AttestNodeRequest{Node: node, JoinToken: token, Csr: csr})
	if err != nil {
		r.t.Fatal(err)
	}
	svid, err := identity.NewSVID(reply.GetChain(), key)
	if err != nil {
		r.t.Fatal(err)
	}
	return svid
}

// follow runs a feed for conn until the test ends or stop is called.
func (r *rig) follow(conn *grpc.ClientConn, file string, enforce func(*feed.State) error) (f *feed.Client, stop func()) {
	f = feed.New(feed.Config{
		Client: meshv1.NewMeshClient(conn), AgentVersion: "test", StateFile: file, Log: slog.New(slog.DiscardHandler),
		Enforce: func(_ context.Context, s *feed.State) error { return enforce(s) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = f.Run(ctx) }()
	stop = func() { cancel(); <-done }
	r.t.Cleanup(stop)
	return f, stop
}

func enforceNothing(*feed.State) error { return nil }

// await waits until the state satisfies ok.
func await(t *testing.T, f *feed.Client, what string, ok func(*feed.State) bool) *feed.State {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		changed := f.Store().Changed()
		if s := f.Store().Load(); ok(s) {
			return s
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("the agent never saw %s; it has version %d, feed %+v", what, f.Store().Load().Version, f.Status())
		}
	}
}

// eventually polls what has no channel to wait on: another process's answers.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestFolderReachesAgent(t *testing.T) {
	r := newRig(t)
	f, _ := r.follow(r.dial(r.join("n1")), "", enforceNothing)

	s := await(t, f, "two workloads", func(s *feed.State) bool { return len(s.Mesh.Workloads()) == 2 })
	db := s.Mesh.WorkloadNamed("shop/db")
	if db.UID != "u-db" || !db.Enrolled || db.ServiceAccount != "db" || len(db.Addrs) != 2 {
		t.Errorf("shop/db arrived as %+v", db)
	}
	if svc := s.Mesh.ServiceHost("db.shop.svc.cluster.local"); svc == nil || len(svc.Endpoints) != 1 || svc.Endpoints[0].TargetPorts[5432] != 5432 {
		t.Errorf("service db arrived as %+v", svc)
	}
	if len(s.Bundle.Roots("cluster.local")) != 1 {
		t.Errorf("the trust bundle has %d roots", len(s.Bundle.Roots("cluster.local")))
	}

	r.write(r.manifests, "policy.yaml", denyWeb)
	await(t, f, "the policy", func(s *feed.State) bool {
		return s.Policies.Has("shop/deny-web") && len(s.Mesh.WorkloadNamed("shop/db").Policies) == 1 && len(s.Mesh.WorkloadNamed("shop/web").Policies) == 0
	})
	r.write(r.manifests, "policy.yaml", strings.Replace(denyWeb, "DENY", "DENIED", 1))
	admin := r.admin()
	eventually(t, "the bad file is reported", func() error {
		reply, err := admin.Status(t.Context(), &adminv1.StatusRequest{})
		if err != nil || len(reply.GetController().GetRejected()) != 1 {
			return fmt.Errorf("rejected: %q, %v", reply.GetController().GetRejected(), err)
		}
		if got, want := reply.GetController().GetRejected()[0], `policy.yaml:5: AuthorizationPolicy shop/deny-web: spec.action: want ALLOW, DENY, AUDIT or CUSTOM, got "DENIED"`; !strings.HasSuffix(got, want) {
			t.Fatalf("rejected as %q, want …%q", got, want)
		}
		return nil
	})
	if !f.Store().Load().Policies.Has("shop/deny-web") {
		t.Error("a bad file took the policy back that it held")
	}
	if err := os.Remove(filepath.Join(r.manifests, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	await(t, f, "the policy's end", func(s *feed.State) bool { return !s.Policies.Has("shop/deny-web") })
}

func TestRestartWithBadFileKeepsWhatItSaid(t *testing.T) {
	r := newRig(t)
	r.write(r.manifests, "policy.yaml", denyWeb)
	svid := r.join("n1")
	f, stop := r.follow(r.dial(svid), "", enforceNothing)
	await(t, f, "the policy", func(s *feed.State) bool { return s.Policies.Has("shop/deny-web") })
	stop()
	r.stop()
	r.write(r.manifests, "policy.yaml", "kind: [broken")
	r.start()
	f, _ = r.follow(r.dial(svid), "", enforceNothing)
	s := await(t, f, "anything", func(s *feed.State) bool { return s.Version > 0 })
	if !s.Policies.Has("shop/deny-web") {
		t.Error("the policy of a file that turned bad while the controller was down is gone")
	}
}

func TestAgentKeepsLastGoodStateWithoutController(t *testing.T) {
	r := newRig(t)
	file := filepath.Join(t.TempDir(), "state")
	svid := r.join("n1")
	f, stop := r.follow(r.dial(svid), file, enforceNothing)
	first := await(t, f, "two workloads", func(s *feed.State) bool { return len(s.Mesh.Workloads()) == 2 })
	stop() // writes the file
	r.stop()

	enforced := make(chan *feed.State, 8)
	f, stop = r.follow(r.dial(svid), file, func(s *feed.State) error { enforced <- s; return nil })
	got := <-enforced
	if !got.FromDisk || got.Epoch != first.Epoch || got.Version != first.Version || len(got.Mesh.Workloads()) != 2 {
		t.Errorf("enforced %+v without a controller, want version %d of %s", got, first.Version, first.Epoch)
	}
	if f.Status().Connected {
		t.Error("connected to a controller that is gone")
	}
	stop()

	r.start() // a new run: another epoch, everything is sent anew
	f, _ = r.follow(r.dial(svid), file, enforceNothing)
	await(t, f, "the new epoch", func(s *feed.State) bool { return s.Epoch != first.Epoch && len(s.Mesh.Workloads()) == 2 })
}

func TestCallersWithoutCertificateMayOnlyAttest(t *testing.T) {
	r := newRig(t)
	conn := r.dial(nil)
	watch, err := meshv1.NewMeshClient(conn).Watch(t.Context())
	if err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("Watch: %v, want PermissionDenied", err)
	}
	connect, err := adminv1.NewRelayClient(conn).Connect(t.Context())
	if err == nil {
		_, err = connect.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("Relay: %v, want PermissionDenied", err)
	}
	_, err = cav1.NewCAClient(conn).SignWorkload(t.Context(), &cav1.SignWorkloadRequest{WorkloadUid: "u-web"})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("SignWorkload: %v, want PermissionDenied", err)
	}
	_, err = cav1.NewCAClient(conn).AttestNode(t.Context(), &cav1.AttestNodeRequest{Node: "n1", JoinToken: "guess"})
	if err == nil {
		t.Error("a guessed token was accepted")
	}
	// The admin API is not among what agents may call, whatever certificate they have.
	_, err = adminv1.NewAdminClient(r.dial(r.join("n1"))).Status(t.Context(), &adminv1.StatusRequest{})
	if err == nil {
		t.Error("an agent may call Admin on the agents' address")
	}
}

// nodeAdmin is an agent's side of the admin API.
type nodeAdmin struct {
	adminv1.UnimplementedAdminServer
	node string
	fail error
}

func (a *nodeAdmin) Status(context.Context, *adminv1.StatusRequest) (*adminv1.StatusReply, error) {
	if a.fail != nil {
		return nil, a.fail
	}
	return &adminv1.StatusReply{Nodes: []*adminv1.NodeStatus{{Node: "somebody-else", Kernel: "6.18", OpenConnections: 7}}}, nil
}

func (a *nodeAdmin) Flows(req *adminv1.FlowsRequest, stream adminv1.Admin_FlowsServer) error {
	for i := range 3 {
		if err := stream.Send(&adminv1.Flow{Id: fmt.Sprint(a.node, i), Reporter: "outbound", StartUnixNano: int64(10 + i)}); err != nil {
			return err
		}
	}
	if req.GetFollow() {
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	return nil
}

func (r *rig) relay(conn *grpc.ClientConn, admin adminv1.AdminServer) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	c := agentrelay.New(agentrelay.Config{Client: adminv1.NewRelayClient(conn), Admin: admin, Log: slog.New(slog.DiscardHandler)})
	go func() { defer close(done); _ = c.Run(ctx) }()
	r.t.Cleanup(func() { cancel(); <-done })
}

func TestAdminAnswersForTheWholeMesh(t *testing.T) {
	r := newRig(t)
	r.write(r.manifests, "policy.yaml", denyWeb)
	conn := r.dial(r.join("n1"))
	f, _ := r.follow(conn, "", enforceNothing)
	r.relay(conn, &nodeAdmin{node: "n1"})
	await(t, f, "the policy", func(s *feed.State) bool { return s.Policies.Has("shop/deny-web") })
	admin := r.admin()

	eventually(t, "status", func() error {
		reply, err := admin.Status(t.Context(), &adminv1.StatusRequest{})
		if err != nil {
			return err
		}
		if len(reply.GetNodes()) != 2 || reply.GetNodes()[0].GetOpenConnections() != 7 || reply.GetNodes()[0].GetNode() != "n1" {
			return fmt.Errorf("nodes: %v", reply.GetNodes())
		}
		for _, p := range reply.GetProblems() {
			if p.GetNode() == "n2" && strings.Contains(p.GetText(), "no agent ever connected") {
				return nil
			}
		}
		return fmt.Errorf("n2 without an agent is no problem: %v", reply.GetProblems())
	})
	eventually(t, "policies", func() error {
		reply, err := admin.Policies(t.Context(), &adminv1.ListRequest{})
		if err != nil || len(reply.GetPolicies()) != 1 {
			return fmt.Errorf("%v, %v", reply, err)
		}
		if p := reply.GetPolicies()[0]; p.GetEnforced() != 1 || p.GetWanted() != 1 || p.GetWorkloads()[0] != "shop/db" {
			return fmt.Errorf("%v", p)
		}
		return nil
	})
	authz, err := admin.Authz(t.Context(), &adminv1.AuthzRequest{From: "shop/web", To: "db.shop", Port: 5432})
	if err != nil || authz.GetAllowed() || authz.GetRule() != "AuthorizationPolicy shop/deny-web rule[0]" {
		t.Errorf("authz: %v, %v", authz, err)
	}
	why, err := admin.Why(t.Context(), &adminv1.WhyRequest{Src: "shop/web", Dst: "db", Port: 5432})
	if err != nil || !strings.HasPrefix(why.GetVerdict(), "fails at authorize: denied: policy_denied") {
		t.Errorf("why: %v, %v", why, err)
	}
	flows, err := admin.Flows(t.Context(), &adminv1.FlowsRequest{Last: 2})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for {
		flow, err := flows.Recv()
		if err != nil {
			break
		}
		ids = append(ids, flow.GetNode()+":"+flow.GetId())
	}
	if got := strings.Join(ids, " "); got != "n1:n11 n1:n12" {
		t.Errorf("flows = %q, want the newest two", got)
	}
}

func TestAgentThatFailsIsAProblemNotAnError(t *testing.T) {
	r := newRig(t)
	conn := r.dial(r.join("n1"))
	r.relay(conn, &nodeAdmin{node: "n1", fail: errors.New("out of luck")})
	admin := r.admin()
	eventually(t, "status", func() error {
		reply, err := admin.Status(t.Context(), &adminv1.StatusRequest{})
		if err != nil {
			t.Fatalf("the whole answer failed: %v", err)
		}
		for _, p := range reply.GetProblems() {
			if p.GetNode() == "n1" && strings.Contains(p.GetText(), "out of luck") {
				return nil
			}
		}
		return fmt.Errorf("problems: %v", reply.GetProblems())
	})
	certs, err := admin.Certs(t.Context(), &adminv1.ListRequest{})
	if err != nil || len(certs.GetCerts()) != 1 || certs.GetCerts()[0].GetState() != "missing" {
		t.Errorf("certs: %v, %v", certs, err)
	}
}

func TestEnforceThatFailsIsRefusedAndTriedAgain(t *testing.T) {
	r := newRig(t)
	tries := make(chan struct{}, 16)
	f, _ := r.follow(r.dial(r.join("n1")), "", func(*feed.State) error {
		tries <- struct{}{}
		if len(tries) == 1 {
			return errors.New("kernel said no")
		}
		return nil
	})
	admin := r.admin()
	eventually(t, "enforced at the second try", func() error {
		if st := f.Status(); st.Enforced == 0 || st.LastNack != "" {
			return fmt.Errorf("%+v", st)
		}
		reply, err := admin.Status(t.Context(), &adminv1.StatusRequest{})
		if err != nil || reply.GetNodes()[0].GetEnforcedVersion() != f.Status().Enforced {
			return fmt.Errorf("%v, %v", reply.GetNodes(), err)
		}
		return nil
	})
	if len(tries) < 2 {
		t.Errorf("enforced after %d tries", len(tries))
	}
}

func TestReadyOnceManifestsWereRead(t *testing.T) {
	r := newRig(t)
	eventually(t, "readyz", func() error {
		resp, err := http.Get("http://" + r.metrics + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

func TestMissingFolderPublishesNothing(t *testing.T) {
	r := newRig(t)
	r.stop()
	if err := os.Rename(r.status, r.status+"-gone"); err != nil {
		t.Fatal(err)
	}
	r.start()
	admin := r.admin()
	eventually(t, "the missing folder is reported", func() error {
		reply, err := admin.Status(t.Context(), &adminv1.StatusRequest{})
		if err != nil || len(reply.GetController().GetRejected()) == 0 {
			return fmt.Errorf("%v, %v", reply.GetController().GetRejected(), err)
		}
		if v := reply.GetController().GetConfigVersion(); v != 0 {
			t.Fatalf("version %d was published without the folder", v)
		}
		return nil
	})
	if err := os.Rename(r.status+"-gone", r.status); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the folder that came back is published", func() error {
		reply, err := admin.Status(t.Context(), &adminv1.StatusRequest{})
		if err != nil || reply.GetController().GetConfigVersion() == 0 {
			return fmt.Errorf("%v, %v", reply.GetController(), err)
		}
		return nil
	})
}
