package admin

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/agent/observe"
	"github.com/warren-mesh/warren/api/adminv1"
)

// defaultLast is how many flows are shown if nobody says.
const defaultLast = 20

// Flows implements Admin: what is remembered and open, and with follow what comes.
func (s *Server) Flows(q *adminv1.FlowsRequest, out grpc.ServerStreamingServer[adminv1.Flow]) error {
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	var live <-chan *adminv1.Flow
	if q.Follow {
		ch, ok := s.cfg.Observer.Follow(ctx)
		if !ok {
			return status.Error(codes.ResourceExhausted, "too many follow this node's flows already")
		}
		live = ch
	}
	for _, f := range s.past(q) {
		if err := out.Send(f); err != nil {
			return err
		}
	}
	if live == nil {
		return nil
	}
	for f := range live {
		if !observe.Match(q, f) {
			continue
		}
		if err := out.Send(f); err != nil {
			return err
		}
	}
	return nil
}

// past returns what matches, oldest first, the newest `last` of it.
func (s *Server) past(q *adminv1.FlowsRequest) []*adminv1.Flow {
	var match []*adminv1.Flow
	for _, f := range append(s.cfg.Observer.Ended(), s.open()...) {
		if observe.Match(q, f) {
			match = append(match, f)
		}
	}
	slices.SortStableFunc(match, func(a, b *adminv1.Flow) int { return cmp.Compare(a.StartUnixNano, b.StartUnixNano) })
	last := int(q.Last)
	if last == 0 && q.SinceUnixNano == 0 {
		last = defaultLast
	}
	if last > 0 && len(match) > last {
		match = match[len(match)-last:]
	}
	return match
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
		if observe.Match(&adminv1.FlowsRequest{Namespace: q.Namespace}, f) {
			out.Connections = append(out.Connections, f)
		}
	}
	return out, nil
}
