package publish

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
)

// world returns resources of workloads "name" or "name=app".
func world(names ...string) map[string]*meshv1.Resource {
	out := make(map[string]*meshv1.Resource)
	for _, n := range names {
		name, app, _ := strings.Cut(n, "=")
		r := resource.Workload(&meshv1.Workload{Uid: name, App: app})
		out[r.GetKey()] = r
	}
	return out
}

func encode(t testing.TB, resources map[string]*meshv1.Resource) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte, len(resources))
	for key, r := range resources {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		out[key] = b
	}
	return out
}

func publish(t *testing.T, p *Publisher, names ...string) uint64 {
	t.Helper()
	return p.Publish(encode(t, world(names...)), nil, time.Now())
}

// text writes an update as "base→version +set -removed".
func text(t *testing.T, e *Encoded) string {
	t.Helper()
	var u meshv1.Update
	if err := proto.Unmarshal(slices.Concat(e.shared, e.own), &u); err != nil {
		t.Fatal(err)
	}
	return updateText(&u)
}

func updateText(u *meshv1.Update) string {
	var b strings.Builder
	b.WriteString(string(rune('0'+u.GetBase())) + "→" + string(rune('0'+u.GetVersion())))
	for _, r := range u.GetSet() {
		b.WriteString(" +" + r.GetWorkload().GetUid())
	}
	for _, k := range u.GetRemoved() {
		b.WriteString(" -" + strings.TrimPrefix(k, "workload/"))
	}
	return b.String()
}

func TestDeltasAreMergedFromAnyBase(t *testing.T) {
	p := New("e")
	publish(t, p, "a", "b")
	publish(t, p, "a", "b=2", "c")
	if v := publish(t, p, "a", "b=2", "c"); v != 2 {
		t.Errorf("the same resources again are version %d", v)
	}
	publish(t, p, "a", "b=3")
	for base, want := range map[uint64]string{
		0: "0→3 +a +b",
		1: "1→3 +b", // c came and went: an agent at 1 never had it
		2: "2→3 +b -c",
	} {
		e, _ := p.update(base, nil)
		if got := text(t, e); got != want {
			t.Errorf("from %d: %s, want %s", base, got, want)
		}
	}
	if v := p.ChangedIn("workload/a"); v != 1 {
		t.Errorf("a changed in %d", v)
	}
	if v := p.ChangedIn("workload/c"); v != 0 {
		t.Errorf("c, which is gone, changed in %d", v)
	}
}

func TestUpdateIsMarshalledOnceForAll(t *testing.T) {
	p := New("e")
	publish(t, p, "a")
	first, _ := p.update(0, []string{"n1"})
	second, _ := p.update(0, []string{"n2"})
	if &first.shared[0] != &second.shared[0] {
		t.Error("marshalled twice")
	}
	publish(t, p, "b")
	if third, _ := p.update(0, nil); &third.shared[0] == &first.shared[0] {
		t.Error("an old version was sent for a new one")
	}
}

// served is a server on a connection in memory; the caller's node is in the metadata.
func served(t *testing.T, p *Publisher, observe func(time.Duration)) (*Server, meshv1.MeshClient) {
	t.Helper()
	codec, err := Codec()
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(Config{Publisher: p, Now: time.Now, Log: slog.New(slog.DiscardHandler), Observe: observe,
		Audiences: func(caller string) []string { return []string{caller} },
		Caller: func(ctx context.Context) (string, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			if len(md["node"]) == 0 {
				return "", errors.New("nobody")
			}
			return md["node"][0], nil
		}})
	g := grpc.NewServer(grpc.ForceServerCodecV2(codec))
	meshv1.RegisterMeshServer(g, s)
	l := bufconn.Listen(1 << 20)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); g.Stop(); <-done })
	return s, meshv1.NewMeshClient(conn)
}

// agent is the far end of a stream.
type agent struct {
	t      *testing.T
	stream meshv1.Mesh_WatchClient
}

func connect(t *testing.T, c meshv1.MeshClient, node, epoch string, version uint64) agent {
	t.Helper()
	stream, err := c.Watch(metadata.AppendToOutgoingContext(t.Context(), "node", node))
	if err != nil {
		t.Fatal(err)
	}
	a := agent{t, stream}
	a.send(&meshv1.WatchRequest{Kind: &meshv1.WatchRequest_Hello{Hello: &meshv1.Hello{Epoch: epoch, Version: version, AgentVersion: "v1"}}})
	return a
}

func (a agent) send(r *meshv1.WatchRequest) {
	a.t.Helper()
	if err := a.stream.Send(r); err != nil {
		a.t.Fatal(err)
	}
}

func (a agent) ack(v uint64) {
	a.send(&meshv1.WatchRequest{Kind: &meshv1.WatchRequest_Ack{Ack: &meshv1.Ack{Version: v}}})
}

func (a agent) nack(v uint64, reason string) {
	a.send(&meshv1.WatchRequest{Kind: &meshv1.WatchRequest_Nack{Nack: &meshv1.Nack{Version: v, Reason: reason}}})
}

func (a agent) want(text string) {
	a.t.Helper()
	u, err := a.stream.Recv()
	if err != nil {
		a.t.Fatal(err)
	}
	if got := updateText(u); got != text {
		a.t.Errorf("got %s, want %s", got, text)
	}
}

func (a agent) wantError(code codes.Code, text string) {
	a.t.Helper()
	_, err := a.stream.Recv()
	if status.Code(err) != code || !strings.Contains(err.Error(), text) {
		a.t.Errorf("got %v, want %v: …%s…", err, code, text)
	}
}

