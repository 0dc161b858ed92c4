package ztunnel_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel"
)

// closedSockets are those of a pod whose agent stops, and after the first connection those of the next agent's.
type closedSockets struct {
	plainSockets
	asked atomic.Int64
}

func (s *closedSockets) DialApp(ctx context.Context, client, app netip.AddrPort) (*net.TCPConn, func(), error) {
	if s.asked.Add(1) == 1 {
		return nil, nil, os.ErrClosed
	}
	return s.plainSockets.DialApp(ctx, client, app)
}

// oneCert is one workload's SVID, and whom it trusts.
type oneCert struct {
	svid   *identity.SVID
	bundle *identity.Bundle
}

func (c oneCert) Get(context.Context, identity.Name) (*identity.SVID, error) { return c.svid, nil }
func (c oneCert) Bundle() *identity.Bundle                                   { return c.bundle }

// TestAConnectionThatMeetsAStoppingAgentWaitsForTheNext: it came by a tunnel that was there, after the pod's sockets were
// closed.
func TestAConnectionThatMeetsAStoppingAgentWaitsForTheNext(t *testing.T) {
	m := meshtest.New(t, []meshtest.Spec{{Name: "shop/web", Node: "n1"}, {Name: "shop/late", Node: "n2", Plain: true}},
		func(w *mesh.Workload) { w.Enrolled = true })
	late := m.Pod("shop/late")
	evilEcho(t, late.NS, 9090)
	id, err := identity.New(meshtest.TrustDomain, "shop", "late")
	if err != nil {
		t.Fatal(err)
	}
	var refused atomic.Int64
	p := ztunnel.New(ztunnel.Config{
		Node: "n2", World: m.World, Certs: oneCert{m.SVID(id, time.Hour), m.Nodes["n1"].Trusted()}, Log: slog.New(slog.DiscardHandler),
		Sink: func(r ztunnel.Record) {
			if r.Reason == ztunnel.ReasonDraining {
				refused.Add(1)
			}
		},
	})
	var l net.Listener
	late.Do(t, func() (err error) {
		l, err = net.Listen("tcp", late.Addr(false, ztunnel.TunnelPort).String())
		return err
	})
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		p.Serve(ctx, &ztunnel.Pod{UID: late.Workload.UID, Sockets: &closedSockets{plainSockets: plainSockets{ns: late.NS}}, Tunnel: []net.Listener{l}})
		close(served)
	}()
	t.Cleanup(func() { l.Close(); stop(); p.Close(0); <-served })

	c := dial(t, m.Pod("shop/web").NS, late.Addr(false, 9090))
	io.WriteString(c, "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("the connection: %v", err)
	}
	if refused.Load() != 1 {
		t.Errorf("%d connections met the stopping agent, want 1: this proves nothing", refused.Load())
	}
	if r := m.Records(func(r ztunnel.Record) bool { return r.Verdict == ztunnel.Failed }); len(r) > 0 {
		t.Errorf("recorded at its client's node: %s", describe(r[0]))
	}
}
