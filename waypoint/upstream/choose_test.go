package upstream

import (
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/route"
)

// pods adds pods p0, p1 and so on that nobody serves.
func (f *field) manyPods(n int) {
	f.t.Helper()
	for i := range n {
		f.pod(fmt.Sprint("p", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), nil)
	}
	f.publish()
}

func (f *field) balanced(kind route.Balance) func() Ask {
	return func() Ask {
		a := f.ask()
		a.Traffic.LoadBalancing = &route.LoadBalancing{Kind: kind}
		return a
	}
}

func (f *field) peerNamed(name string) *peer {
	f.t.Helper()
	f.u.mu.Lock()
	defer f.u.mu.Unlock()
	for key, p := range f.u.peers {
		if key.uid == mesh.UID("uid-"+name) {
			return p
		}
	}
	f.t.Fatalf("no endpoint %s", name)
	return nil
}

func TestRoundRobinTakesTurns(t *testing.T) {
	f := newField(t)
	f.manyPods(4)
	for name, n := range f.chosen(400, f.balanced(route.RoundRobin)) {
		if n != 100 {
			t.Errorf("%s was chosen %d times of 400, want 100", name, n)
		}
	}
}

func TestRandomIsEven(t *testing.T) {
	f := newField(t)
	f.manyPods(4)
	for name, n := range f.chosen(4000, f.balanced(route.Random)) {
		if n < 850 || n > 1150 {
			t.Errorf("%s was chosen %d times of 4000, want about 1000", name, n)
		}
	}
}

func TestLeastRequestsAvoidsTheBusy(t *testing.T) {
	f := newField(t)
	f.manyPods(3)
	f.chosen(1, f.ask)
	f.peerNamed("p0").open.Store(10)
	f.peerNamed("p1").open.Store(5)
	got := f.chosen(300, f.balanced(route.LeastRequests))
	if got["p0"] != 0 || got["p2"] < got["p1"] {
		t.Errorf("chosen %v: p0 has 10 open, p1 5, p2 none", got)
	}
}

func TestPeakEWMAAvoidsTheSlowAndComesBack(t *testing.T) {
	f := newField(t)
	f.manyPods(3)
	f.chosen(1, f.ask)
	for i, took := range []time.Duration{10, 10, 500} {
		f.peerNamed(fmt.Sprint("p", i)).latency.observe(took*time.Millisecond, f.now())
	}
	if got := f.chosen(300, f.balanced(route.PeakEWMA)); got["p2"] != 0 {
		t.Errorf("chosen %v: p2 is 50 times slower", got)
	}
	f.pass(time.Minute) // the others go on being measured
	for i := range 2 {
		f.peerNamed(fmt.Sprint("p", i)).latency.observe(10*time.Millisecond, f.now())
	}
	if got := f.chosen(300, f.balanced(route.PeakEWMA)); got["p2"] == 0 {
		t.Errorf("chosen %v: what was measured of p2 is a minute old", got)
	}
}

func TestLatencyJumpsToPeaksAndDecays(t *testing.T) {
	var l latency
	now := time.Unix(1000, 0)
	cost := func() time.Duration { return time.Duration(l.cost(0, now)) }
	if l.cost(0, now) != 0 || l.cost(1, now) < unmeasured {
		t.Errorf("an endpoint that was never measured costs %v, and with a request %v", l.cost(0, now), l.cost(1, now))
	}
	l.observe(10*time.Millisecond, now)
	l.observe(80*time.Millisecond, now)
	if cost() != 80*time.Millisecond || l.cost(3, now) != 4*float64(80*time.Millisecond) {
		t.Errorf("cost %v after a peak of 80 ms, with 3 open %v", cost(), l.cost(3, now))
	}
	l.observe(10*time.Millisecond, now)
	if cost() < 79*time.Millisecond {
		t.Errorf("cost %v: one good answer at the same moment says little", cost())
	}
	now = now.Add(decay)
	if got, want := float64(cost()), 80e6/math.E; math.Abs(got-want) > 1e3 {
		t.Errorf("cost %v after %v, want %v", cost(), decay, time.Duration(want))
	}
	for range 100 {
		now = now.Add(time.Second)
		l.observe(10*time.Millisecond, now)
	}
	if got := cost(); got < 9*time.Millisecond || got > 11*time.Millisecond {
		t.Errorf("cost %v after 100 s of 10 ms", got)
	}
	if c := l.cost(0, now.Add(-time.Hour)); math.IsInf(c, 0) || c > float64(11*time.Millisecond) {
		t.Errorf("cost %v after the clock went back", c)
	}
}

