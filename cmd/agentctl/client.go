package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
)

// maxAnswer bounds one answer, bytes: a status of some ten thousand pods.
const maxAnswer = 64 << 20

// client asks one socket.
type client struct {
	adminv1.AdminClient
	socket string
	conn   *grpc.ClientConn
}

// connect finds a socket and wraps it. The caller closes the client.
func (a *app) connect(ctx context.Context) (*client, error) {
	found, err := a.find(ctx)
	if err != nil {
		return nil, err
	}
	var first atomic.Pointer[net.Conn]
	first.Store(&found.conn)
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		if c := first.Swap(nil); c != nil {
			return *c, nil
		}
		return found.redial(ctx)
	}
	// The kernel vouches for who is on a unix socket: its mode is 0600 and nothing leaves the machine.
	conn, err := grpc.NewClient("passthrough:///warren",
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		found.conn.Close()
		return nil, fmt.Errorf("prepare to ask %s: %w", found.path, err)
	}
	return &client{AdminClient: adminv1.NewAdminClient(conn), socket: found.path, conn: conn}, nil
}

func (c *client) close() { _ = c.conn.Close() }

// ask connects, runs one request within the request timeout and closes. Errors are sentences with a hint.
func ask[Req, Rep any](ctx context.Context, a *app, method func(adminv1.AdminClient, context.Context, Req, ...grpc.CallOption) (Rep, error), req Req) (Rep, error) {
	var none Rep
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return none, err
	}
	defer c.close()
	rep, err := method(c, ctx, req)
	if err != nil {
		return none, a.explain(c.socket, err)
	}
	return rep, nil
}

// explain turns a gRPC error into a sentence and a hint.
func (a *app) explain(socket string, err error) error {
	f := &failure{text: status.Convert(err).Message(), err: err}
	switch status.Code(err) {
	case codes.Unavailable:
		f.text = fmt.Sprintf("lost the connection to %s: %s", socket, f.text)
		f.hint = "see whether the controller or agent still runs: agentctl status"
	case codes.DeadlineExceeded:
		f.text = fmt.Sprintf("%s did not answer within %s", socket, a.timeout)
		f.hint = "wait longer with --request-timeout, or look at its log"
	case codes.Unimplemented:
		f.text = fmt.Sprintf("%s does not answer this request: %s", socket, f.text)
		f.hint = "it may be older than this agentctl: agentctl version"
	case codes.NotFound:
		f.hint = "see what there is: agentctl workloads"
	case codes.PermissionDenied:
		f.hint = "only root may ask: use sudo"
	case codes.Canceled:
		f.text, f.err = "interrupted", errors.Join(context.Canceled, err)
	}
	return f
}
