package publish

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// maxNodes bounds how many nodes are remembered; of the disconnected ones the longest gone is forgotten first.
const maxNodes = 10_000

// NodeState is what the controller knows about one node's agent.
type NodeState struct {
	Node         string
	AgentVersion string
	Connected    bool
	// Since is when it connected, or when it was lost.
	Since time.Time
	// Sent is the newest version sent to it, Acked the newest that it said to enforce; both of this epoch.
	Sent  uint64
	Acked uint64
	// AckedAt is when the last acknowledgement came.
	AckedAt time.Time
	// Nack is why it refused NackVersion, empty once it enforces a newer one.
	Nack        string
	NackVersion uint64
}

// nodes is the table of nodes.
type nodes struct {
	mu    sync.Mutex
	table map[string]*node
}

type node struct {
	state  NodeState
	end    func(error) // ends the stream that is connected now, nil if none is
	stream uint64      // which stream that is
}

// connect notes a node's new stream, ends its older one, and returns the new one's number.
func (t *nodes) connect(name, agentVersion string, now time.Time, end func(error)) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.table[name]
	if n == nil {
		t.evict()
		n = &node{state: NodeState{Node: name}}
		t.table[name] = n
	}
	if n.end != nil {
		n.end(errReplaced)
	}
	n.stream++
	n.end = end
	n.state.AgentVersion, n.state.Connected, n.state.Since = agentVersion, true, now
	return n.stream
}

// closeAll ends every stream.
func (t *nodes) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.table {
		if n.end != nil {
			n.end(errClosing)
		}
	}
}

// disconnect notes that a stream ended, unless a newer one took its place.
func (t *nodes) disconnect(name string, stream uint64, now time.Time) {
	t.update(name, stream, func(s *NodeState) { s.Connected, s.Since = false, now })
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.table[name]; n != nil && n.stream == stream {
		n.end = nil
	}
}

// update changes a node's state, if stream is still the node's.
func (t *nodes) update(name string, stream uint64, f func(*NodeState)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.table[name]; n != nil && n.stream == stream {
		f(&n.state)
	}
}

func (t *nodes) evict() {
	if len(t.table) < maxNodes {
		return
	}
	var oldest *node
	for _, n := range t.table {
		if !n.state.Connected && (oldest == nil || n.state.Since.Before(oldest.state.Since)) {
			oldest = n
		}
	}
	if oldest != nil {
		delete(t.table, oldest.state.Node)
	}
}

// all returns every node's state, sorted by name.
func (t *nodes) all() []NodeState {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]NodeState, 0, len(t.table))
	for _, n := range t.table {
		out = append(out, n.state)
	}
	slices.SortFunc(out, func(a, b NodeState) int { return cmp.Compare(a.Node, b.Node) })
	return out
}
