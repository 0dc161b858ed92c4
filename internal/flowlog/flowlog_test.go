package flowlog

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
)

func connection(i int) *adminv1.Flow {
	start := time.Unix(1000+int64(i), 0)
	return &adminv1.Flow{
		Id: fmt.Sprintf("%032x", i), Node: "n1", Reporter: "inbound", Verdict: "forwarded", Protocol: "tcp",
		Src:     &adminv1.Peer{Address: "10.0.0.1", Port: 40000, Namespace: "shop", Workload: "web", SpiffeId: "spiffe://cluster.local/ns/shop/sa/web"},
		Dst:     &adminv1.Peer{Address: "fd00::2", Port: 8080, Namespace: "shop", Workload: "pay", Service: "shop/pay"},
		Dialled: "10.96.0.1:80", StartUnixNano: start.UnixNano(), EndUnixNano: start.Add(time.Second).UnixNano(),
	}
}

func request() *adminv1.Flow {
	f := connection(1)
	f.Protocol, f.Reporter = "HTTP/2", "waypoint"
	f.Http = &adminv1.HTTPRequest{Method: "GET", Path: "/cart/items", Status: 503, TraceId: "abcdef0123456789abcdef0123456789"}
	return f
}

func TestEveryFilterMatchesWhatItNamesAndNothingElse(t *testing.T) {
	f := connection(1)
	match := map[string]*adminv1.FlowsRequest{
		"nothing asked": {}, "from pod": {From: "shop/web"}, "from name": {From: "web"}, "from namespace": {From: "shop/"},
		"from address": {From: "10.0.0.1"}, "from mapped address": {From: "::ffff:10.0.0.1"}, "to address v6": {To: "fd00::2"},
		"from id": {From: "spiffe://cluster.local/ns/shop/sa/web"}, "to": {To: "shop/pay"}, "namespace": {Namespace: "shop"},
		"pod either side": {Pod: "shop/pay"}, "verdict in any case": {Verdict: "FORWARDED"}, "port": {Port: 8080},
		"port dialled": {Port: 80}, "protocol": {Protocol: "TCP"}, "id": {Id: f.Id}, "id's beginning": {Id: f.Id[:8]},
		"node": {Node: "n1"}, "type": {Type: Connection}, "since": {SinceUnixNano: time.Unix(1001, 0).UnixNano()},
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
		"other id": {From: "spiffe://cluster.local/ns/shop/sa/we"}, "type": {Type: Request}, "method": {Method: "GET"},
		"path": {Path: "/"}, "status": {Status: "200"}, "http": {Protocol: "http"}, "a type of a later release": {Type: "datagram"},
	}
	for name, q := range miss {
		if Match(q, f) {
			t.Errorf("%s: matches", name)
		}
	}
}

func TestRequestsAreFoundByWhatOnlyTheyHave(t *testing.T) {
	f := request()
	match := map[string]*adminv1.FlowsRequest{
		"nothing asked": {}, "type": {Type: Request}, "method in any case": {Method: "get"}, "path's beginning": {Path: "/cart"},
		"whole path": {Path: "/cart/items"}, "status": {Status: "503"}, "class": {Status: "5xx"}, "class in capitals": {Status: "5XX"},
		"any http": {Protocol: "http"}, "version": {Protocol: "http/2"}, "connection's id": {Id: f.Id},
		"request's trace": {Id: "ABCDEF01"}, "all at once": {Type: Request, Method: "GET", Path: "/cart", Status: "5xx", To: "shop/pay"},
	}
	for name, q := range match {
		if !Match(q, f) {
			t.Errorf("%s: does not match", name)
		}
	}
	miss := map[string]*adminv1.FlowsRequest{
		"type": {Type: Connection}, "method": {Method: "POST"}, "path": {Path: "/cart/items/1"}, "path in the middle": {Path: "/items"},
		"status": {Status: "500"}, "class": {Status: "4xx"}, "no class": {Status: "xx"}, "two digits": {Status: "50"},
		"version": {Protocol: "http/1.1"}, "one of two": {Method: "GET", Status: "200"}, "trace": {Id: "bcdef"},
	}
	for name, q := range miss {
		if Match(q, f) {
			t.Errorf("%s: matches", name)
		}
	}
}

func TestTheRingKeepsTheNewest(t *testing.T) {
	l := New(func() {})
	for i := range ringSize + 10 {
		l.Add(connection(i))
	}
	got := l.Ended()
	if len(got) != ringSize || got[0].Id != fmt.Sprintf("%032x", 10) || got[ringSize-1].Id != fmt.Sprintf("%032x", ringSize+9) {
		t.Errorf("ring has %d flows from %s to %s", len(got), got[0].Id, got[len(got)-1].Id)
	}
}

func TestASlowFollowerLosesFlowsAndHoldsUpNobody(t *testing.T) {
	lost := 0
	l := New(func() { lost++ })
	ctx, cancel := context.WithCancel(context.Background())
	ch, ok := l.Follow(ctx)
	if !ok {
		t.Fatal("refused")
	}
	for i := range followBuffer + 5 {
		l.Add(connection(i))
	}
	if lost != 5 {
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
	l := New(func() {})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range maxFollowers {
		if _, ok := l.Follow(ctx); !ok {
			t.Fatal("refused below the limit")
		}
	}
	if _, ok := l.Follow(ctx); ok {
		t.Error("one more than the limit follows")
	}
}
