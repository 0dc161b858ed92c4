package ztunnel_test

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/ztunnel"
)

// askWhole dials, reads the answer to its end, and returns both with the record that the client's node wrote.
func askWhole(t *testing.T, m *meshtest.Mesh, from string, dst netip.AddrPort) (answer string, own netip.AddrPort, r ztunnel.Record) {
	t.Helper()
	conn := dial(t, m.Pod(from).NS, dst)
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	own = netip.MustParseAddrPort(conn.LocalAddr().String())
	own = netip.AddrPortFrom(own.Addr().Unmap(), own.Port())
	if peer := conn.RemoteAddr().String(); peer != dst.String() {
		t.Errorf("client's peer is %s, it dialled %s", peer, dst)
	}
	conn.Close()
	r = m.AwaitRecord("record of the connection", func(r ztunnel.Record) bool {
		return r.Reporter == ztunnel.Outbound && r.Src.Addr == own
	})
	return strings.TrimPrefix(string(all), meshtest.Canary), own, r
}

// awaitPermits waits until the kernel may make n kinds of connections.
func awaitPermits(t *testing.T, m *meshtest.Mesh, n int) {
	t.Helper()
	meshtest.Eventually(t, "the kernel is permitted", func() bool {
		given, _ := m.Nodes["n1"].Proxy.DirectPermits()
		return given == n
	})
}

// TestTheSecondConnectionIsTheKernels, between pods of one node, and looks to both apps and in the records as the first.
func TestTheSecondConnectionIsTheKernels(t *testing.T) {
	m := meshtest.New(t, shop)
	whoami(t, m.Pod("shop/cart").NS, 8080)
	for n, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			dst := m.Pod("shop/cart").Addr(v6, 8080)
			for i := range 3 {
				answer, own, r := askWhole(t, m, "shop/web", dst)
				awaitPermits(t, m, n+1)
				if want := own.String() + " " + dst.String(); answer != want {
					t.Errorf("connection %d: the server saw %q, want %q", i, answer, want)
				}
				if r.Direct != (i > 0) {
					t.Errorf("connection %d: direct is %v", i, r.Direct)
				}
				if r.Verdict != ztunnel.Forwarded || r.Reason != ztunnel.ReasonClosed || r.Security != ztunnel.SameNode ||
					r.Src.ID.String() != "spiffe://cluster.local/ns/shop/sa/web" || r.Dst.ID.String() != "spiffe://cluster.local/ns/shop/sa/cart" {
					t.Errorf("connection %d: %+v", i, r)
				}
				if want := uint64(len(meshtest.Canary) + len(answer)); r.In != 0 || r.Out != want {
					t.Errorf("connection %d: %d bytes in, %d out, want 0 and %d", i, r.In, r.Out, want)
				}
				m.AwaitRecord("the server's record", func(r ztunnel.Record) bool {
					return r.Reporter == ztunnel.Inbound && r.Src.Addr == own && r.Direct == (i > 0) && r.Reason == ztunnel.ReasonClosed
				})
			}
		})
	}
}
