// Package crowd plays agents to a real controller: each has its node's certificate and its own stream, acknowledges every
// update at once and enforces nothing. What a controller costs, and how long it takes to reach everybody, is as with real
// agents; what an update costs a node is not measured here.
package crowd

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/identity"
)

// Crowd is many agents. New makes one.
type Crowd struct {
	authority *ca.Authority
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	address   string // the controller's

	probe   atomic.Pointer[string] // the uid whose updates are timed
	updates atomic.Uint64
	bytes   atomic.Uint64

	mu       sync.Mutex
	newest   map[string]uint64    // by node: the version acknowledged last
	received map[string]time.Time // by node: when the last update that names the probe was acknowledged
	versions map[uint64]*Progress
}

// Progress is how far a version has come.
type Progress struct {
	// Compiled is when the controller had compiled it, by its own clock, which is this machine's.
	Compiled time.Time
	// Agents have acknowledged it, the last of them at Last.
	Agents int
	Last   time.Time
}

// New returns a crowd that is not connected yet: its agents' certificates are authority's, and it reaches the controller at
// an address by dial.
func New(authority *ca.Authority, dial func(ctx context.Context, network, address string) (net.Conn, error), address string) *Crowd {
	return &Crowd{
		authority: authority, dial: dial, address: address,
		newest: make(map[string]uint64), received: make(map[string]time.Time), versions: make(map[uint64]*Progress),
	}
}

// Run connects an agent for each node and keeps it connected until ctx ends. It returns the first error.
func (c *Crowd) Run(ctx context.Context, nodes []string) error {
	errs := make(chan error, len(nodes))
	var agents sync.WaitGroup
	for _, node := range nodes {
		agents.Go(func() {
			if err := c.agent(ctx, node); err != nil && ctx.Err() == nil {
				errs <- fmt.Errorf("agent of %s: %w", node, err)
			}
		})
	}
	agents.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// agent follows one stream.
func (c *Crowd) agent(ctx context.Context, node string) error {
	conn, err := c.Connect(node, grpc.WithDefaultCallOptions(
		grpc.ForceCodecV2(rawCodec{encoding.GetCodecV2(proto.Name)}), grpc.MaxCallRecvMsgSize(256<<20)))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := conn.NewStream(ctx, &meshv1.Mesh_ServiceDesc.Streams[0], meshv1.Mesh_Watch_FullMethodName, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&meshv1.WatchRequest{Kind: &meshv1.WatchRequest_Hello{Hello: &meshv1.Hello{AgentVersion: "scale"}}}); err != nil {
		return err
	}
	for {
		var u rawUpdate
		if err := stream.RecvMsg(&u); err != nil {
			return err
		}
		ack := &meshv1.WatchRequest{Kind: &meshv1.WatchRequest_Ack{Ack: &meshv1.Ack{Version: u.version}}}
		if err := stream.SendMsg(ack); err != nil {
			return err
		}
		c.note(node, &u)
	}
}

// Connect returns a connection to the controller as a node's agent, for who speaks for itself. Acknowledged must be told
// what was.
func (c *Crowd) Connect(node string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	svid, err := c.svid(node)
	if err != nil {
		return nil, err
	}
	config := identity.Client(func() (*identity.SVID, error) { return svid, nil }, c.authority.Bundle,
		identity.AuthorizeController(c.authority.TrustDomain()))
	// As agents try again: by gRPC's own habit those that a busy controller kept waiting would stay away for minutes.
	again := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 2 * time.Second}, MinConnectTimeout: 20 * time.Second}
	return grpc.NewClient("passthrough:///"+c.address, append(options, grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithConnectParams(again),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.dial(ctx, "tcp", address) }))...)
}

func (c *Crowd) svid(node string) (*identity.SVID, error) {
	key, _, err := identity.NewRequest()
	if err != nil {
		return nil, err
	}
	chain, err := c.authority.IssueNode(node, key.Public(), 0)
	if err != nil {
		return nil, err
	}
	return identity.NewSVID(chain, key)
}

func (c *Crowd) note(node string, u *rawUpdate) {
	c.updates.Add(1)
	c.bytes.Add(uint64(len(u.raw)))
	probe := c.probe.Load()
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acknowledged(node, u.version, u.compiled, now)
	if probe != nil && bytes.Contains(u.raw, []byte(*probe)) {
		c.received[node] = now
	}
}

// acknowledged notes a version. The caller holds mu.
func (c *Crowd) acknowledged(node string, version uint64, compiled, now time.Time) {
	c.newest[node] = version
	p := c.versions[version]
	if p == nil {
		p = &Progress{}
		c.versions[version] = p
	}
	if p.Compiled.IsZero() {
		p.Compiled = compiled
	}
	p.Agents, p.Last = p.Agents+1, now
}

// Acknowledged notes what an agent of the caller's own has acknowledged.
func (c *Crowd) Acknowledged(node string, version uint64) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acknowledged(node, version, time.Time{}, now)
}

// Newest returns the newest version that anybody has acknowledged, and how far it has come.
func (c *Crowd) Newest() (version uint64, p Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for v, of := range c.versions {
		if v > version {
			version, p = v, *of
		}
	}
	return version, p
}

// Forget drops what is known of versions before one.
func (c *Crowd) Forget(before uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.versions, func(v uint64, _ *Progress) bool { return v < before })
}

// Watch times the updates that name a uid from now on.
func (c *Crowd) Watch(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received = make(map[string]time.Time)
	c.probe.Store(&uid)
}

// Last returns when the last agent acknowledged the last update that names the watched uid, and how many agents did.
func (c *Crowd) Last() (last time.Time, agents int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, at := range c.received {
		if at.After(last) {
			last = at
		}
	}
	return last, len(c.received)
}

// At returns how many agents acknowledged which version last.
func (c *Crowd) At() map[uint64]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[uint64]int)
	for _, v := range c.newest {
		out[v]++
	}
	return out
}

// Totals returns how many updates of how many bytes all agents have got.
func (c *Crowd) Totals() (updates, bytes uint64) { return c.updates.Load(), c.bytes.Load() }

// rawUpdate is an Update of which only the version and its time are read: a thousand agents in one process must not decode it all.
type rawUpdate struct {
	raw      []byte
	version  uint64
	compiled time.Time
}

// rawCodec leaves updates as they are.
type rawCodec struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2.
func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	u, ok := v.(*rawUpdate)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	u.raw = data.Materialize()
	const versionField, compiledField = 3, 6 // of meshv1.Update; both come before what is long
	for b := u.raw; len(b) > 0 && (u.version == 0 || u.compiled.IsZero()); {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		value, _ := protowire.ConsumeVarint(b)
		switch {
		case number == versionField && kind == protowire.VarintType:
			u.version = value
		case number == compiledField && kind == protowire.VarintType:
			u.compiled = time.Unix(0, int64(value))
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
	}
	if u.version == 0 {
		return fmt.Errorf("an update of %d bytes without a version", len(u.raw))
	}
	return nil
}
