package ztunnel_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/internal/nettest"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/ztunnel"
)

// plainSockets reaches an app in a namespace, without any capture.
type plainSockets struct {
	ztunnel.Sockets
	ns *nettest.NS
}

func (s plainSockets) DialApp(_ context.Context, _, app netip.AddrPort) (*net.TCPConn, func(), error) {
	var c net.Conn
	err := s.ns.Run(func() (err error) {
		c, err = net.Dial("tcp", netip.AddrPortFrom(app.Addr(), 9090).String())
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return c.(*net.TCPConn), func() {}, nil
}

type noCerts struct{}

func (noCerts) Get(context.Context, identity.Name) (*identity.SVID, error) {
	return nil, identity.ErrNoSVID
}
func (noCerts) Bundle() *identity.Bundle { return nil }

// TestANodeAtItsLimitRefusesNewConnectionsAndKeepsTheOldOnes, and takes new ones as soon as old ones end.
func TestANodeAtItsLimitRefusesNewConnectionsAndKeepsTheOldOnes(t *testing.T) {
	const limit = 5
	pod, client := nettest.New(t), nettest.New(t)
	nettest.Join(t, pod, client)
	evilEcho(t, pod, 9090)
	w := &mesh.Workload{UID: "p", Namespace: "shop", Name: "p", ServiceAccount: "p", TrustDomain: meshtest.TrustDomain, Node: "n", Addrs: pod.Addrs, Enrolled: true}
	snapshot, err := mesh.NewSnapshot("test", 1, []*mesh.Workload{w}, nil)
	if err != nil {
		t.Fatal(err)
	}
	policies, err := policy.NewSet(nil)
	if err != nil {
		t.Fatal(err)
	}
	var overload atomic.Int64
	p := ztunnel.New(ztunnel.Config{
		Node: "n", World: mesh.NewStore(&ztunnel.World{Mesh: snapshot, Policies: policies}), Certs: noCerts{}, MaxConns: limit + 1, // of which a pod may have three quarters
		Log: slog.New(slog.DiscardHandler),
		Sink: func(r ztunnel.Record) {
			if r.Reason == ztunnel.ReasonOverload && !r.End.IsZero() {
				overload.Add(1)
			}
		},
	})
	var l net.Listener
	pod.Do(t, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(pod.Addrs[0], 8080).String())
		return err
	})
	served := make(chan struct{})
	go func() {
		p.Serve(context.Background(), &ztunnel.Pod{UID: "p", Sockets: plainSockets{ns: pod}, Plaintext: []net.Listener{l}})
		close(served)
	}()
	t.Cleanup(func() { l.Close(); p.Close(0); <-served })

	works := func(c *net.TCPConn) bool {
		io.WriteString(c, "x")
		_, err := io.ReadFull(c, make([]byte, 1))
		return err == nil
	}
	var open []*net.TCPConn
	for range limit {
		c := dial(t, client, netip.AddrPortFrom(pod.Addrs[0], 8080))
		if !works(c) {
			t.Fatal("a connection below the limit was refused")
		}
		open = append(open, c)
	}
	for range 20 {
		expectReset(t, client, netip.AddrPortFrom(pod.Addrs[0], 8080))
	}
	meshtest.Eventually(t, "the refusals are recorded as overload", func() bool { return overload.Load() == 20 })
	for i, c := range open {
		if !works(c) {
			t.Errorf("connection %d, which was open before, was cut", i)
		}
	}
	open[0].Close()
	meshtest.Eventually(t, "there is room again", func() bool { return p.OpenConnections() < limit })
	if !works(dial(t, client, netip.AddrPortFrom(pod.Addrs[0], 8080))) {
		t.Error("a connection below the limit was refused")
	}
}
