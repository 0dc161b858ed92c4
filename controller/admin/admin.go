// Package admin answers warren.admin.v1.Admin for the whole mesh: from what the controller compiled and published,
// and from every agent, which it asks over the relay.
//
// An agent that does not answer, or answers nonsense, is a problem in the answer and never an error of the whole
// answer. An agent speaks for its own node only: whatever node name it puts into its answer is overwritten. Pods of
// waypoints are asked in the same way, and speak for themselves only.
package admin

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/controller/compile"
	"github.com/warren-mesh/warren/controller/publish"
)

const (
	// agentTimeout bounds how long one agent is waited for.
	agentTimeout = 2 * time.Second
	// maxAsked bounds how many agents are asked at a time.
	maxAsked = 64
)

// Agents asks agents; controller/relay's Hub does.
type Agents interface {
	// Nodes returns the nodes whose agents can be asked, Waypoints the pods of waypoints that can be: ca.WaypointCaller and
	// "<namespace>/<pod>", by which they are asked as nodes are.
	Nodes() []string
	Waypoints() []string
	Ask(ctx context.Context, node, method string, req, resp proto.Message) error
	Stream(ctx context.Context, node, method string, req proto.Message, each func([]byte) error) error
}

// Published is what was published and how far it got; controller/publish has it.
type Published interface {
	Version() uint64
	ChangedIn(key string) uint64
	NewestCompiled() time.Time
}

// Config is what a Server needs. All fields are required.
type Config struct {
	Agents    Agents
	Published Published
	// Compiled returns the compiled state, never nil.
	Compiled func() *compile.Output
	// Nodes returns how far each agent is.
	Nodes func() []publish.NodeState
	// Controller returns the controller's own status.
	Controller func() *adminv1.ControllerStatus
	Now        func() time.Time
	Log        *slog.Logger
}

// Server implements adminv1.AdminServer.
type Server struct {
	adminv1.UnimplementedAdminServer
	cfg Config
}

// New returns a server.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// answer is one agent's answer, or why there is none.
type answer[T any] struct {
	node  string
	reply T
	err   error
}

// cannotTell: it answered that it has no such answer, as a waypoint does to what only nodes know.
func (a answer[T]) cannotTell() bool { return status.Code(a.err) == codes.Unimplemented }

// askAll asks nodes' agents one question, at most agentTimeout each, and returns their answers in the order of nodes.
func askAll[T proto.Message](ctx context.Context, s *Server, nodes []string, method string, req proto.Message, empty func() T) []answer[T] {
	answers := make([]answer[T], len(nodes))
	places := make(chan struct{}, maxAsked)
	var wg sync.WaitGroup
	for i, node := range nodes {
		wg.Add(1)
		places <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-places }()
			ctx, cancel := context.WithTimeout(ctx, agentTimeout)
			defer cancel()
			reply := empty()
			err := s.cfg.Agents.Ask(ctx, node, method, req, reply)
			answers[i] = answer[T]{node, reply, err}
		}()
	}
	wg.Wait()
	return answers
}

// Certs implements adminv1.AdminServer. An agent that does not answer is an entry of the state "missing".
func (s *Server) Certs(ctx context.Context, req *adminv1.ListRequest) (*adminv1.CertsReply, error) {
	out := &adminv1.CertsReply{}
	empty := func() *adminv1.CertsReply { return &adminv1.CertsReply{} }
	for _, a := range askAll(ctx, s, s.everyone(), "Certs", req, empty) {
		from := s.origin(a.node)
		if a.err != nil {
			if from.pod == "" || !a.cannotTell() {
				out.Certs = append(out.Certs, &adminv1.CertInfo{
					Node: from.node, State: "missing", Error: from.its + " did not answer: " + a.err.Error(), Workloads: from.workloads(),
				})
			}
			continue
		}
		for _, c := range a.reply.GetCerts() {
			c.Node = from.node
			if from.pod != "" {
				c.Workloads = from.workloads()
			}
			out.Certs = append(out.Certs, c)
		}
		for _, b := range a.reply.GetBundles() {
			if b.Node = from.node; from.pod == "" { // a node's are its agent's
				out.Bundles = append(out.Bundles, b)
			}
		}
	}
	return out, nil
}

// Renew implements adminv1.AdminServer: every agent and every waypoint is asked.
func (s *Server) Renew(ctx context.Context, req *adminv1.RenewRequest) (*adminv1.RenewReply, error) {
	out := &adminv1.RenewReply{}
	empty := func() *adminv1.RenewReply { return &adminv1.RenewReply{} }
	for _, a := range askAll(ctx, s, s.everyone(), "Renew", req, empty) {
		if a.err != nil {
			out.Silent = append(out.Silent, s.origin(a.node).name())
			continue
		}
		out.Due += a.reply.GetDue()
	}
	return out, nil
}

// Connections implements adminv1.AdminServer. An agent that does not answer is an entry with the verdict "unknown".
func (s *Server) Connections(ctx context.Context, req *adminv1.ListRequest) (*adminv1.ConnectionsReply, error) {
	out := &adminv1.ConnectionsReply{}
	empty := func() *adminv1.ConnectionsReply { return &adminv1.ConnectionsReply{} }
	for _, a := range askAll(ctx, s, s.everyone(), "Connections", req, empty) {
		from := s.origin(a.node)
		if a.err != nil {
			if from.pod == "" || !a.cannotTell() {
				out.Connections = append(out.Connections, &adminv1.Flow{
					Node: from.node, Pod: from.pod, Verdict: "unknown", Detail: from.its + " did not answer: " + a.err.Error(),
				})
			}
			continue
		}
		for _, f := range a.reply.GetConnections() {
			from.sign(f)
			out.Connections = append(out.Connections, f)
		}
	}
	slices.SortStableFunc(out.Connections, byStart)
	return out, nil
}
