// Package scale plays agents to a real controller: each has its node's certificate and its own stream, acknowledges every
// update at once and enforces nothing. What a controller costs, and how long it takes to reach everybody, is as with real
// agents; what an update costs a node is not measured here.
package scale

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/identity"
)

// Crowd is many agents.
type Crowd struct {
	Authority *ca.Authority
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
	Address   string // the controller's

	probe   atomic.Pointer[string] // the uid whose updates are timed
	updates atomic.Uint64
	bytes   atomic.Uint64

	mu       sync.Mutex
	newest   map[string]uint64    // by node: the version acknowledged last
	received map[string]time.Time // by node: when the last update that names the probe was acknowledged
}

// Run connects an agent for each node and keeps it connected until ctx ends. It returns the first error.
func (c *Crowd) Run(ctx context.Context, nodes []string) error {
	c.mu.Lock()
	c.newest, c.received = make(map[string]uint64), make(map[string]time.Time)
	c.mu.Unlock()
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
	svid, err := c.svid(node)
	if err != nil {
		return err
	}
	config := identity.Client(func() (*identity.SVID, error) { return svid, nil }, c.Authority.Bundle,
		identity.AuthorizeController(c.Authority.TrustDomain()))
	conn, err := grpc.NewClient("passthrough:///"+c.Address, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.Dial(ctx, "tcp", address) }),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{encoding.GetCodecV2(proto.Name)}), grpc.MaxCallRecvMsgSize(256<<20)))
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

func (c *Crowd) svid(node string) (*identity.SVID, error) {
	key, _, err := identity.NewRequest()
	if err != nil {
		return nil, err
	}
	chain, err := c.Authority.IssueNode(node, key.Public(), 0)
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
	c.newest[node] = u.version
	if probe != nil && bytes.Contains(u.raw, []byte(*probe)) {
		c.received[node] = now
	}
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

// rawUpdate is an Update of which only the version is read: a thousand agents in one process must not decode it all.
type rawUpdate struct {
	raw     []byte
	version uint64
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
	const versionField = 3 // of meshv1.Update
	for b := u.raw; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if number == versionField && kind == protowire.VarintType {
			u.version, _ = protowire.ConsumeVarint(b)
			return nil
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
	}
	return fmt.Errorf("an update of %d bytes without a version", len(u.raw))
}