// hashed asks with a header that is hashed.
func (f *field) hashed(value string) Ask {
	a := f.ask()
	a.Traffic.LoadBalancing = &route.LoadBalancing{Kind: route.ConsistentHash, HashHeader: "X-User"}
	a.Request.Header.Set("X-User", value)
	return a
}

func (f *field) whereUsersAre(n int) map[string]string {
	at := map[string]string{}
	for i := range n {
		user := fmt.Sprint("user-", i)
		p := f.pick(f.hashed(user))
		at[user] = p.Endpoint.Workload.Name
		p.Release()
	}
	return at
}

func TestConsistentHashMovesNobodyWithoutNeed(t *testing.T) {
	f := newField(t)
	f.manyPods(10)
	const users = 5000
	before := f.whereUsersAre(users)
	load := map[string]int{}
	for _, at := range before {
		load[at]++
	}
	for name, n := range load {
		if n < 400 || n > 600 {
			t.Errorf("%s has %d of %d users, want about 500", name, n, users)
		}
	}
	f.remove("p3")
	f.publish()
	spread := map[string]int{}
	for user, at := range f.whereUsersAre(users) {
		if was := before[user]; was == "p3" {
			spread[at]++
		} else if at != was {
			t.Fatalf("%s moved from %s to %s as p3 went", user, was, at)
		}
	}
	if len(spread) != 9 {
		t.Errorf("p3's users went to %d endpoints, want all 9: %v", len(spread), spread)
	}
	f.pod("p3", "10.1.0.4", nil)
	f.pod("new", "10.1.9.9", nil)
	f.publish()
	moved := 0
	for user, at := range f.whereUsersAre(users) {
		if at != before[user] {
			if moved++; at != "new" {
				t.Fatalf("%s moved from %s to %s as another endpoint came", user, before[user], at)
			}
		}
	}
	if moved < 350 || moved > 560 {
		t.Errorf("%d of %d users moved to the eleventh endpoint, want about %d", moved, users, users/11)
	}
}

func TestHashIsTheSameInAllReplicas(t *testing.T) {
	one, two := newField(t), newField(t)
	one.manyPods(7)
	for i := 6; i >= 0; i-- { // in another order
		two.pod(fmt.Sprint("p", i), fmt.Sprintf("10.1.0.%d", i+1), nil)
	}
	two.publish()
	a, b := one.whereUsersAre(200), two.whereUsersAre(200)
	for user := range a {
		if a[user] != b[user] {
			t.Fatalf("%s is at %s, and for another replica at %s", user, a[user], b[user])
		}
	}
}

func TestWhatIsHashed(t *testing.T) {
	asking := func(change func(*Ask)) Ask {
		a := Ask{Request: get("/"), Conn: client("")}
		change(&a)
		return a
	}
	nothing := func(*Ask) {}
	header := func(value string) func(*Ask) { return func(a *Ask) { a.Request.Header.Set("X-User", value) } }
	host := func(value string) func(*Ask) { return func(a *Ask) { a.Request.Host = value } }
	query := func(value string) func(*Ask) { return func(a *Ask) { a.Request = get("/?q=" + value) } }
	cookie := func(value string) func(*Ask) {
		return func(a *Ask) { a.Request.AddCookie(&http.Cookie{Name: "c", Value: value}) }
	}
	pod := func(uid mesh.UID) func(*Ask) { return func(a *Ask) { a.Conn.Workload = &mesh.Workload{UID: uid} } }
	address := func(s string) func(*Ask) {
		return func(a *Ask) { a.Conn.Workload, a.Conn.ClientAddr = nil, mustAddrPort(s) }
	}
	nobody := func(a *Ask) { a.Conn = nil }
	tests := []struct {
		name             string
		lb               route.LoadBalancing
		one, two, absent func(*Ask)
	}{
		{"header", route.LoadBalancing{HashHeader: "x-user"}, header("1"), header("2"), nothing},
		{"host", route.LoadBalancing{HashHeader: "Host"}, host("1"), host("2"), host("")},
		{"cookie", route.LoadBalancing{HashCookie: "c"}, cookie("1"), cookie("2"), nothing},
		{"query", route.LoadBalancing{HashQuery: "q"}, query("1"), query("2"), nothing},
		{"client's pod", route.LoadBalancing{HashSource: true}, pod("1"), pod("2"), nobody},
		{"client's address", route.LoadBalancing{HashSource: true}, address("10.9.9.1:1"), address("10.9.9.2:1"), nobody},
	}
	for _, tt := range tests {
		a, b, c := asking(tt.one), asking(tt.two), asking(tt.absent)
		one, ok1 := a.hashKey(&tt.lb)
		again, _ := a.hashKey(&tt.lb)
		two, ok2 := b.hashKey(&tt.lb)
		if !ok1 || !ok2 || one == two || one != again {
			t.Errorf("%s: %x, again %x, another's %x (%v, %v)", tt.name, one, again, two, ok1, ok2)
		}
		if _, ok := c.hashKey(&tt.lb); ok {
			t.Errorf("%s: something was hashed where there is nothing", tt.name)
		}
	}
}

