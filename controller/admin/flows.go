package admin

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/flowlog"
)

const (
	defaultLast = 20
	maxLast     = 10_000
	// discoverEvery is how often a follower looks for agents that came after it began.
	discoverEvery = time.Second
	// trailerProblem carries what went wrong with single agents, as a flow has no place for it.
	trailerProblem = "warren-problem"
)

// Flows implements adminv1.AdminServer: the flows of every agent, both reporters, and of every waypoint, as one stream.
// What went wrong with single ones is in the trailer "warren-problem".
func (s *Server) Flows(req *adminv1.FlowsRequest, stream adminv1.Admin_FlowsServer) error {
	m := &merger{server: s, req: proto.CloneOf(req), flows: make(chan *adminv1.Flow), problems: make(map[string]string)}
	m.req.Last = min(cmp.Or(req.GetLast(), defaultLast), maxLast)
	if req.GetFollow() {
		m.req.Last = min(req.GetLast(), maxLast)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer m.wg.Wait()
	defer cancel()
	var err error
	if req.GetFollow() {
		err = m.follow(ctx, stream)
	} else {
		err = m.list(ctx, stream)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	trailer := metadata.MD{}
	for node, text := range m.problems {
		trailer.Append(trailerProblem, s.origin(node).what()+": "+text)
	}
	stream.SetTrailer(trailer)
	return err
}

// merger reads many agents' flows into one channel.
type merger struct {
	server *Server
	req    *adminv1.FlowsRequest
	flows  chan *adminv1.Flow
	wg     sync.WaitGroup

	mu       sync.Mutex
	running  map[string]bool
	problems map[string]string
}

// nodes returns the agents and waypoints to be asked.
func (m *merger) nodes() []string {
	return slices.DeleteFunc(m.server.everyone(), func(n string) bool {
		return m.req.GetNode() != "" && m.req.GetNode() != m.server.origin(n).node
	})
}

// start reads one agent's flows until they or ctx end.
func (m *merger) start(ctx context.Context, node string, req *adminv1.FlowsRequest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running == nil {
		m.running = make(map[string]bool)
	}
	if m.running[node] {
		return
	}
	m.running[node] = true
	delete(m.problems, node)
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		err := m.read(ctx, node, req)
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.running, node)
		if err != nil && ctx.Err() == nil {
			m.problems[node] = err.Error()
		}
	}()
}

// read filters once more: an agent of an older release does not know every filter.
func (m *merger) read(ctx context.Context, node string, req *adminv1.FlowsRequest) error {
	from := m.server.origin(node)
	if !req.GetFollow() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, agentTimeout)
		defer cancel()
	}
	return m.server.cfg.Agents.Stream(ctx, node, "Flows", req, func(b []byte) error {
		f := &adminv1.Flow{}
		if err := proto.Unmarshal(b, f); err != nil {
			return errors.New("it sent a flow that cannot be decoded")
		}
		if from.sign(f); !flowlog.Match(req, f) {
			return nil
		}
		select {
		case m.flows <- f:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// list sends the newest flows of all agents, oldest first.
func (m *merger) list(ctx context.Context, stream adminv1.Admin_FlowsServer) error {
	for _, node := range m.nodes() {
		m.start(ctx, node, m.req)
	}
	done := make(chan struct{})
	go func() { m.wg.Wait(); close(done) }()
	var all []*adminv1.Flow
	for open := true; open; {
		select {
		case f := <-m.flows:
			all = append(all, f)
			if len(all) >= 2*maxLast {
				all = newestOf(all, int(m.req.GetLast()))
			}
		case <-done:
			open = false
		}
	}
	for _, f := range newestOf(all, int(m.req.GetLast())) {
		if err := stream.Send(f); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func newestOf(flows []*adminv1.Flow, n int) []*adminv1.Flow {
	slices.SortStableFunc(flows, byStart)
	return flows[max(0, len(flows)-n):]
}

func byStart(a, b *adminv1.Flow) int { return cmp.Compare(a.GetStartUnixNano(), b.GetStartUnixNano()) }

// follow sends flows as they come, also of agents that connect later, until ctx ends.
func (m *merger) follow(ctx context.Context, stream adminv1.Admin_FlowsServer) error {
	tick := time.NewTicker(discoverEvery)
	defer tick.Stop()
	req := m.req
	for {
		for _, node := range m.nodes() {
			m.start(ctx, node, req)
		}
		// Whoever is started after now has nothing to say about before.
		req = proto.CloneOf(m.req)
		req.Last, req.SinceUnixNano = 0, max(m.req.GetSinceUnixNano(), m.server.cfg.Now().UnixNano())
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case f := <-m.flows:
				if err := stream.Send(f); err != nil {
					return err
				}
			case <-tick.C:
				waiting = false
			}
		}
	}
}
