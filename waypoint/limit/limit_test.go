package limit

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func traffic(rules ...route.RateLimit) route.Traffic { return route.Traffic{RateLimits: rules} }

func request(header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func from(t testing.TB, account string) *exchange.Conn {
	t.Helper()
	id, err := identity.New("cluster.local", "shop", account)
	if err != nil {
		t.Fatal(err)
	}
	return &exchange.Conn{Client: id}
}

// passes returns how many of n requests at one moment may pass.
func passes(l *Limiter, n int, rules route.Traffic, c *exchange.Conn, r *http.Request, now time.Time) (passed int) {
	for range n {
		if l.Allow(rules, c, r, now).OK {
			passed++
		}
	}
	return passed
}

func TestRateAndBurst(t *testing.T) {
	rules := traffic(route.RateLimit{Key: "k", Name: "ten", Requests: 10, Period: time.Second, Burst: 3})
	l := New()
	steps := []struct {
		after time.Duration
		want  int
	}{
		{0, 3}, {99 * time.Millisecond, 0}, {100 * time.Millisecond, 1}, {300 * time.Millisecond, 2},
		{time.Hour, 3}, {time.Hour + 100*time.Millisecond, 1},
	}
	for _, s := range steps {
		if got := passes(l, 20, rules, nil, request(), start.Add(s.after)); got != s.want {
			t.Errorf("after %v %d of 20 passed, want %d", s.after, got, s.want)
		}
	}
}

func TestOverTimeExactlyTheRatePasses(t *testing.T) {
	rules := traffic(route.RateLimit{Key: "k", Requests: 7, Period: time.Second})
	l, passed := New(), 0
	for ms := range 100_000 {
		if l.Allow(rules, nil, request(), start.Add(time.Duration(ms)*time.Millisecond)).OK {
			passed++
		}
	}
	if want := 7 + 7*100 - 1; passed < want-1 || passed > want+1 {
		t.Errorf("%d passed in 100 s, want %d: 7 at once and 7 a second", passed, want)
	}
}

func TestVerdictTellsWhatIsLeftAndWhenToComeAgain(t *testing.T) {
	rules := traffic(route.RateLimit{Key: "k", Name: "n", Requests: 60, Period: time.Minute, Burst: 2})
	l := New()
	want := []Verdict{
		{true, "n", 60, 1, time.Second}, {true, "n", 60, 0, 2 * time.Second}, {false, "n", 60, 0, time.Second},
	}
	for i, w := range want {
		if got := l.Allow(rules, nil, request(), start); got != w {
			t.Errorf("request %d: %+v, want %+v", i, got, w)
		}
	}
	refused := l.Allow(rules, nil, request(), start.Add(300*time.Millisecond))
	if again := start.Add(300*time.Millisecond + refused.Reset); !l.Allow(rules, nil, request(), again).OK {
		t.Errorf("told to come again in %v, and refused then", refused.Reset)
	}
}

func TestClientsAreCountedApart(t *testing.T) {
	l := New()
	byIdentity := traffic(route.RateLimit{Key: "i", By: route.ByIdentity, Requests: 5, Period: time.Minute})
	both := func(n int, rules route.Traffic, a, b *http.Request) (int, int) {
		return passes(l, n, rules, from(t, "a"), a, start), passes(l, n, rules, from(t, "b"), b, start)
	}
	if a, b := both(9, byIdentity, request(), request()); a != 5 || b != 5 {
		t.Errorf("of 9 requests %d of a passed and %d of b, want 5 and 5", a, b)
	}
	byHeader := traffic(route.RateLimit{Key: "h", By: route.ByHeader, Header: "X-Key", Requests: 5, Period: time.Minute})
	one, two := request("X-Key", "1"), request("X-Key", "2", "X-Key", "1")
	if a, b := both(9, byHeader, one, two); a != 5 || b != 5 {
		t.Errorf("of 9 requests %d with one key passed and %d with another, want 5 and 5", a, b)
	}
	if a, b := both(4, byHeader, request(), request()); a+b != 5 {
		t.Errorf("%d without the header passed, want 5: to leave it out is no way round", a+b)
	}
	everybody := traffic(route.RateLimit{Key: "e", Requests: 5, Period: time.Minute})
	if a, b := both(4, everybody, one, two); a+b != 5 {
		t.Errorf("%d of everybody's passed, want 5", a+b)
	}
}

func TestRequestThatOneLimitRefusesCountsAgainstNone(t *testing.T) {
	l := New()
	wide := route.RateLimit{Key: "w", Name: "wide", Requests: 10, Period: time.Minute}
	narrow := route.RateLimit{Key: "n", Name: "narrow", Requests: 2, Period: time.Minute}
	if got := passes(l, 50, traffic(wide, narrow), nil, request(), start); got != 2 {
		t.Errorf("%d passed both, want 2", got)
	}
	v := l.Allow(traffic(wide, narrow), nil, request(), start)
	if v.OK || v.Name != "narrow" {
		t.Errorf("verdict %+v, want narrow's refusal", v)
	}
	if got := passes(l, 50, traffic(wide), nil, request(), start); got != 8 {
		t.Errorf("%d more passed the wide one, want 8", got)
	}
}

func TestLimitIsForRequestsWithItsHeaders(t *testing.T) {
	l := New()
	rules := traffic(route.RateLimit{
		Key: "k", Requests: 1, Period: time.Minute, Headers: []route.ValueMatch{{Name: "X-Plan", Value: "free"}},
	})
	if got := passes(l, 9, rules, nil, request("X-Plan", "paid"), start); got != 9 {
		t.Errorf("%d of 9 that it is not for passed", got)
	}
	if v := l.Allow(rules, nil, request(), start); v != (Verdict{OK: true}) {
		t.Errorf("verdict %+v where no limit applies", v)
	}
	if got := passes(l, 9, rules, nil, request("X-Plan", "free"), start); got != 1 {
		t.Errorf("%d of 9 that it is for passed, want 1", got)
	}
}

func TestLimitOfNothingLetsNothingPass(t *testing.T) {
	for _, rule := range []route.RateLimit{{Key: "k", Period: time.Second}, {Key: "k", Requests: 5}} {
		if got := passes(New(), 9, traffic(rule), nil, request(), start); got != 0 {
			t.Errorf("%d passed %+v", got, rule)
		}
	}
}

// TestLimitedClientCannotBeginAnewByMakingUpNames lets a client use up its rate, and then send requests under so many
// other names that there is no room for all.
func TestLimitedClientCannotBeginAnewByMakingUpNames(t *testing.T) {
	l := sized(256)
	rules := traffic(route.RateLimit{Key: "k", By: route.ByHeader, Header: "X-Key", Requests: 10, Period: time.Hour})
	mine := request("X-Key", "mine")
	if got := passes(l, 20, rules, nil, mine, start); got != 10 {
		t.Fatalf("%d passed, want 10", got)
	}
	now, invented := start, 0
	for i := range 100_000 {
		now = now.Add(time.Millisecond)
		if l.Allow(rules, nil, request("X-Key", fmt.Sprint("name-", i)), now).OK {
			invented++
		}
		if i%100 == 0 && l.Allow(rules, nil, mine, now).OK {
			t.Fatalf("the client may go on after %d other names", i)
		}
	}
	// Each of the buckets there are, shared or not, has ten at once and some more in this time, and no more than that.
	if most := (256 + shards*shared) * 11; invented > most {
		t.Errorf("%d requests under made-up names passed, want at most %d", invented, most)
	}
	t.Logf("%d of 100,000 under made-up names passed", invented)
	if n := rooms(l); n > 256 {
		t.Errorf("%d clients are remembered, want at most 256", n)
	}
}

func rooms(l *Limiter) (n int) {
	for _, t := range l.tables {
		for i := range t.shards {
			n += len(t.shards[i].buckets)
		}
	}
	return n
}

func TestRoomIsUsedAgainOnceBucketsAreFull(t *testing.T) {
	l := sized(64)
	rules := traffic(route.RateLimit{Key: "k", By: route.ByHeader, Header: "X-Key", Requests: 1, Period: time.Second})
	for round := range 50 {
		now := start.Add(time.Duration(round) * time.Minute)
		passed := 0
		for i := range 32 {
			if l.Allow(rules, nil, request("X-Key", fmt.Sprint(round, "-", i)), now).OK {
				passed++
			}
		}
		if passed < 30 { // shards are not filled evenly
			t.Errorf("round %d: %d of 32 new clients passed", round, passed)
		}
	}
}

func TestLimitsThatNobodyUsesAreForgotten(t *testing.T) {
	l := New()
	for i := range 100 {
		l.Allow(traffic(route.RateLimit{Key: fmt.Sprint(i), Requests: 1, Period: 10 * time.Minute}), nil, request(), start)
	}
	last := traffic(route.RateLimit{Key: "last", Requests: 1, Period: time.Minute})
	l.Allow(last, nil, request(), start.Add(9*time.Minute))
	if n := len(l.tables); n != 101 {
		t.Errorf("%d limits are counted while their buckets are not full, want 101", n)
	}
	l.Allow(last, nil, request(), start.Add(11*time.Minute))
	if n := len(l.tables); n != 1 {
		t.Errorf("%d limits are counted after that, want 1", n)
	}
}

func TestManyAtOnceGetNoMoreThanTheRate(t *testing.T) {
	l := New()
	rules := traffic(
		route.RateLimit{Key: "a", By: route.ByIdentity, Requests: 100, Period: time.Hour},
		route.RateLimit{Key: "b", Requests: 300, Period: time.Hour})
	conns := []*exchange.Conn{from(t, "a"), from(t, "b"), from(t, "c"), from(t, "d")}
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if l.Allow(rules, conns[rand.IntN(len(conns))], request(), start).OK {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := passed.Load(); n > 300 || n < 290 { // a request that is about to be refused may briefly stand in another's way
		t.Errorf("%d passed, want 300", n)
	}
}

func TestAllowDoesNotAllocate(t *testing.T) {
	l := New()
	rules := traffic(
		route.RateLimit{Key: "a", By: route.ByIdentity, Requests: 1 << 30, Period: time.Hour},
		route.RateLimit{Key: "b", By: route.ByHeader, Header: "X-Key", Requests: 1 << 30, Period: time.Hour})
	c, r := from(t, "a"), request("X-Key", "v")
	if n := testing.AllocsPerRun(100, func() { l.Allow(rules, c, r, start) }); n > 0 {
		t.Errorf("%v allocations a request, want none", n)
	}
}

func BenchmarkAllow(b *testing.B) {
	l := New()
	rules := traffic(route.RateLimit{Key: "a", By: route.ByIdentity, Requests: 1 << 30, Period: time.Hour})
	c, r := from(b, "a"), request()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Allow(rules, c, r, start)
		}
	})
}
