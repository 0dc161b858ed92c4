// Package relay is the controller's side of warren.admin.v1.Relay: it keeps the stream that every agent and every pod of a
// waypoint opened, and asks them over it. What is said of agents and nodes below holds for waypoints and their pods.
//
// An agent may be slow, gone or hostile: calls a node are bounded, every call ends with its context, and an answer
// that nobody reads fast enough is cut instead of kept.
package relay

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/ca"
)

const (
	// maxCalls bounds the calls to one agent that run at a time.
	maxCalls = 48
	// maxBuffered bounds the answers of one call that wait for their reader.
	maxBuffered = 256
)

// ErrNotConnected is wrapped by the error of asking a node whose agent keeps no stream open.
var ErrNotConnected = errors.New("its agent is not connected")

// ErrSlowReader is wrapped by the error of a stream whose reader fell too far behind.
var ErrSlowReader = errors.New("cut off: read too slowly")

// ErrBusy is wrapped by the error of asking an agent that is asked too much already.
var ErrBusy = errors.New("too many calls to its agent")

// Hub serves warren.admin.v1.Relay. It is safe for concurrent use.
type Hub struct {
	adminv1.UnimplementedRelayServer
	caller func(ctx context.Context) (node string, err error)
	log    *slog.Logger

	mu    sync.Mutex
	links map[string]*link
}

// NewHub returns a hub without agents. caller returns a stream's node, from its certificate.
func NewHub(caller func(ctx context.Context) (node string, err error), log *slog.Logger) *Hub {
	return &Hub{caller: caller, log: log, links: make(map[string]*link)}
}

// Nodes returns the nodes whose agents can be asked, sorted.
func (h *Hub) Nodes() []string { return h.callers(false) }

// Waypoints returns the waypoints' pods that can be asked, sorted, as their certificates' callers are named:
// [ca.WaypointCaller] and "<namespace>/<pod>".
func (h *Hub) Waypoints() []string { return h.callers(true) }

func (h *Hub) callers(waypoints bool) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for name := range h.links {
		if strings.HasPrefix(name, ca.WaypointCaller) == waypoints {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Connect implements adminv1.RelayServer. A node has one stream: a newer one ends the older.
func (h *Hub) Connect(stream adminv1.Relay_ConnectServer) error {
	node, err := h.caller(stream.Context())
	if err != nil {
		return status.Errorf(codes.Unauthenticated, "relay: %v", err)
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	l := &link{node: node, cancel: cancel, ctx: ctx, out: make(chan *adminv1.RelayCall, maxCalls), calls: make(map[uint64]*call)}
	h.mu.Lock()
	if old := h.links[node]; old != nil {
		old.cancel(errReplaced)
	}
	h.links[node] = l
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		if h.links[node] == l {
			delete(h.links, node)
		}
		h.mu.Unlock()
		cancel(nil)
		l.end()
	}()
	go l.receive(stream) // ends with the stream, which gRPC ends when Connect returns
	return l.send(stream)
}

// Close ends every stream. Agents come back.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.links {
		l.cancel(errClosing)
	}
}

var errClosing = errors.New("the controller stops")

var errReplaced = errors.New("a newer relay of this node replaced this one")

func (h *Hub) link(node string) (*link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.links[node]; l != nil {
		return l, nil
	}
	return nil, status.Errorf(codes.Unavailable, "node %s: %v", node, ErrNotConnected)
}

// Ask calls a method that has one answer, and fills resp with it. Errors are gRPC statuses: the agent's own,
// Unavailable if it is not connected, or the context's.
func (h *Hub) Ask(ctx context.Context, node, method string, req, resp proto.Message) error {
	return h.call(ctx, node, method, req, func(r *adminv1.RelayReply) error {
		if !r.GetEnd() {
			return status.Errorf(codes.Internal, "node %s: %s has more than one answer", node, method)
		}
		return proto.Unmarshal(r.GetResponse(), resp)
	})
}

// Stream calls a method that has many answers, and hands each of them, still encoded, to each until the call ends,
// ctx ends or each returns an error, which it then returns. Errors are as of Ask.
func (h *Hub) Stream(ctx context.Context, node, method string, req proto.Message, each func([]byte) error) error {
	return h.call(ctx, node, method, req, func(r *adminv1.RelayReply) error {
		if r.GetEnd() {
			return nil
		}
		return each(r.GetResponse())
	})
}

func (h *Hub) call(ctx context.Context, node, method string, req proto.Message, each func(*adminv1.RelayReply) error) error {
	l, err := h.link(node)
	if err != nil {
		return err
	}
	b, err := proto.Marshal(req)
	if err != nil {
		return status.Errorf(codes.Internal, "marshal %s: %v", method, err)
	}
	c, err := l.start(method, b)
	if err != nil {
		return err
	}
	defer l.stop(c)
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case r, ok := <-c.replies:
			switch {
			case !ok:
				return c.failure(l)
			case r.GetCode() != 0:
				return status.Error(codes.Code(r.GetCode()), r.GetError())
			}
			if err := each(r); err != nil || r.GetEnd() {
				return err
			}
		}
	}
}