func TestRequestWithoutWhatIsHashedGoesAnywhere(t *testing.T) {
	f := newField(t)
	f.manyPods(3)
	if got := f.chosen(100, func() Ask { return f.hashed("") }); len(got) != 3 {
		t.Errorf("chosen %v, want all", got)
	}
}

// zoned makes 7 pods in z1 and 7 in z2.
func zoned(t *testing.T) *field {
	f := newField(t)
	f.manyPods(14)
	for i, w := range f.pods {
		w.Zone = fmt.Sprint("z", i/7+1)
		w.Node = fmt.Sprint("n", i%7)
	}
	f.publish()
	return f
}

func inZone(got map[string]int, first, last int) (n int) {
	for i := first; i <= last; i++ {
		n += got[fmt.Sprint("p", i)]
	}
	return n
}

func TestLocalityFailover(t *testing.T) {
	f := zoned(t)
	failover := func(zone string) func() Ask {
		return func() Ask {
			a := f.ask()
			a.Conn.Workload.Zone = zone
			a.Traffic.LoadBalancing = &route.LoadBalancing{LocalityFailover: true}
			return a
		}
	}
	if got := f.chosen(300, failover("z2")); inZone(got, 7, 13) != 300 {
		t.Errorf("a client of z2 got %v", got)
	}
	if got := f.chosen(300, failover("z9")); inZone(got, 0, 6) == 0 || inZone(got, 7, 13) == 0 {
		t.Errorf("a client of a zone without endpoints got %v", got)
	}
	for ready, wantAtHome := range map[int]int{7: 1000, 5: 1000, 4: 800, 2: 400, 1: 200, 0: 0} {
		for i := range 7 {
			f.endpoint(fmt.Sprint("p", i)).Ready = i < ready
		}
		f.publish()
		atHome := inZone(f.chosen(1000, failover("z1")), 0, 6)
		if atHome < wantAtHome-70 || atHome > wantAtHome+70 {
			t.Errorf("%d of 7 endpoints of z1 are ready: %d of 1000 requests stayed, want about %d", ready, atHome, wantAtHome)
		}
	}
}

func TestLocalityFailoverStaysHomeIfNobodyElseIsReady(t *testing.T) {
	f := zoned(t)
	for i := 1; i < 14; i++ {
		f.endpoint(fmt.Sprint("p", i)).Ready = false
	}
	f.publish()
	a := f.ask()
	a.Traffic.LoadBalancing = &route.LoadBalancing{LocalityFailover: true}
	if got := f.chosen(100, func() Ask { return a }); got["p0"] != 100 {
		t.Errorf("chosen %v, want the only one that is ready", got)
	}
}

func TestServicePrefersTheClientsNodeOrZone(t *testing.T) {
	f := zoned(t)
	f.svc.PreferSameZone = true
	f.publish()
	if got := f.chosen(200, f.ask); inZone(got, 0, 6) != 200 {
		t.Errorf("PreferSameZone: a client of z1 got %v", got)
	}
	f.svc.PreferSameNode = true
	f.publish()
	if got := f.chosen(200, f.ask); got["p1"]+got["p8"] != 200 { // both are on n1
		t.Errorf("PreferSameNode: a client of n1 got %v", got)
	}
	stranger := f.ask()
	stranger.Conn.Workload = nil
	f.svc.PreferSameNode = false
	for i := range 7 {
		f.pods[i].Zone = "zone-of-waypoint"
	}
	f.publish()
	if got := f.chosen(200, func() Ask { return stranger }); inZone(got, 0, 6) != 200 {
		t.Errorf("a client whose zone is unknown got %v, want those of the waypoint's", got)
	}
}

func TestNearestThatWereTriedDoNotKeepARequestFromOthers(t *testing.T) {
	f := zoned(t)
	f.svc.PreferSameZone = true
	f.publish()
	a := f.ask()
	for i := range 7 {
		a.Tried = append(a.Tried, mustAddrPort(fmt.Sprintf("10.1.0.%d:8080", i+1)))
	}
	if got := f.chosen(100, func() Ask { return a }); inZone(got, 7, 13) != 100 {
		t.Errorf("all of z1 were tried, and %v chosen", got)
	}
}
