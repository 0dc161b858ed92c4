package observe

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel"
)

func record(t *testing.T, i int) ztunnel.Record {
	t.Helper()
	id, err := identity.New("cluster.local", "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(1000+int64(i), 0)
	return ztunnel.Record{
		ID: fmt.Sprintf("%032x", i), Reporter: ztunnel.Inbound, Verdict: ztunnel.Forwarded, Reason: ztunnel.ReasonClosed,
		Src:     ztunnel.Party{Addr: netip.MustParseAddrPort("10.0.0.1:40000"), ID: id, Workload: &mesh.Workload{Namespace: "shop", Name: "web"}},
		Dst:     ztunnel.Party{Addr: netip.MustParseAddrPort("[fd00::2]:8080"), Workload: &mesh.Workload{Namespace: "shop", Name: "pay"}},
		Dialled: netip.MustParseAddrPort("10.96.0.1:80"), Service: "shop/pay", Security: ztunnel.MutualTLS,
		Start: start, End: start.Add(time.Second), In: 3, Out: 4,
	}
}

func TestEveryFilterMatchesWhatItNamesAndNothingElse(t *testing.T) {
	f := FlowOf("n1", record(t, 1))
	match := map[string]*adminv1.FlowsRequest{
		"nothing asked": {}, "from pod": {From: "shop/web"}, "from name": {From: "web"}, "from namespace": {From: "shop/"},
		"from address": {From: "10.0.0.1"}, "from mapped address": {From: "::ffff:10.0.0.1"}, "to address v6": {To: "fd00::2"},
		"from id": {From: "spiffe://cluster.local/ns/shop/sa/web"}, "to": {To: "shop/pay"}, "namespace": {Namespace: "shop"},
		"pod either side": {Pod: "shop/pay"}, "verdict in any case": {Verdict: "FORWARDED"}, "port": {Port: 8080},
		"port dialled": {Port: 80}, "protocol": {Protocol: "TCP"}, "id": {Id: f.Id}, "id's beginning": {Id: f.Id[:8]},
		"node": {Node: "n1"}, "since": {SinceUnixNano: time.Unix(1001, 0).UnixNano()},
	}
	for name, q := range match {
		if !Match(q, f) {
			t.Errorf("%s: does not match", name)
		}
	}
	miss := map[string]*adminv1.FlowsRequest{
		"from": {From: "shop/pay"}, "from other namespace": {From: "legacy/"}, "from part of a name": {From: "we"}, "to": {To: "shop/web"},
		"namespace": {Namespace: "sho"}, "pod": {Pod: "shop/cart"}, "verdict": {Verdict: "denied"}, "port": {Port: 81},
		"protocol": {Protocol: "udp"}, "id": {Id: "ff"}, "node": {Node: "n2"}, "since": {SinceUnixNano: time.Unix(2000, 0).UnixNano()},
		"other id": {From: "spiffe://cluster.local/ns/shop/sa/we"},
	}
	for name, q := range miss {
		if Match(q, f) {
			t.Errorf("%s: matches", name)
		}
	}
}

func TestTheRingKeepsTheNewest(t *testing.T) {
	o := New("n1", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	for i := range ringSize + 10 {
		o.Sink(record(t, i))
	}
	got := o.Ended()
	if len(got) != ringSize || got[0].Id != fmt.Sprintf("%032x", 10) || got[ringSize-1].Id != fmt.Sprintf("%032x", ringSize+9) {
		t.Errorf("ring has %d flows from %s to %s", len(got), got[0].Id, got[len(got)-1].Id)
	}
}

func TestASlowFollowerLosesFlowsAndHoldsUpNobody(t *testing.T) {
	o := New("n1", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(context.Background())
	ch, ok := o.Follow(ctx)
	if !ok {
		t.Fatal("refused")
	}
	for i := range followBuffer + 5 {
		o.Sink(record(t, i))
	}
	if lost := testutil.ToFloat64(o.metrics.lost); lost != 5 {
		t.Errorf("%v flows counted as lost, want 5", lost)
	}
	cancel()
	n := 0
	for range ch { // closed once ctx has ended
		n++
	}
	if n != followBuffer {
		t.Errorf("follower got %d flows, want %d", n, followBuffer)
	}
}

func TestFollowersAreBounded(t *testing.T) {
	o := New("n1", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range maxFollowers {
		if _, ok := o.Follow(ctx); !ok {
			t.Fatal("refused below the limit")
		}
	}
	if _, ok := o.Follow(ctx); ok {
		t.Error("one more than the limit follows")
	}
}

func TestOneLineAConnectionWhateverThePeerSent(t *testing.T) {
	var out bytes.Buffer
	o := New("n1", slog.New(slog.NewTextHandler(&out, nil)), prometheus.NewRegistry())
	r := record(t, 1)
	r.Detail = "evil\nlevel=ERROR msg=forged \x1b[31m"
	o.Sink(r)
	if n := strings.Count(out.String(), "\n"); n != 1 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("log has %d lines: %q", n, out.String())
	}
}

func TestOpenConnectionsAreNotCountedYet(t *testing.T) {
	o := New("n1", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	r := record(t, 1)
	r.End = time.Time{}
	o.Sink(r)
	if len(o.Ended()) != 0 {
		t.Error("an open connection is among the ended")
	}
	if n := testutil.CollectAndCount(o.metrics.connections); n != 0 {
		t.Errorf("%d series for ended connections", n)
	}
}
