package mesh

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
	"github.com/warren-mesh/warren/lab"
)

// openDirect opens a stream that the kernel has made by itself.
func openDirect(t *testing.T, m *labtest.Mesh, node, from string, to netip.AddrPort) *stream {
	t.Helper()
	labtest.Await(t, "the kernel connects "+from+" to "+to.String(), 10*time.Second, func() bool {
		before := counters(t, m, node)["in_direct"]
		must(t, ping(t, m, from, to))
		return counters(t, m, node)["in_direct"] > before
	})
	return open(t, m, from, to)
}

// TestDirectConnectionsOutlastTheirAgent, which owns none of their sockets, while new ones are refused; the next agent takes
// them up: they are shown, and a policy that forbids them ends them.
func TestDirectConnectionsOutlastTheirAgent(t *testing.T) {
	m := up(t, town(meshed, ""), func(o *lab.Options) { o.AgentArgs = nil }) // also where the others carry all
	cart := bothOf(t, m, "shop/cart")
	var streams []*stream
	for _, to := range cart {
		streams = append(streams, openDirect(t, m, "n1", "shop/web", to))
	}
	must(t, m.KillAgent("n1", syscall.SIGKILL))
	for _, to := range cart {
		mustRefuse(t, m, "shop/web", to)
	}
	for _, s := range streams {
		was := s.echoed.Load()
		labtest.Await(t, s.name+" goes on without an agent", 5*time.Second, func() bool { return s.echoed.Load() > was+20 })
	}
	startAgent(t, m, "n1")
	awaitPings(t, m, "shop/web", cart...)
	for _, s := range streams {
		own := s.LocalAddr().String()
		f := m.AwaitFlow("the new agent knows "+s.name, &adminv1.FlowsRequest{From: "shop/web", To: "shop/cart", Last: 1000}, func(f *adminv1.Flow) bool {
			return f.Direct && f.EndUnixNano == 0 && netip.AddrPortFrom(netip.MustParseAddr(f.Src.Address), uint16(f.Src.Port)).String() == own
		})
		if f.BytesIn == 0 || f.BytesOut == 0 || f.Src.SpiffeId != "spiffe://cluster.local/ns/shop/sa/web" {
			t.Errorf("%s: %d bytes in, %d out, from %s", s.name, f.BytesIn, f.BytesOut, f.Src.SpiffeId)
		}
	}
	apply(t, m, func() {
		m.Write("forbid.yaml", authzYAML("shop", "forbid", "{selector: {matchLabels: {app: cart}}, action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}"))
	})
	for _, s := range streams {
		select {
		case <-s.ended:
		case <-time.After(time.Second):
			t.Errorf("%s goes on although that is forbidden", s.name)
		}
	}
}
