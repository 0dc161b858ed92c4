package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	agentrelay "github.com/warren-mesh/warren/agent/relay"
	"github.com/warren-mesh/warren/api/adminv1"
)

// agentAdmin answers as an agent would; what a test does not set is unimplemented.
type agentAdmin struct {
	adminv1.UnimplementedAdminServer
	status func(context.Context) (*adminv1.StatusReply, error)
	flows  func(adminv1.Admin_FlowsServer) error
}

func (a *agentAdmin) Status(ctx context.Context, _ *adminv1.StatusRequest) (*adminv1.StatusReply, error) {
	return a.status(ctx)
}

func (a *agentAdmin) Flows(_ *adminv1.FlowsRequest, stream adminv1.Admin_FlowsServer) error {
	return a.flows(stream)
}

func (a *agentAdmin) Authz(_ context.Context, req *adminv1.AuthzRequest) (*adminv1.AuthzReply, error) {
	return &adminv1.AuthzReply{Rule: req.GetFrom() + "→" + req.GetTo()}, nil
}

func (a *agentAdmin) Workloads(context.Context, *adminv1.ListRequest) (*adminv1.WorkloadsReply, error) {
	return &adminv1.WorkloadsReply{}, nil // marshals to no bytes at all
}

func (a *agentAdmin) Certs(context.Context, *adminv1.ListRequest) (*adminv1.CertsReply, error) {
	panic("a bug in the admin side")
}

// network is a hub behind a connection in memory, whose every caller is node n1.
func network(t *testing.T) (*Hub, adminv1.RelayClient) {
	t.Helper()
	hub := NewHub(func(context.Context) (string, error) { return "n1", nil }, slog.New(slog.DiscardHandler))
	g := grpc.NewServer()
	adminv1.RegisterRelayServer(g, hub)
	l := bufconn.Listen(1 << 20)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); g.Stop(); <-done })
	return hub, adminv1.NewRelayClient(conn)
}

// connected runs an agent's relay and waits until the hub has it.
func connected(t *testing.T, admin *agentAdmin) *Hub {
	t.Helper()
	hub, client := network(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	c := agentrelay.New(agentrelay.Config{Client: client, Admin: admin, Log: slog.New(slog.DiscardHandler)})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	waitFor(t, "the agent's stream", func() bool { return len(hub.Nodes()) == 1 })
	return hub
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
	}
}

func TestAskReachesTheAgent(t *testing.T) {
	hub := connected(t, &agentAdmin{})
	var reply adminv1.AuthzReply
	if err := hub.Ask(t.Context(), "n1", "Authz", &adminv1.AuthzRequest{From: "a/x", To: "b/y"}, &reply); err != nil || reply.GetRule() != "a/x→b/y" {
		t.Errorf("%v, %v", &reply, err)
	}
	if err := hub.Ask(t.Context(), "n1", "Workloads", &adminv1.ListRequest{}, &adminv1.WorkloadsReply{}); err != nil {
		t.Errorf("an empty answer is an answer: %v", err)
	}
}

func TestAskFailsAsTheAgentFails(t *testing.T) {
	hub := connected(t, &agentAdmin{status: func(context.Context) (*adminv1.StatusReply, error) {
		return nil, status.Error(codes.NotFound, "no such pod")
	}})
	for _, c := range []struct {
		node, method string
		code         codes.Code
		text         string
	}{
		{"n1", "Status", codes.NotFound, "no such pod"},
		{"n1", "Services", codes.Unimplemented, "Services"},
		{"n1", "Add", codes.Unimplemented, `no method "Add"`}, // warren.admin.v1.Pods is not Admin
		{"n1", "Certs", codes.Internal, "a bug in the admin side"},
		{"n2", "Status", codes.Unavailable, "not connected"},
	} {
		err := hub.Ask(t.Context(), c.node, c.method, &adminv1.ListRequest{}, &adminv1.StatusReply{})
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v …%s…", c.method, err, c.code, c.text)
		}
	}
}

