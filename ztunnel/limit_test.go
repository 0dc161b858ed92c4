package ztunnel_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

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

// plainly serves the pod's echo to plaintext clients, without any capture. The caller stops the pod's accepting before it
// closes the proxy.
func plainly(t *testing.T, maxConns int, sink func(ztunnel.Record)) (p *ztunnel.Proxy, stop func(), pod, client *nettest.NS) {
	t.Helper()
	pod, client = nettest.New(t), nettest.New(t)
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
	p = ztunnel.New(ztunnel.Config{
		Node: "n", World: mesh.NewStore(&ztunnel.World{Mesh: snapshot, Policies: policies}), Certs: noCerts{}, MaxConns: maxConns,
		Log: slog.New(slog.DiscardHandler), Sink: sink,
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
	stop = func() { l.Close(); <-served }
	t.Cleanup(func() { stop(); p.Close(0) })
	return p, stop, pod, client
}

func echoed(c *net.TCPConn) error {
	if _, err := c.Write([]byte{'x'}); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// TestANodeAtItsLimitRefusesNewConnectionsAndKeepsTheOldOnes, and takes new ones as soon as old ones end.
func TestANodeAtItsLimitRefusesNewConnectionsAndKeepsTheOldOnes(t *testing.T) {
	const limit = 5
	var overload atomic.Int64
	p, _, pod, client := plainly(t, limit+1, func(r ztunnel.Record) { // of which a pod may have three quarters
		if r.Reason == ztunnel.ReasonOverload && !r.End.IsZero() {
			overload.Add(1)
		}
	})
	works := func(c *net.TCPConn) bool { return echoed(c) == nil }
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

// TestWhatStillAnswersIsNotCutAtOnce when the agent stops; what is idle is.
func TestWhatStillAnswersIsNotCutAtOnce(t *testing.T) {
	const grace = 700 * time.Millisecond
	p, stop, pod, client := plainly(t, 100, func(ztunnel.Record) {})
	busy := dial(t, client, netip.AddrPortFrom(pod.Addrs[0], 8080))
	if err := echoed(busy); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * grace) // it is no new one any more
	stop()
	began := time.Now()
	closed := make(chan time.Duration)
	go func() {
		p.Close(grace)
		closed <- time.Since(began)
	}()
	var last time.Duration
	for echoed(busy) == nil {
		last = time.Since(began)
		time.Sleep(20 * time.Millisecond) // the pace of its requests
	}
	if took := <-closed; last < 2*grace || took > 6*grace {
		t.Errorf("it was answered for %s, and the proxy closed after %s, with a grace of %s", last, took, grace)
	}
}
