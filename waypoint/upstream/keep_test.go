package upstream

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/route"
)

func TestBudgetIsAPartOfTheRequestsAndAFewASecond(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	f.publish()
	f.ahead.Store(int64(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))) // the beginning of a second
	a := f.ask()
	allowed := func() (n int) {
		for range 1000 {
			if f.u.MayRetry("shop/web") {
				n++
			}
		}
		return n
	}
	if f.u.MayRetry("shop/web") {
		t.Error("a retry without a request was allowed")
	}
	a.Traffic.RetryBudget = &route.RetryBudget{Percent: 20, MinRetriesPerSecond: 3}
	f.chosen(200, func() Ask { return a })
	if n := allowed(); n != 40 {
		t.Errorf("%d retries of 200 requests are allowed, want 40", n)
	}
	f.pass(time.Second)
	if n := allowed(); n != 3 {
		t.Errorf("%d retries in the next second, want the 3 that every second has", n)
	}
	f.pass(budgetWindow * time.Second)
	if n := allowed(); n != 3 {
		t.Errorf("%d retries after all requests are long over, want 3", n)
	}
	retry := a
	retry.Tried = append(retry.Tried, mustAddrPort("10.0.0.1:8080"))
	f.pass(time.Minute)
	f.chosen(1000, func() Ask { return retry })
	if n := allowed(); n != 3 {
		t.Errorf("%d retries are allowed for 1000 retries, want 3: they earn none", n)
	}
	if n := f.metric("warren_waypoint_retries_denied_total", ""); n < 3900 {
		t.Errorf("%v retries are counted as denied", n)
	}
	f.pass(time.Minute)
	f.chosen(100, f.ask)
	if n := allowed(); n != max(100*defaultRetryPercent/100, defaultMinRetries) {
		t.Errorf("%d retries without a policy", n)
	}
}

// visit asks with what the client kept of the last answer, and keeps what this one says.
func (f *field) visit(s *route.Session, kept *string) string {
	f.t.Helper()
	a := f.ask()
	a.Session = s
	if *kept != "" && s.Cookie {
		a.Request.Header.Set("Cookie", "other=1; "+*kept)
	} else if *kept != "" {
		a.Request.Header.Set(s.Name, *kept)
	}
	p := f.pick(a)
	defer p.Release()
	switch name, value := p.SessionHeader(s); name {
	case "Set-Cookie":
		*kept, _, _ = strings.Cut(value, ";")
	case "":
	default:
		*kept = value
	}
	return p.Endpoint.Workload.Name
}

func TestSessionStaysAtItsEndpointInAllReplicas(t *testing.T) {
	one, two := newField(t), newField(t)
	one.manyPods(20)
	two.manyPods(20)
	for _, s := range []*route.Session{{Name: "s", Cookie: true}, {Name: "X-S"}} {
		kept := ""
		first := one.visit(s, &kept)
		if kept == "" {
			t.Fatal("no session was begun")
		}
		for range 20 {
			if a, b := one.visit(s, &kept), two.visit(s, &kept); a != first || b != first {
				t.Fatalf("the session began at %s and went on at %s and %s", first, a, b)
			}
		}
	}
}

func TestSessionWhoseEndpointIsGoneBeginsAnewElsewhere(t *testing.T) {
	f := newField(t)
	f.manyPods(3)
	s, kept := &route.Session{Name: "s", Cookie: true}, ""
	first := f.visit(s, &kept)
	f.remove(first)
	f.publish()
	second := f.visit(s, &kept)
	if second == first {
		t.Fatal("chosen although it is gone")
	}
	for range 20 {
		if at := f.visit(s, &kept); at != second {
			t.Fatalf("the session began again at %s and went on at %s", second, at)
		}
	}
}

func TestSessionEnds(t *testing.T) {
	f := newField(t)
	f.manyPods(50)
	idle := &route.Session{Name: "s", Idle: time.Minute}
	kept := ""
	first := f.visit(idle, &kept)
	for range 5 {
		f.pass(50 * time.Second)
		if at := f.visit(idle, &kept); at != first {
			t.Fatalf("a session that is used went from %s to %s", first, at)
		}
	}
	f.pass(61 * time.Second)
	elsewhere := func(of *route.Session) (n int) { // one in 50 comes to the same endpoint by chance
		for range 20 {
			if token := kept; f.visit(of, &token) != first {
				n++
			}
		}
		return n
	}
	if n := elsewhere(idle); n < 15 {
		t.Errorf("a session that was idle for too long went on: %d of 20 went elsewhere", n)
	}
	absolute := &route.Session{Name: "s", Absolute: time.Minute, Idle: 40 * time.Second}
	kept = ""
	first = f.visit(absolute, &kept)
	f.pass(35 * time.Second)
	if at := f.visit(absolute, &kept); at != first {
		t.Fatalf("went from %s to %s", first, at)
	}
	f.pass(30 * time.Second)
	if n := elsewhere(absolute); n < 15 {
		t.Errorf("a session that lasted long enough went on: %d of 20 went elsewhere", n)
	}
}

