package echo

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	service = "bench.Echo"
	// FromHeader is the response header that says which server answered.
	FromHeader = "from"

	callPatience = 5 * time.Second
)

// register adds the one method: bytes come back as they came.
func register(s *grpc.Server, name string) {
	from := metadata.Pairs(FromHeader, name)
	handle := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.BytesValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		return in, grpc.SetHeader(ctx, from)
	}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Bytes", Handler: handle}},
	}, nil)
}

// Client is one HTTP/2 connection.
type Client struct {
	conn *grpc.ClientConn
}

// NewClient connects by dial once it is first used. The caller must Close it.
func NewClient(dial func(context.Context) (net.Conn, error)) (Client, error) {
	conn, err := grpc.NewClient("passthrough:///bench.mesh",
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	return Client{conn}, err
}

// Close ends what is open on it.
func (c Client) Close() error { return c.conn.Close() }

// Ask sends n bytes, gets them back and returns who answered. pairs are request headers.
func (c Client) Ask(n int, pairs ...string) (from string, err error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), pairs...), callPatience)
	defer cancel()
	var header metadata.MD
	out := new(wrapperspb.BytesValue)
	err = c.conn.Invoke(ctx, "/"+service+"/Bytes", wrapperspb.Bytes(make([]byte, n)), out, grpc.Header(&header))
	if values := header.Get(FromHeader); len(values) > 0 {
		from = values[0]
	}
	return from, err
}
