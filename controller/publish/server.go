package publish

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/meshv1"
)

// Caller returns the name of the node that calls, from its certificate.
type Caller func(ctx context.Context) (node string, err error)

// Config is what a Server needs. All fields are required but Observe.
type Config struct {
	Publisher *Publisher
	Caller    Caller
	// Audiences are what a caller is known by: it gets the resources that are for everybody, and those for one of them.
	// They must be the same whenever it calls.
	Audiences func(caller string) []string
	Now       func() time.Time
	Log       *slog.Logger
	// Observe is told how long a version took from compiled to enforced on one node.
	Observe func(time.Duration)
}

// Server serves warren.mesh.v1.Mesh.
type Server struct {
	meshv1.UnimplementedMeshServer
	cfg   Config
	nodes nodes
}

// NewServer returns a server. Its gRPC server must use [Codec].
func NewServer(cfg Config) *Server {
	if cfg.Observe == nil {
		cfg.Observe = func(time.Duration) {}
	}
	return &Server{cfg: cfg, nodes: nodes{table: make(map[string]*node)}}
}

// Nodes returns what is known about every node that ever connected, sorted by name.
func (s *Server) Nodes() []NodeState { return s.nodes.all() }

// errReplaced ends a stream when its node opened a newer one.
var errReplaced = errors.New("a newer stream of this node replaced this one")

// errClosing ends every stream when the controller stops.
var errClosing = errors.New("the controller stops")

// Close ends every stream. Agents keep what they enforce and come back.
func (s *Server) Close() { s.nodes.closeAll() }

// Watch implements meshv1.MeshServer. A node has one stream: a newer one ends the older.
func (s *Server) Watch(stream meshv1.Mesh_WatchServer) error {
	name, err := s.cfg.Caller(stream.Context())
	if err != nil {
		return status.Errorf(codes.Unauthenticated, "watch: %v", err)
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "watch: the first request must be a hello")
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	w := &watch{
		cfg: s.cfg, nodes: &s.nodes, stream: stream, node: name, started: s.cfg.Now(), audiences: s.cfg.Audiences(name),
		base: s.cfg.Publisher.base(hello.GetEpoch(), hello.GetVersion()),
	}
	w.id = s.nodes.connect(name, clip(hello.GetAgentVersion()), w.started, cancel)
	defer func() { s.nodes.disconnect(name, w.id, s.cfg.Now()) }()
	s.nodes.update(name, w.id, func(n *NodeState) { n.Acked, n.Sent = w.base, w.base })
	if err := stream.SendHeader(metadata.MD{}); err != nil { // tells an agent that has nothing to get that it is connected
		return err
	}
	s.cfg.Log.Info("agent connected", "node", name, "base", w.base)
	err = w.run(ctx)
	s.cfg.Log.Info("agent disconnected", "node", name, "err", err)
	return err
}

// watch is one stream.
type watch struct {
	cfg     Config
	nodes   *nodes
	stream  meshv1.Mesh_WatchServer
	node    string
	id      uint64
	started time.Time
	// audiences are what the agent is known by.
	audiences []string

	base    uint64 // what the agent enforces
	sent    uint64 // what is on its way to it, 0 if nothing is
	refused uint64 // what it refused last
}

// run sends the newest version whenever the agent is not busy with an older one, until the stream ends.
func (w *watch) run(ctx context.Context) error {
	requests := w.receive(ctx)
	for {
		newest, changed := w.cfg.Publisher.newest()
		if w.sent == 0 && newest > w.base && newest > w.refused {
			if err := w.send(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			switch cause := context.Cause(ctx); cause {
			case errReplaced, errClosing:
				return status.Error(codes.Aborted, cause.Error())
			}
			return status.FromContextError(ctx.Err()).Err()
		case <-changed:
		case req := <-requests:
			if req.err != nil {
				return req.err
			}
			if err := w.answer(req.msg); err != nil {
				return err
			}
		}
	}
}

type request struct {
	msg *meshv1.WatchRequest
	err error
}

// receive reads requests until the stream ends. Its goroutine ends with the stream, which gRPC ends when Watch
// returns: nobody can wait for it before.
func (w *watch) receive(ctx context.Context) <-chan request {
	out := make(chan request)
	go func() {
		for {
			msg, err := w.stream.Recv()
			if errors.Is(err, io.EOF) {
				err = status.Error(codes.Canceled, "watch: the agent closed its side")
			}
			select {
			case out <- request{msg, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out
}

func (w *watch) send() error {
	update, version := w.cfg.Publisher.update(w.base, w.audiences)
	if err := w.stream.SendMsg(update); err != nil {
		return err
	}
	w.sent = version
	w.nodes.update(w.node, w.id, func(n *NodeState) { n.Sent = version })
	return nil
}

// answer takes the agent's verdict on what was sent.
func (w *watch) answer(msg *meshv1.WatchRequest) error {
	switch k := msg.GetKind().(type) {
	case *meshv1.WatchRequest_Ack:
		if w.sent == 0 || k.Ack.GetVersion() != w.sent {
			return status.Errorf(codes.InvalidArgument, "watch: version %d was acknowledged, %d is on its way", k.Ack.GetVersion(), w.sent)
		}
		w.acked()
	case *meshv1.WatchRequest_Nack:
		if w.sent == 0 || k.Nack.GetVersion() != w.sent {
			return status.Errorf(codes.InvalidArgument, "watch: version %d was refused, %d is on its way", k.Nack.GetVersion(), w.sent)
		}
		reason := clip(k.Nack.GetReason())
		w.cfg.Log.Warn("agent refused an update", "node", w.node, "version", w.sent, "reason", reason)
		w.refused, w.sent = w.sent, 0
		w.nodes.update(w.node, w.id, func(n *NodeState) { n.Nack, n.NackVersion = reason, w.refused })
	default:
		return status.Error(codes.InvalidArgument, "watch: want an ack or a nack")
	}
	return nil
}

func (w *watch) acked() {
	now := w.cfg.Now()
	for _, compiled := range w.cfg.Publisher.compiledBetween(w.base, w.sent) {
		if !compiled.Before(w.started) { // older ones waited for the agent to connect
			w.cfg.Observe(now.Sub(compiled))
		}
	}
	w.base, w.sent = w.sent, 0
	w.nodes.update(w.node, w.id, func(n *NodeState) {
		n.Acked, n.AckedAt = w.base, now
		n.Nack, n.NackVersion = "", 0
	})
}

// clip bounds what an agent says about itself.
func clip(s string) string {
	const limit = 1024
	if len(s) > limit {
		return s[:limit]
	}
	return s
}