func TestCallEndsWithItsContextAtTheAgentToo(t *testing.T) {
	ended := make(chan struct{})
	hub := connected(t, &agentAdmin{status: func(ctx context.Context) (*adminv1.StatusReply, error) {
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := hub.Ask(ctx, "n1", "Status", &adminv1.StatusRequest{}, &adminv1.StatusReply{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the agent still works for nobody")
	}
}

func TestFlowsStreamInOrderUntilTheReaderStops(t *testing.T) {
	ended := make(chan error, 1)
	hub := connected(t, &agentAdmin{flows: func(stream adminv1.Admin_FlowsServer) error {
		for i := 0; ; i++ {
			if err := stream.Send(&adminv1.Flow{Id: fmt.Sprint(i)}); err != nil {
				ended <- err
				return err
			}
			if i == 9 {
				<-stream.Context().Done()
			}
		}
	}})
	enough := errors.New("enough")
	var ids []string
	err := hub.Stream(t.Context(), "n1", "Flows", &adminv1.FlowsRequest{}, func(b []byte) error {
		var f adminv1.Flow
		if err := proto.Unmarshal(b, &f); err != nil {
			return err
		}
		if ids = append(ids, f.GetId()); len(ids) == 10 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || strings.Join(ids, "") != "0123456789" {
		t.Errorf("%v after %v", err, ids)
	}
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("the agent's stream ended by %v", err)
	}
}

func TestSlowReaderIsCutAndSaidToBe(t *testing.T) {
	hub := connected(t, &agentAdmin{flows: func(stream adminv1.Admin_FlowsServer) error {
		for {
			if err := stream.Send(&adminv1.Flow{Detail: "x"}); err != nil {
				return err
			}
		}
	}})
	hub.mu.Lock()
	link := hub.links["n1"]
	hub.mu.Unlock()
	read := 0
	err := hub.Stream(t.Context(), "n1", "Flows", &adminv1.FlowsRequest{}, func([]byte) error {
		if read++; read == 1 { // the reader stalls until the hub gave up on it
			waitFor(t, "the cut", func() bool { link.mu.Lock(); defer link.mu.Unlock(); return len(link.calls) == 0 })
		}
		return nil
	})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "read too slowly") || read > maxBuffered+2 {
		t.Errorf("%v after %d flows", err, read)
	}
	var reply adminv1.AuthzReply
	if err := hub.Ask(t.Context(), "n1", "Authz", &adminv1.AuthzRequest{}, &reply); err != nil {
		t.Errorf("the agent cannot be asked any more: %v", err)
	}
}

func TestCallsUnderWayAreBounded(t *testing.T) {
	release := make(chan struct{})
	hub := connected(t, &agentAdmin{status: func(context.Context) (*adminv1.StatusReply, error) {
		<-release
		return &adminv1.StatusReply{}, nil
	}})
	hub.mu.Lock()
	link := hub.links["n1"]
	hub.mu.Unlock()
	results := make(chan error, maxCalls)
	for i := range maxCalls {
		go func() {
			results <- hub.Ask(t.Context(), "n1", "Status", &adminv1.StatusRequest{}, &adminv1.StatusReply{})
		}()
		waitFor(t, "the call", func() bool {
			link.mu.Lock()
			defer link.mu.Unlock()
			return len(link.calls) == i+1 && len(link.out) == 0
		})
	}
	err := hub.Ask(t.Context(), "n1", "Status", &adminv1.StatusRequest{}, &adminv1.StatusReply{})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "too many calls") {
		t.Errorf("one call too many: %v", err)
	}
	close(release)
	for range maxCalls {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestLostAgentEndsItsCallsAndANewerStreamTakesOver(t *testing.T) {
	hub, client := network(t)
	first, err := client.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the first stream", func() bool { return len(hub.Nodes()) == 1 })
	result := make(chan error, 1)
	go func() {
		result <- hub.Ask(t.Context(), "n1", "Status", &adminv1.StatusRequest{}, &adminv1.StatusReply{})
	}()
	if _, err := first.Recv(); err != nil { // the question is under way
		t.Fatal(err)
	}
	second, err := client.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := <-result; status.Code(err) != codes.Unavailable {
		t.Errorf("the call of the lost stream: %v", err)
	}
	if _, err := first.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the older stream: %v", err)
	}
	go func() {
		result <- hub.Ask(t.Context(), "n1", "Status", &adminv1.StatusRequest{}, &adminv1.StatusReply{})
	}()
	call, err := second.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Send(&adminv1.RelayReply{Id: call.GetId() + 99, End: true}); err != nil { // nonsense is ignored
		t.Fatal(err)
	}
	if err := second.Send(&adminv1.RelayReply{Id: call.GetId(), End: true, Response: []byte{0xff}}); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err == nil {
		t.Error("an answer that cannot be decoded was accepted")
	}
}