// nodeIs waits until the server's view of its only node satisfies ok.
func nodeIs(t *testing.T, s *Server, what string, ok func(NodeState) bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		nodes := s.Nodes()
		if len(nodes) == 1 && ok(nodes[0]) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: nodes are %+v", what, nodes)
		}
		<-time.After(time.Millisecond)
	}
}

func TestSlowAgentGetsOneMergedDelta(t *testing.T) {
	p := New("e")
	s, client := served(t, p, nil)
	a := connect(t, client, "n1", "", 0)
	nodeIs(t, s, "connected before the first version", func(n NodeState) bool { return n.Connected && n.AgentVersion == "v1" })
	publish(t, p, "a")
	a.want("0→1 +a")
	publish(t, p, "a", "b") // while the agent is busy with 1
	publish(t, p, "a", "b", "c")
	publish(t, p, "b", "c")
	a.ack(1)
	a.want("1→4 +b +c -a")
	a.ack(4)
	nodeIs(t, s, "acked", func(n NodeState) bool { return n.Acked == 4 && n.Sent == 4 })
}

func TestReconnectContinuesWhereTheAgentWas(t *testing.T) {
	p := New("e")
	_, client := served(t, p, nil)
	publish(t, p, "a")
	publish(t, p, "a", "b")
	connect(t, client, "n1", "e", 1).want("1→2 +b")
	connect(t, client, "n2", "other", 1).want("0→2 +a +b")
	connect(t, client, "n3", "e", 0).want("0→2 +a +b")
	current := connect(t, client, "n4", "e", 2)
	if _, err := current.stream.Header(); err != nil { // connected, and there is nothing to send
		t.Fatal(err)
	}
	publish(t, p, "a", "b", "c")
	current.want("2→3 +c")
}

func TestRefusedVersionIsNotSentAgainButANewerOneIs(t *testing.T) {
	p := New("e")
	s, client := served(t, p, nil)
	publish(t, p, "a")
	a := connect(t, client, "n1", "", 0)
	a.want("0→1 +a")
	a.ack(1)
	publish(t, p, "b")
	a.want("1→2 +b -a")
	a.nack(2, "cannot have b")
	nodeIs(t, s, "nacked", func(n NodeState) bool { return n.Nack == "cannot have b" && n.NackVersion == 2 && n.Acked == 1 })
	publish(t, p, "c")
	a.want("1→3 +c -a")
	a.ack(3)
	nodeIs(t, s, "cured", func(n NodeState) bool { return n.Nack == "" && n.Acked == 3 })
}

func TestNewerStreamReplacesTheOlder(t *testing.T) {
	p := New("e")
	s, client := served(t, p, nil)
	publish(t, p, "a")
	old := connect(t, client, "n1", "", 0)
	old.want("0→1 +a")
	young := connect(t, client, "n1", "", 0)
	young.want("0→1 +a")
	old.wantError(codes.Aborted, "newer stream")
	young.ack(1)
	nodeIs(t, s, "the younger one counts", func(n NodeState) bool { return n.Connected && n.Acked == 1 })
	s.Close()
	young.wantError(codes.Aborted, "stops")
	nodeIs(t, s, "gone", func(n NodeState) bool { return !n.Connected && n.Acked == 1 })
}

func TestProtocolErrorsEndTheStream(t *testing.T) {
	p := New("e")
	_, client := served(t, p, nil)
	publish(t, p, "a")

	a := connect(t, client, "n1", "", 0)
	a.want("0→1 +a")
	a.ack(7)
	a.wantError(codes.InvalidArgument, "7 was acknowledged, 1 is on its way")

	a = connect(t, client, "n1", "e", 1)
	a.ack(1)
	a.wantError(codes.InvalidArgument, "acknowledged")

	stream, err := client.Watch(metadata.AppendToOutgoingContext(t.Context(), "node", "n1"))
	if err != nil {
		t.Fatal(err)
	}
	a = agent{t, stream}
	a.ack(1)
	a.wantError(codes.InvalidArgument, "first request must be a hello")

	stream, err = client.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	agent{t, stream}.wantError(codes.Unauthenticated, "nobody")
}

func TestPropagationCountsEveryVersionSinceConnecting(t *testing.T) {
	p := New("e")
	observed := make(chan time.Duration, 16)
	s, client := served(t, p, func(d time.Duration) { observed <- d })
	publish(t, p, "a") // before anybody was there
	a := connect(t, client, "n1", "", 0)
	a.want("0→1 +a")
	publish(t, p, "b")
	publish(t, p, "c")
	a.ack(1)
	a.want("1→3 +c -a")
	a.ack(3)
	nodeIs(t, s, "acked", func(n NodeState) bool { return n.Acked == 3 })
	if len(observed) != 2 {
		t.Errorf("%d observations, want one each for 2 and 3", len(observed))
	}
}

func TestForgottenNodesAreTheLongestGone(t *testing.T) {
	table := nodes{table: make(map[string]*node)}
	start := time.Unix(1000, 0)
	for i := range maxNodes {
		name := time.Duration(i).String()
		id := table.connect(name, "v", start, func(error) {})
		if i == 5 || i == 6 {
			table.disconnect(name, id, start.Add(-time.Duration(i)*time.Second))
		}
	}
	table.connect("new", "v", start, func(error) {})
	if _, there := table.table[time.Duration(6).String()]; there || len(table.table) != maxNodes {
		t.Errorf("%d nodes, the longest gone still there: %v", len(table.table), there)
	}
}
