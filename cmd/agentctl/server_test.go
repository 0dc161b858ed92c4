package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/adminv1"
)

// fixture is what a script's server answers, by method; each answer is the JSON mapping of a reply.
type fixture struct {
	// Status answers in turn; the last repeats.
	Status      []json.RawMessage `json:"status"`
	Flows       []json.RawMessage `json:"flows"`
	Workloads   json.RawMessage   `json:"workloads"`
	Services    json.RawMessage   `json:"services"`
	Policies    json.RawMessage   `json:"policies"`
	Certs       json.RawMessage   `json:"certs"`
	Connections json.RawMessage   `json:"connections"`
	Authz       json.RawMessage   `json:"authz"`
	Why         json.RawMessage   `json:"why"`
	// Errors by method: a gRPC code's name and a text.
	Errors map[string]struct {
		Code codes.Code `json:"code"`
		Text string     `json:"text"`
	} `json:"errors"`
	// FlowsEnd says that a follow ends after the flows instead of staying open.
	FlowsEnd bool `json:"flowsEnd"`
}

// server answers from a fixture on a real unix socket, and remembers what it was asked.
type server struct {
	adminv1.UnimplementedAdminServer
	fixture
	grpc *grpc.Server
	done chan struct{}

	mu       sync.Mutex
	statuses int
	asked    []string
}

// serve starts a server at socket from a fixture file. stop ends it and every connection.
func serve(file, socket string) (*server, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := &server{grpc: grpc.NewServer(), done: make(chan struct{})}
	if err := json.Unmarshal(raw, &s.fixture); err != nil {
		return nil, fmt.Errorf("fixture %s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	adminv1.RegisterAdminServer(s.grpc, s)
	go func() {
		defer close(s.done)
		_ = s.grpc.Serve(l)
	}()
	return s, nil
}

func (s *server) stop() {
	s.grpc.Stop()
	<-s.done
}

// answer notes the request and fills the reply from the fixture.
func answer[R proto.Message](s *server, method string, req proto.Message, raw json.RawMessage, reply R) (R, error) {
	text, err := toJSON(req)
	if err != nil {
		return reply, err
	}
	s.mu.Lock()
	s.asked = append(s.asked, method+" "+string(text))
	s.mu.Unlock()
	if e, ok := s.Errors[method]; ok {
		return reply, status.Error(e.Code, e.Text)
	}
	if raw == nil {
		return reply, status.Errorf(codes.Unimplemented, "the fixture has no answer to %s", method)
	}
	return reply, protojson.Unmarshal(raw, reply)
}

func (s *server) Status(_ context.Context, r *adminv1.StatusRequest) (*adminv1.StatusReply, error) {
	s.mu.Lock()
	var raw json.RawMessage
	if len(s.fixture.Status) > 0 {
		raw = s.fixture.Status[min(s.statuses, len(s.fixture.Status)-1)]
	}
	s.statuses++
	s.mu.Unlock()
	return answer(s, "Status", r, raw, &adminv1.StatusReply{})
}

func (s *server) Flows(r *adminv1.FlowsRequest, out adminv1.Admin_FlowsServer) error {
	if _, err := answer(s, "Flows", r, json.RawMessage("{}"), &adminv1.Flow{}); err != nil {
		return err
	}
	for _, raw := range s.fixture.Flows {
		f := &adminv1.Flow{}
		if err := protojson.Unmarshal(raw, f); err != nil {
			return err
		}
		if err := out.Send(f); err != nil {
			return err
		}
	}
	if r.Follow && !s.FlowsEnd {
		<-out.Context().Done()
	}
	return nil
}

func (s *server) Workloads(_ context.Context, r *adminv1.ListRequest) (*adminv1.WorkloadsReply, error) {
	return answer(s, "Workloads", r, s.fixture.Workloads, &adminv1.WorkloadsReply{})
}

func (s *server) Services(_ context.Context, r *adminv1.ListRequest) (*adminv1.ServicesReply, error) {
	return answer(s, "Services", r, s.fixture.Services, &adminv1.ServicesReply{})
}

func (s *server) Policies(_ context.Context, r *adminv1.ListRequest) (*adminv1.PoliciesReply, error) {
	return answer(s, "Policies", r, s.fixture.Policies, &adminv1.PoliciesReply{})
}

func (s *server) Certs(_ context.Context, r *adminv1.ListRequest) (*adminv1.CertsReply, error) {
	return answer(s, "Certs", r, s.fixture.Certs, &adminv1.CertsReply{})
}

func (s *server) Connections(_ context.Context, r *adminv1.ListRequest) (*adminv1.ConnectionsReply, error) {
	return answer(s, "Connections", r, s.fixture.Connections, &adminv1.ConnectionsReply{})
}

func (s *server) Authz(_ context.Context, r *adminv1.AuthzRequest) (*adminv1.AuthzReply, error) {
	return answer(s, "Authz", r, s.fixture.Authz, &adminv1.AuthzReply{})
}

func (s *server) Why(_ context.Context, r *adminv1.WhyRequest) (*adminv1.WhyReply, error) {
	return answer(s, "Why", r, s.fixture.Why, &adminv1.WhyReply{})
}

// TestFixtureAnswersAreChecked proves that a typo in a fixture fails a script instead of meaning an empty answer.
func TestFixtureAnswersAreChecked(t *testing.T) {
	_, err := answer(&server{}, "Authz", &adminv1.AuthzRequest{}, json.RawMessage(`{"alowed": true}`), &adminv1.AuthzReply{})
	if err == nil {
		t.Fatal("an unknown field passed")
	}
}
