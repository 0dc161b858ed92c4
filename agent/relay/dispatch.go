package relay

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/adminv1"
)

// dispatch runs one call by the service's own description, as gRPC would. It returns the last message, nil after a
// stream.
func (s *session) dispatch(ctx context.Context, call *adminv1.RelayCall) (last proto.Message, err error) {
	defer func() {
		if r := recover(); r != nil { // the admin side must not take the data path down
			last, err = nil, status.Errorf(codes.Internal, "%s panicked: %v", call.GetMethod(), r)
		}
	}()
	for i := range adminv1.Admin_ServiceDesc.Methods {
		if m := &adminv1.Admin_ServiceDesc.Methods[i]; m.MethodName == call.GetMethod() {
			reply, err := m.Handler(s.admin, ctx, decode(call.GetRequest()), nil)
			if err != nil {
				return nil, err
			}
			return message(reply)
		}
	}
	for i := range adminv1.Admin_ServiceDesc.Streams {
		if m := &adminv1.Admin_ServiceDesc.Streams[i]; m.StreamName == call.GetMethod() {
			return nil, m.Handler(s.admin, &stream{session: s, ctx: ctx, call: call})
		}
	}
	return nil, status.Errorf(codes.Unimplemented, "this agent has no method %q", call.GetMethod())
}

func decode(request []byte) func(any) error {
	return func(v any) error {
		m, err := message(v)
		if err != nil {
			return err
		}
		if err := proto.Unmarshal(request, m); err != nil {
			return status.Errorf(codes.InvalidArgument, "request: %v", err)
		}
		return nil
	}
}

func message(v any) (proto.Message, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, status.Errorf(codes.Internal, "%T is not a message", v)
	}
	return m, nil
}

// stream is a server's stream whose messages go into the relay.
type stream struct {
	session *session
	ctx     context.Context // the call's: gRPC's interface asks for it
	call    *adminv1.RelayCall
}

var _ grpc.ServerStream = (*stream)(nil)

func (s *stream) SetHeader(metadata.MD) error  { return nil }
func (s *stream) SendHeader(metadata.MD) error { return nil }
func (s *stream) SetTrailer(metadata.MD)       {}
func (s *stream) Context() context.Context     { return s.ctx }

// SendMsg waits for a place in the relay's queue, or for the call's end.
func (s *stream) SendMsg(v any) error {
	m, err := message(v)
	if err != nil {
		return err
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("marshal %s: %w", s.call.GetMethod(), err)
	}
	select {
	case s.session.replies <- &adminv1.RelayReply{Id: s.call.GetId(), Response: b}:
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

// RecvMsg hands over the one request.
func (s *stream) RecvMsg(v any) error { return decode(s.call.GetRequest())(v) }
