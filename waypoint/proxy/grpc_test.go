package proxy

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// testServer answers as gRPC's interop server does, as far as these tests ask it.
type testServer struct {
	testgrpc.UnimplementedTestServiceServer
}

func (testServer) EmptyCall(context.Context, *testgrpc.Empty) (*testgrpc.Empty, error) {
	return &testgrpc.Empty{}, nil
}

// UnaryCall echoes metadata, in the header and behind the answer, and fails as it is told.
func (testServer) UnaryCall(ctx context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-initial", strings.Join(md["x-initial"], ",")))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailing-bin", strings.Join(md["x-trailing-bin"], "")))
	if s := in.GetResponseStatus(); s != nil {
		return nil, status.Error(codes.Code(s.Code), s.Message)
	}
	return &testgrpc.SimpleResponse{Payload: &testgrpc.Payload{Body: make([]byte, in.ResponseSize)}}, nil
}

func (testServer) StreamingOutputCall(in *testgrpc.StreamingOutputCallRequest, out testgrpc.TestService_StreamingOutputCallServer) error {
	for _, p := range in.ResponseParameters {
		if err := out.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, p.Size)}}); err != nil {
			return err
		}
	}
	return nil
}

func (testServer) StreamingInputCall(in testgrpc.TestService_StreamingInputCallServer) error {
	size := 0
	for {
		m, err := in.Recv()
		if err == io.EOF {
			return in.SendAndClose(&testgrpc.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		}
		if err != nil {
			return err
		}
		size += len(m.GetPayload().GetBody())
	}
}

func (s testServer) FullDuplexCall(both testgrpc.TestService_FullDuplexCallServer) error {
	for {
		m, err := both.Recv()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = s.StreamingOutputCall(m, both)
		}
		if err != nil {
			return err
		}
	}
}

func grpcBackend(t *testing.T) http.Handler {
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, testServer{})
	t.Cleanup(s.Stop)
	return s
}

func (r *rig) grpc() testgrpc.TestServiceClient {
	r.t.Helper()
	c, err := grpc.NewClient("passthrough:///"+r.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("web.shop"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return testgrpc.NewTestServiceClient(c)
}

func TestGRPCCallsOfAllKinds(t *testing.T) {
	r := newRig(t, grpcBackend(t)).start()
	c, ctx := r.grpc(), t.Context()
	large, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{ResponseSize: 314159, Payload: &testgrpc.Payload{Body: make([]byte, 271828)}})
	if err != nil || len(large.Payload.Body) != 314159 {
		t.Errorf("large: %v", err)
	}
	var header, trailer metadata.MD
	message := "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
	_, err = c.UnaryCall(metadata.AppendToOutgoingContext(ctx, "x-initial", "a", "x-trailing-bin", "\x0a\x0b\xff"),
		&testgrpc.SimpleRequest{ResponseStatus: &testgrpc.EchoStatus{Code: 2, Message: message}}, grpc.Header(&header), grpc.Trailer(&trailer))
	if status.Code(err) != codes.Unknown || status.Convert(err).Message() != message || header.Get("x-initial")[0] != "a" ||
		trailer.Get("x-trailing-bin")[0] != "\x0a\x0b\xff" {
		t.Errorf("status: %v, header %v, trailer %v", err, header, trailer)
	}
	if _, err = c.UnimplementedCall(ctx, &testgrpc.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("unimplemented: %v", err)
	}
	in, _ := c.StreamingInputCall(ctx)
	for range 4 {
		_ = in.Send(&testgrpc.StreamingInputCallRequest{Payload: &testgrpc.Payload{Body: make([]byte, 30000)}})
	}
	if sum, err := in.CloseAndRecv(); err != nil || sum.AggregatedPayloadSize != 120000 {
		t.Errorf("client streaming: %v, %v", sum, err)
	}
	out, _ := c.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: 1}, {Size: 90000}, {}}})
	for _, want := range []int{1, 90000, 0} {
		if m, err := out.Recv(); err != nil || len(m.GetPayload().GetBody()) != want {
			t.Errorf("server streaming: %v", err)
		}
	}
	if _, err = out.Recv(); err != io.EOF {
		t.Errorf("the stream's end: %v", err)
	}
	empty, _ := c.FullDuplexCall(ctx)
	_ = empty.CloseSend()
	if _, err = empty.Recv(); err != io.EOF {
		t.Errorf("empty stream: %v", err)
	}
	for range 6 {
		if rec := r.record(); rec.Outcome != exchange.Answered || rec.GRPCStatus < 0 || rec.Protocol != "gRPC" {
			t.Errorf("record of %s: %s, gRPC %d", rec.Path, rec.Outcome, rec.GRPCStatus)
		}
	}
}

