package waypoint

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/api/adminv1"
)

const payURL = "http://pay.shop/"

// TestEverythingGoesThroughTheWaypoint: what is sent to a service with a waypoint, or to its pods, goes through the
// waypoint, and nothing gets past it: not from another node, not from the same one, not without the mesh, not while the
// waypoint is away.
func TestEverythingGoesThroughTheWaypoint(t *testing.T) {
	m := up(t, "")
	e := ask(t, m, "shop/web", payURL)
	if e.Service != "v1" && e.Service != "v2" {
		t.Errorf("answered by %q", e.Service)
	}
	t.Run("the client is named to the app", func(t *testing.T) {
		m := m.With(t)
		info := m.AwaitFlow("the request", &adminv1.FlowsRequest{From: "shop/web"}, func(f *adminv1.Flow) bool { return f.GetReporter() == "waypoint" })
		if got, want := info.GetSrc().GetSpiffeId(), "spiffe://cluster.local/ns/shop/sa/web"; got != want {
			t.Errorf("the waypoint saw %q, want %q", got, want)
		}
		if from := e.Headers["X-Forwarded-For"]; len(from) != 1 || !strings.HasPrefix(info.GetSrc().GetAddress(), from[0]) {
			t.Errorf("X-Forwarded-For is %q, the client's address %q", from, info.GetSrc().GetAddress())
		}
	})
	t.Run("TCP", func(t *testing.T) {
		m := m.With(t)
		conn, err := m.Dial(t.Context(), "shop/web", m.VIP("shop/pay", 7))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if back, err := io.ReadAll(conn); string(back) != "hello" || err != nil {
			t.Errorf("echoed %q, %v", back, err)
		}
	})
	for _, pod := range []string{"pay-v1", "pay-v2"} {
		addrs, err := m.PodAddrs("shop/" + pod)
		if err != nil {
			t.Fatal(err)
		}
		url := "http://" + netip.AddrPortFrom(addrs[0], 8080).String() + "/"
		t.Run("by address/"+pod, func(t *testing.T) {
			m := m.With(t)
			if got := ask(t, m, "shop/web", url).Service; "pay-"+got != pod {
				t.Errorf("%s was asked, %s answered", pod, got)
			}
			m.AwaitFlow("a request to its address", &adminv1.FlowsRequest{From: "shop/web", To: "shop/" + pod},
				func(f *adminv1.Flow) bool { return f.GetReporter() == "waypoint" })
		})
		t.Run("not from outside the mesh/"+pod, func(t *testing.T) {
			m := m.With(t)
			if status, body := curl(m, "legacy/client", url); status != 0 {
				t.Errorf("%d %q", status, body)
			}
			m.AwaitFlow("the denial", &adminv1.FlowsRequest{To: "shop/" + pod, Verdict: "denied"},
				func(f *adminv1.Flow) bool { return f.GetReason() == "waypoint_bypassed" })
		})
	}
	t.Run("away", func(t *testing.T) {
		m := m.With(t)
		if err := m.RemovePod(t.Context(), "shop/waypoint-0"); err != nil {
			t.Fatal(err)
		}
		until(t, "no way past a waypoint that is away, and why", func() bool {
			if status, _ := curl(m, "shop/web", payURL); status != 0 {
				return false
			}
			flows := m.Flows(&adminv1.FlowsRequest{From: "shop/web", Last: 100})
			return slices.ContainsFunc(flows, func(f *adminv1.Flow) bool { return f.GetReason() == "no_waypoint" })
		})
	})
}
