package admin

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	agentrelay "github.com/warren-mesh/warren/agent/relay"
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/controller/compile"
	"github.com/warren-mesh/warren/controller/publish"
	"github.com/warren-mesh/warren/controller/relay"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
)

// speaker answers as an agent or a waypoint's pod would, and lies about who it is.
type speaker struct {
	adminv1.UnimplementedAdminServer
	status *adminv1.StatusReply
	flows  []*adminv1.Flow
	certs  *adminv1.CertsReply
}

func (s *speaker) Status(context.Context, *adminv1.StatusRequest) (*adminv1.StatusReply, error) {
	return s.status, nil
}

func (s *speaker) Flows(_ *adminv1.FlowsRequest, out adminv1.Admin_FlowsServer) error {
	for _, f := range s.flows { // whatever was asked for, as an older release would
		if err := out.Send(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *speaker) Certs(ctx context.Context, q *adminv1.ListRequest) (*adminv1.CertsReply, error) {
	if s.certs == nil {
		return s.UnimplementedAdminServer.Certs(ctx, q)
	}
	return s.certs, nil
}

type published struct{ at time.Time }

func (published) Version() uint64             { return 7 }
func (published) ChangedIn(string) uint64     { return 0 }
func (p published) NewestCompiled() time.Time { return p.at }

// meshOf serves a mesh of one node with an agent and one waypoint of two pods, of which speakers are connected. It
// returns a client of the controller's admin API.
func meshOf(t *testing.T, speakers map[string]*speaker, states []publish.NodeState) adminv1.AdminClient {
	t.Helper()
	pod := func(name, addr string) *mesh.Workload {
		return &mesh.Workload{UID: mesh.UID(name), Namespace: "shop", Name: name, ServiceAccount: "waypoint", TrustDomain: "cluster.local",
			Node: "n1", Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Enrolled: true, Gateway: "shop/waypoint"}
	}
	snapshot, err := mesh.NewSnapshot("e", 7, []*mesh.Workload{pod("wp-1", "10.0.0.1"), pod("wp-2", "10.0.0.2")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	output := &compile.Output{Nodes: []string{"n1"}, Decoded: resource.Decoded{Mesh: snapshot, Policies: &policy.Set{}}}
	hub := relay.NewHub(func(ctx context.Context) (string, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		return md.Get("name")[0], nil
	}, slog.New(slog.DiscardHandler))
	now := time.Now()
	server := New(Config{
		Agents: hub, Published: published{now}, Compiled: func() *compile.Output { return output }, Now: func() time.Time { return now },
		Nodes:      func() []publish.NodeState { return states },
		Controller: func() *adminv1.ControllerStatus { return &adminv1.ControllerStatus{Epoch: "e"} }, Log: slog.New(slog.DiscardHandler),
	})
	g := grpc.NewServer()
	adminv1.RegisterRelayServer(g, hub)
	adminv1.RegisterAdminServer(g, server)
	l := bufconn.Listen(1 << 20)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-served })
	dial := func(name string) *grpc.ClientConn {
		conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
			grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, m string, s grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
				return s(metadata.AppendToOutgoingContext(ctx, "name", name), d, c, m, o...)
			}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for name, s := range speakers {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		c := agentrelay.New(agentrelay.Config{Client: adminv1.NewRelayClient(dial(name)), Admin: s, Log: slog.New(slog.DiscardHandler)})
		go func() { defer close(done); _ = c.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
	}
	for deadline := time.Now().Add(5 * time.Second); len(hub.Nodes())+len(hub.Waypoints()) < len(speakers); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("only %v and %v are connected", hub.Nodes(), hub.Waypoints())
		}
	}
	return adminv1.NewAdminClient(dial("agentctl"))
}

const wp1, wp2 = ca.WaypointCaller + "shop/wp-1", ca.WaypointCaller + "shop/wp-2"

func TestWaypointsAreListedApartAndSpeakForThemselves(t *testing.T) {
	client := meshOf(t, map[string]*speaker{
		"n1": {status: &adminv1.StatusReply{Nodes: []*adminv1.NodeStatus{{Version: "v1"}}}},
		wp1: {status: &adminv1.StatusReply{
			Nodes: []*adminv1.NodeStatus{{Node: "n1"}}, // none of its business
			Waypoints: []*adminv1.WaypointStatus{{Namespace: "evil", Gateway: "evil", Pod: "evil", Node: "n9", Version: "v1", Requests: 5, ControllerConnected: true,
				Problems: []*adminv1.Problem{{Node: "n9", Subject: "x", Text: "y"}}}},
		}},
	}, []publish.NodeState{{Node: "n1", Connected: true, Acked: 7}, {Node: wp1, Connected: true, Acked: 7}, {Node: wp2, Since: time.Unix(1000, 0), Acked: 3}})
	reply, err := client.Status(t.Context(), &adminv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(reply.GetNodes()) != 1 || reply.GetNodes()[0].GetNode() != "n1" || len(reply.GetNodes()[0].GetProblems()) != 0 {
		t.Errorf("nodes are %v", reply.GetNodes())
	}
	if len(reply.GetWaypoints()) != 2 {
		t.Fatalf("waypoints are %v", reply.GetWaypoints())
	}
	first, second := reply.GetWaypoints()[0], reply.GetWaypoints()[1]
	if first.GetNamespace() != "shop" || first.GetGateway() != "waypoint" || first.GetPod() != "wp-1" || first.GetNode() != "n1" ||
		!first.GetConnected() || first.GetRequests() != 5 || first.GetLatestVersion() != 7 || first.GetProblems()[0].GetNode() != "n1" {
		t.Errorf("the one that answers is %v", first)
	}
	if second.GetPod() != "wp-2" || second.GetConnected() || second.GetEnforcedVersion() != 3 || len(second.GetProblems()) != 1 ||
		second.GetProblems()[0].GetSeverity() != adminv1.Problem_WARNING {
		t.Errorf("the one that is away is %v", second)
	}
}

func TestAWaypointOfWhichNobodyIsThereIsAnError(t *testing.T) {
	client := meshOf(t, nil, []publish.NodeState{{Node: "n1", Connected: true, Acked: 7}, {Node: wp2, Since: time.Unix(1000, 0), Acked: 3}})
	reply, err := client.Status(t.Context(), &adminv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range reply.GetWaypoints() {
		if p := w.GetProblems(); len(p) != 1 || p[0].GetSeverity() != adminv1.Problem_ERROR || !strings.Contains(p[0].GetText(), "is refused") {
			t.Errorf("problems of %s are %v", w.GetPod(), p)
		}
	}
}

// TestFlowsOfWaypointsAreMergedAndSigned: requests and connections in one list, each with its true reporter, and filtered
// even if who was asked does not know the filter.
func TestFlowsOfWaypointsAreMergedAndSigned(t *testing.T) {
	flow := func(start int64, http *adminv1.HTTPRequest) *adminv1.Flow {
		return &adminv1.Flow{Reporter: "inbound", Node: "n9", Pod: "evil/evil", StartUnixNano: start, Src: &adminv1.Peer{}, Dst: &adminv1.Peer{}, Http: http}
	}
	client := meshOf(t, map[string]*speaker{
		"n1": {flows: []*adminv1.Flow{flow(1, nil), flow(3, &adminv1.HTTPRequest{Method: "GET"})}},
		wp1:  {flows: []*adminv1.Flow{flow(2, &adminv1.HTTPRequest{Method: "GET"}), flow(4, &adminv1.HTTPRequest{Method: "POST"})}},
	}, nil)
	for _, c := range []struct {
		q    *adminv1.FlowsRequest
		want []string
	}{
		{&adminv1.FlowsRequest{}, []string{"inbound n1  ", "waypoint n1 shop/wp-1 GET", "inbound n1  ", "waypoint n1 shop/wp-1 POST"}},
		{&adminv1.FlowsRequest{Type: "request"}, []string{"waypoint n1 shop/wp-1 GET", "waypoint n1 shop/wp-1 POST"}},
		{&adminv1.FlowsRequest{Type: "connection", Node: "n1"}, []string{"inbound n1  ", "inbound n1  "}},
		{&adminv1.FlowsRequest{Method: "POST"}, []string{"waypoint n1 shop/wp-1 POST"}},
		{&adminv1.FlowsRequest{Node: "n2"}, nil},
	} {
		stream, err := client.Flows(t.Context(), c.q)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			f, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, strings.Join([]string{f.GetReporter(), f.GetNode(), f.GetPod(), f.GetHttp().GetMethod()}, " "))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: got %q, want %q", c.q, got, c.want)
		}
	}
}

func TestAWaypointThatCannotTellIsNoFault(t *testing.T) {
	client := meshOf(t, map[string]*speaker{
		wp1: {},
		wp2: {certs: &adminv1.CertsReply{Certs: []*adminv1.CertInfo{{Node: "n9", SpiffeId: "x", Workloads: []string{"evil/evil"}}}, Bundles: []*adminv1.BundleInfo{{}}}},
	}, nil)
	certs, err := client.Certs(t.Context(), &adminv1.ListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := certs.GetCerts(); len(got) != 1 || got[0].GetNode() != "n1" || !slices.Equal(got[0].GetWorkloads(), []string{"shop/wp-2"}) || len(certs.GetBundles()) != 0 {
		t.Errorf("certificates are %v", certs)
	}
	conns, err := client.Connections(t.Context(), &adminv1.ListRequest{})
	if err != nil || len(conns.GetConnections()) != 0 {
		t.Errorf("%v, %v", conns, err)
	}
	renewed, err := client.Renew(t.Context(), &adminv1.RenewRequest{Root: "x"})
	if err != nil || !slices.Equal(renewed.GetSilent(), []string{"shop/wp-1", "shop/wp-2"}) {
		t.Errorf("%v, %v", renewed, err)
	}
}