func TestCookieOfASession(t *testing.T) {
	f := newField(t)
	f.manyPods(1)
	p := f.pick(f.ask())
	name, value := p.SessionHeader(&route.Session{Name: "c", Cookie: true, Permanent: true, Absolute: time.Hour})
	res := http.Response{Header: http.Header{name: {value}}}
	c := res.Cookies()[0]
	if c.Name != "c" || c.MaxAge < 3599 || c.MaxAge > 3600 || !c.HttpOnly || c.Path != "/" {
		t.Errorf("%s: %s", name, value)
	}
	_, value = p.SessionHeader(&route.Session{Cookie: true})
	if !strings.HasPrefix(value, "warren-session=") || strings.Contains(value, "Max-Age") {
		t.Errorf("cookie of a browser's session: %s", value)
	}
	raw, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil || len(raw) != 26 {
		t.Fatalf("value %q, %v", c.Value, err)
	}
	for _, secret := range []string{"p0", "10.1.0.1", "uid", "web"} {
		if strings.Contains(string(raw), secret) || strings.Contains(c.Value, secret) {
			t.Errorf("the value gives %q away: %q", secret, raw)
		}
	}
	if name, _ = p.SessionHeader(nil); name != "" {
		t.Errorf("header %s without a session", name)
	}
}

func TestWhatIsNoSessionIsIgnored(t *testing.T) {
	f := newField(t)
	f.manyPods(1)
	s := &route.Session{Name: "X-S", Absolute: time.Hour}
	good := ""
	f.visit(s, &good)
	now := uint32(f.now().Unix())
	tok, _, _ := decoded(good)
	for name, value := range map[string]string{
		"empty": "", "short": "abc", "long": good + "a",
		"no base64": strings.Repeat("!", len(good)), "padding": good[:len(good)-1] + "=",
		"from the future": encoded(tok, stamp{now + 3600, now + 3600}), "never begun": encoded(tok, stamp{0, now}),
		"used before it began": encoded(tok, stamp{now, now - 3600}),
		"of another endpoint":  encoded(token{1}, stamp{now, now}),
	} {
		a := f.ask()
		a.Session = s
		a.Request.Header.Set("X-S", value)
		p := f.pick(a)
		if p.resumed.began != 0 {
			t.Errorf("%s: the session %q was kept", name, value)
		}
		if h, _ := p.SessionHeader(s); h == "" {
			t.Errorf("%s: no new session was begun", name)
		}
	}
}

func TestSessionNamesItsBackend(t *testing.T) {
	f := newField(t)
	f.manyPods(1)
	s, kept := &route.Session{Name: "X-S"}, ""
	f.visit(s, &kept)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-S", kept)
	backends := []route.Backend{{Service: "shop/canary", Weight: 1}, {Service: "shop/web", Weight: 9}}
	if b := SessionBackend(s, r, backends, f.now()); b != &backends[1] {
		t.Errorf("backend %v, want shop/web", b)
	}
	backends[1].Weight = 0
	if b := SessionBackend(s, r, backends, f.now()); b != nil {
		t.Errorf("backend %v, whose weight is 0", b)
	}
	r.Header.Del("X-S")
	if b := SessionBackend(s, r, backends, f.now()); b != nil {
		t.Errorf("backend %v without a session", b)
	}
}

func TestClientStaysWithItsEndpointForAsLongAsTheServiceSays(t *testing.T) {
	f := newField(t)
	f.svc.Affinity = time.Hour
	f.manyPods(10)
	at := func(i int) string {
		a := f.ask()
		a.Conn.Workload.UID = mesh.UID(fmt.Sprint("client-", i))
		p := f.pick(a)
		defer p.Release()
		return p.Endpoint.Workload.Name
	}
	first := map[int]string{}
	used := map[string]bool{}
	for i := range 100 {
		first[i] = at(i)
		used[first[i]] = true
	}
	if len(used) < 8 {
		t.Errorf("100 clients have %d of 10 endpoints", len(used))
	}
	for i := range 30 {
		f.pod(fmt.Sprint("new", i), fmt.Sprintf("10.2.0.%d", i+1), nil)
	}
	f.publish()
	for i := range 100 {
		if now := at(i); now != first[i] {
			t.Fatalf("client %d went from %s to %s as others came", i, first[i], now)
		}
	}
	f.remove(first[0])
	f.publish()
	second := at(0)
	if second == first[0] || at(0) != second {
		t.Errorf("client 0 was at %s, which is gone, and went to %s", first[0], second)
	}
	f.pass(time.Hour + time.Second)
	moved := 0
	for i := range 100 {
		if at(i) != first[i] {
			moved++
		}
	}
	if moved < 50 {
		t.Errorf("%d of 100 clients have another endpoint of 40 after the time, want most", moved)
	}
}

func TestAffinitiesAreBounded(t *testing.T) {
	f := newField(t)
	f.u.affinities.max = 50
	f.svc.Affinity = time.Hour
	f.manyPods(3)
	for i := range 500 {
		a := f.ask()
		a.Conn.Workload.UID = mesh.UID(fmt.Sprint(i))
		f.pick(a).Release()
	}
	if n := len(f.u.affinities.byKey); n != 50 || f.u.affinities.recent.Len() != 50 {
		t.Errorf("%d clients are remembered, want 50", n)
	}
}
