package admin

import (
	"context"

	"google.golang.org/grpc"

	"github.com/warren-mesh/warren/agent/observe"
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/flowlog"
)

// Flows implements Admin: what is remembered and open, and with follow what comes.
func (s *Server) Flows(q *adminv1.FlowsRequest, out grpc.ServerStreamingServer[adminv1.Flow]) error {
	return s.cfg.Observer.Flows().Serve(q, s.open, out)
}

func (s *Server) open() []*adminv1.Flow {
	var out []*adminv1.Flow
	for _, r := range s.cfg.Proxy.Connections() {
		if r.Verdict != "" { // else it is still being opened
			out = append(out, observe.FlowOf(s.cfg.Node, r))
		}
	}
	return out
}

// Connections implements Admin.
func (s *Server) Connections(_ context.Context, q *adminv1.ListRequest) (*adminv1.ConnectionsReply, error) {
	out := &adminv1.ConnectionsReply{}
	for _, f := range s.open() {
		if flowlog.Match(&adminv1.FlowsRequest{Namespace: q.Namespace}, f) {
			out.Connections = append(out.Connections, f)
		}
	}
	return out, nil
}
