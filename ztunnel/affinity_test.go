package ztunnel

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

func sticky(s *mesh.Service) { s.Affinity = time.Hour }

// affinityClient asks where clients are sent.
type affinityClient struct {
	t   *testing.T
	p   *Proxy
	now time.Time
}

func (c *affinityClient) goes(m *mesh.Snapshot, uid mesh.UID, dst string) (netip.AddrPort, route) {
	c.t.Helper()
	way, missing := c.p.find(m, &mesh.Workload{UID: uid, Zone: "a"}, netip.MustParseAddrPort(dst))
	if missing != "" {
		c.t.Fatal(missing)
	}
	c.p.affinities.settle(&way, c.now, true)
	return way.hops[0].addr, way
}

var crowd = []string{far, "n3.b.second", "n3.b.third", "n3.b.fourth", "n3.b.fifth", "n3.b.sixth"}

const byVIP4, byVIP6, byNode4 = "10.96.0.1:80", "[fd00:96::1]:80", "192.0.2.1:30080"

func TestAClientStaysWithItsEndpoint(t *testing.T) {
	c := &affinityClient{t: t, p: choiceProxy(), now: time.Unix(1000, 0)}
	m, who := choiceWorld(t, sticky, crowd...)
	for _, family := range []struct{ vip, other string }{{byVIP4, byNode4}, {byVIP6, "[2001:db8::1]:30080"}} {
		had, _ := c.goes(m, "x", family.vip)
		for i := range 50 {
			c.now = c.now.Add(50 * time.Minute) // time runs from the last connection
			if got, _ := c.goes(m, "x", []string{family.vip, family.other}[i%2]); got != had {
				t.Fatalf("%s: connection %d goes to %s, the one before to %s", family.vip, i, who[got.Addr()], who[had.Addr()])
			}
		}
	}
	seen := map[netip.AddrPort]bool{}
	for i := range 60 {
		a, _ := c.goes(m, mesh.UID(fmt.Sprint("client", i)), byVIP4)
		seen[a] = true
	}
	if len(seen) < 2 {
		t.Error("every client went to the same endpoint")
	}
}

func TestAffinityEndsWithTimeOrItsEndpoint(t *testing.T) {
	away := func(what string, edit func(*mesh.Service), later time.Duration) {
		t.Helper()
		left := false
		for i := range 60 { // the next endpoint is by chance the same in one of six
			c := &affinityClient{t: t, p: choiceProxy(), now: time.Unix(1000, 0)}
			m, _ := choiceWorld(t, sticky, crowd...)
			uid := mesh.UID(fmt.Sprint("x", i))
			had, _ := c.goes(m, uid, byVIP4)
			after, _ := choiceWorld(t, all(sticky, edit), crowd...)
			c.now = c.now.Add(later)
			got, _ := c.goes(after, uid, byVIP4)
			left = left || got != had
		}
		if !left {
			t.Errorf("%s: clients stay", what)
		}
	}
	away("once the time is over", func(*mesh.Service) {}, time.Hour)
	away("when the endpoint is not ready", func(s *mesh.Service) {
		for i := range crowd[:5] {
			gone(i)(s)
		}
	}, 0)

	// It stays while its endpoint may be used, whatever comes and goes beside it, nearer ones included.
	c := &affinityClient{t: t, p: choiceProxy(), now: time.Unix(1000, 0)}
	m, _ := choiceWorld(t, all(sticky, preferZone), crowd...)
	had, _ := c.goes(m, "x", byVIP4)
	m, who := choiceWorld(t, all(sticky, preferZone), append(append([]string{}, crowd...), near, zonal)...)
	for range 20 {
		if got, way := c.goes(m, "x", byVIP4); got != had {
			t.Fatalf("a nearer endpoint took it away: %s", who[got.Addr()])
		} else if next := who[way.hops[1].addr.Addr()]; next != near && next != zonal {
			t.Fatalf("after its own comes %s, want a near one", next)
		}
	}
}

func TestAClientWhoseEndpointDoesNotAnswerMovesWithItsConnection(t *testing.T) {
	c := &affinityClient{t: t, p: choiceProxy(), now: time.Unix(1000, 0)}
	m, _ := choiceWorld(t, sticky, crowd...)
	_, way := c.goes(m, "x", byVIP4)
	to := way.hops[1].addr
	c.p.affinities.move(&way, to, c.now)
	for range 20 {
		if got, _ := c.goes(m, "x", byVIP4); got != to {
			t.Fatalf("it goes to %s, want %s, which answered", got, to)
		}
	}
}

func TestConnectionsThatBeginTogetherStayTogether(t *testing.T) {
	for range 20 {
		c := &affinityClient{t: t, p: choiceProxy(), now: time.Unix(1000, 0)}
		m, _ := choiceWorld(t, sticky, crowd...)
		got := make([]netip.AddrPort, 8)
		var tasks sync.WaitGroup
		for i := range got {
			tasks.Go(func() { got[i], _ = c.goes(m, "x", byVIP4) })
		}
		tasks.Wait()
		for _, a := range got {
			if a != got[0] {
				t.Fatalf("one client went to %v", got)
			}
		}
	}
}

func TestAskingForARouteIsNoConnection(t *testing.T) {
	p := choiceProxy()
	m, _ := choiceWorld(t, sticky, crowd...)
	p.cfg.World = mesh.NewStore(&World{Mesh: m})
	if hops, _, reason := p.Route(m.Workload("client"), netip.MustParseAddrPort(byVIP4)); reason != "" || len(hops) != maxAttempts {
		t.Fatalf("%d hops, %q", len(hops), reason)
	}
	if kept, _ := p.Affinities(); kept != 0 {
		t.Errorf("%d clients are remembered", kept)
	}
}

func TestAffinitiesAreBounded(t *testing.T) {
	c := &affinityClient{t: t, p: choiceProxy(), now: time.Unix(1000, 0)}
	c.p.affinities = newAffinities(10)
	m, _ := choiceWorld(t, sticky, crowd...)
	for i := range 10 {
		c.goes(m, mesh.UID(fmt.Sprint(i)), byVIP4)
	}
	oldest, _ := c.goes(m, "0", byVIP4) // used again: the longest unused is 1 now
	c.goes(m, "one more", byVIP4)
	if kept, displaced := c.p.Affinities(); kept != 10 || displaced != 1 {
		t.Errorf("%d kept, %d displaced; want 10 and 1", kept, displaced)
	}
	for range 20 {
		if got, _ := c.goes(m, "0", byVIP4); got != oldest {
			t.Fatal("the client that was seen last was displaced")
		}
	}
	c.now = c.now.Add(time.Hour)
	c.goes(m, "later", byVIP4)
	if kept, displaced := c.p.Affinities(); kept != 1 || displaced != 1 {
		t.Errorf("%d kept, %d displaced; want 1, as all others are over, and still 1", kept, displaced)
	}
}
