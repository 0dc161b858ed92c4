// Package relay lets the controller ask this node's agent: it keeps a warren.admin.v1.Relay stream open to the
// controller and runs the calls that arrive on it against an AdminServer in this process. Nothing listens.
//
// The controller is trusted to ask, not to be gentle: calls at a time, the size of requests and what waits to be sent
// are bounded.
package relay

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/adminv1"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
	// maxCalls bounds the calls that run at a time.
	maxCalls = 64
	// maxQueued bounds the replies that wait for the stream: a call that finds no place waits.
	maxQueued = 64
)

// Config is what a Client needs. All fields are required.
type Config struct {
	Client adminv1.RelayClient
	// Admin answers. Only its methods of warren.admin.v1.Admin are reachable.
	Admin adminv1.AdminServer
	Log   *slog.Logger
}

// Client keeps the stream open.
type Client struct{ cfg Config }

// New returns a client.
func New(cfg Config) *Client { return &Client{cfg} }

// Run serves the controller's calls until ctx ends, connecting again whenever the stream is lost. It waits for the
// calls that it started and returns ctx's error.
func (c *Client) Run(ctx context.Context) error {
	delay := minBackoff
	for {
		started := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(started) > maxBackoff {
			delay = minBackoff
		}
		wait := delay/2 + rand.N(delay/2+1)
		c.cfg.Log.Debug("the controller cannot ask this agent", "err", err, "again_in", wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		delay = min(2*delay, maxBackoff)
	}
}

// session is one stream.
type session struct {
	admin   adminv1.AdminServer
	replies chan *adminv1.RelayReply

	mu    sync.Mutex
	calls map[uint64]context.CancelFunc
	wg    sync.WaitGroup
}

func (c *Client) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.cfg.Client.Connect(ctx)
	if err != nil {
		cancel()
		return fmt.Errorf("relay: %w", err)
	}
	s := &session{admin: c.cfg.Admin, replies: make(chan *adminv1.RelayReply, maxQueued), calls: make(map[uint64]context.CancelFunc)}
	s.wg.Add(1)
	go func() { defer s.wg.Done(); defer cancel(); s.send(ctx, stream) }()
	defer s.wg.Wait()
	defer cancel()
	for {
		call, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("relay: %w", err)
		}
		s.take(ctx, call)
	}
}

// send is the only sender on the stream. It ends with ctx or with the stream.
func (s *session) send(ctx context.Context, stream adminv1.Relay_ConnectClient) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-s.replies:
			if err := stream.Send(r); err != nil {
				return // Recv has the reason
			}
		}
	}
}

// take starts or cancels a call.
func (s *session) take(ctx context.Context, call *adminv1.RelayCall) {
	id := call.GetId()
	s.mu.Lock()
	defer s.mu.Unlock()
	if stop, running := s.calls[id]; running || call.GetCancel() {
		if running && call.GetCancel() {
			stop()
		}
		return
	}
	if len(s.calls) >= maxCalls {
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.end(ctx, id, nil, status.Errorf(codes.ResourceExhausted, "this agent is busy with %d calls", maxCalls))
		}()
		return
	}
	callCtx, stop := context.WithCancel(ctx)
	s.calls[id] = stop
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer stop()
		last, err := s.dispatch(callCtx, call)
		s.mu.Lock()
		delete(s.calls, id)
		s.mu.Unlock()
		s.end(ctx, id, last, err)
	}()
}

// end sends the last message of a call.
func (s *session) end(ctx context.Context, id uint64, last proto.Message, err error) {
	r := &adminv1.RelayReply{Id: id, End: true}
	if err == nil && last != nil {
		r.Response, err = proto.Marshal(last)
	}
	if err != nil {
		st := status.Convert(err)
		r.Response, r.Code, r.Error = nil, uint32(st.Code()), st.Message()
		if r.GetCode() == 0 {
			r.Code = uint32(codes.Unknown)
		}
	}
	s.reply(ctx, r)
}

func (s *session) reply(ctx context.Context, r *adminv1.RelayReply) {
	select {
	case s.replies <- r:
	case <-ctx.Done():
	}
}