func TestGRPCClientsAreToldInGRPCsTerms(t *testing.T) {
	r := newRig(t, grpcBackend(t))
	r.service("shop/slow", "", http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }))
	r.service("shop/down", "", nil)
	r.policies = []*policy.Policy{{Namespace: "shop", Name: "p", Action: policy.Deny, Targets: []string{"Service shop/web"},
		Rules: []policy.Rule{{When: []policy.Condition{{Key: "request.headers[x-case]", Values: []string{"denied"}}}}}}}
	on := func(v string, rule route.Rule) route.Rule {
		rule.Matches = []route.Match{{Headers: []route.ValueMatch{{Name: "X-Case", Value: v}}}}
		return rule
	}
	r.route(
		on("fine", route.Rule{Backends: to("shop/web")}),
		on("denied", route.Rule{Backends: to("shop/web")}),
		on("broken", route.Rule{Backends: to("shop/absent")}),
		on("slow", route.Rule{Backends: to("shop/slow"), Timeout: 60 * time.Millisecond}),
		on("deadline", route.Rule{Backends: to("shop/slow")}),
		on("down", route.Rule{Backends: to("shop/down")}),
	).start()
	c := r.grpc()
	for _, row := range []struct {
		name    string
		want    codes.Code
		outcome exchange.Outcome
	}{
		{"fine", codes.OK, exchange.Answered},
		{"denied", codes.PermissionDenied, exchange.Denied},
		{"broken", codes.Unavailable, exchange.Broken},
		{"slow", codes.DeadlineExceeded, exchange.TimedOut},
		{"deadline", codes.DeadlineExceeded, exchange.TimedOut},
		{"down", codes.Unavailable, exchange.Unreachable},
		{"other", codes.Unimplemented, exchange.NoRoute},
	} {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-case", row.name), 400*time.Millisecond)
		_, err := c.EmptyCall(ctx, &testgrpc.Empty{})
		cancel()
		rec := r.record()
		timedOut := row.name == "deadline" && rec.Outcome == exchange.Gone // the client's own clock was first
		if status.Code(err) != row.want || rec.Outcome != row.outcome && !timedOut || rec.GRPCStatus != int(row.want) && !timedOut || rec.Protocol != "gRPC" {
			t.Errorf("%s: %v, record %s, gRPC %d, %s (%s)", row.name, err, rec.Outcome, rec.GRPCStatus, rec.Protocol, rec.Detail)
		}
	}
}

func TestGRPCStatusesAreRetriedByTheirHTTPCodes(t *testing.T) {
	asked := 0
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.Copy(io.Discard, q.Body)
		asked++
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		if asked < 3 {
			h.Set("Grpc-Status", "14")
			w.WriteHeader(200)
			return
		}
		h.Set("Trailer", "Grpc-Status")
		_, _ = w.Write([]byte{0, 0, 0, 0, 0})
		h.Set("Grpc-Status", "0")
	}))
	r.route(route.Rule{Backends: to("shop/web"), Retry: &route.Retry{Codes: []int{503}, Attempts: 2, Backoff: time.Millisecond}}).start()
	if _, err := r.grpc().EmptyCall(t.Context(), &testgrpc.Empty{}); err != nil || asked != 3 {
		t.Errorf("asked %d times, %v", asked, err)
	}
	if rec := r.record(); rec.GRPCStatus != 0 || len(rec.Tries) != 3 {
		t.Errorf("record: gRPC %d, tries %+v", rec.GRPCStatus, rec.Tries)
	}
}

func TestABidirectionalCallEndsWithItsClient(t *testing.T) {
	r := newRig(t, grpcBackend(t)).start()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := r.grpc().FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err = stream.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: 1000}}}); err != nil {
			t.Fatal(err)
		}
		if m, err := stream.Recv(); err != nil || len(m.GetPayload().GetBody()) != 1000 {
			t.Fatalf("%v, %v", m, err)
		}
	}
	cancel()
	if _, err = stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after the cancel: %v", err)
	}
	if rec := r.record(); rec.Outcome != exchange.Gone {
		t.Errorf("record: %s (%s)", rec.Outcome, rec.Detail)
	}
}
