package authn

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/policy"
)

// issuerServer serves an issuer's keys as it is told.
type issuerServer struct {
	*httptest.Server
	mu      sync.Mutex
	body    string
	status  int
	cache   string
	fetches atomic.Int32
	hold    chan struct{} // answers wait until it is closed, if there is one
}

func newIssuer(t *testing.T, body string) *issuerServer {
	s := &issuerServer{body: body, status: 200}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		s.mu.Lock()
		body, status, cache, hold := s.body, s.status, s.cache, s.hold
		s.mu.Unlock()
		if hold != nil {
			select {
			case <-hold:
			case <-r.Context().Done():
				return
			}
		}
		if cache != "" {
			w.Header().Set("Cache-Control", cache)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *issuerServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// clock is a time that tests move.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(noon.UnixNano())
	return c
}
func (c *clock) now() time.Time       { return time.Unix(0, c.at.Load()) }
func (c *clock) pass(d time.Duration) { c.at.Add(int64(d)) }

// world is an issuer with one key, an Authenticator and a token that is good for a day.
type world struct {
	*issuerServer
	*clock
	t     *testing.T
	a     *Authenticator
	key   signer
	rules []*policy.Authentication
	token string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, clock: newClock(), key: newSigner(t, "a")}
	w.issuerServer = newIssuer(t, jwks(t, w.key))
	w.a = newAuthenticator(t, Config{Now: w.now, Transport: w.Client().Transport})
	w.rules = apply(policy.JWTRule{Issuer: issuer, JWKSURI: w.URL, Timeout: time.Second})
	w.token = w.key.sign(t, claim(map[string]any{"exp": noon.Add(24 * time.Hour).Unix()}))
	return w
}

func (w *world) try(token string) error {
	_, err := w.a.Authenticate(w.t.Context(), w.rules, bearer(token))
	return err
}

func (w *world) must(token string, fetches int32) {
	w.t.Helper()
	if err := w.try(token); err != nil {
		w.t.Fatal(err)
	}
	w.waitFetches(fetches)
}

func (w *world) waitFetches(n int32) {
	w.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); w.fetches.Load() < n && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if got := w.fetches.Load(); got != n {
		w.t.Fatalf("%d fetches, want %d", got, n)
	}
}

// settled waits until no fetch is under way.
func (w *world) settled() {
	w.a.remote.wg.Wait()
}

func TestKeysAreFetchedOnceAndRefreshedBeforeTheyExpire(t *testing.T) {
	w := newWorld(t)
	w.cache = "public, max-age=600"
	w.must(w.token, 1)
	w.pass(7 * time.Minute)
	w.must(w.token, 1)
	w.pass(90 * time.Second) // 8.5 of 10 minutes
	w.must(w.token, 2)       // served by the old keys, while new ones are fetched
	w.settled()
	w.must(w.token, 2)
}

func TestManyRequestsMakeOneFetch(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	w.set(func() { w.hold = hold })
	var wg sync.WaitGroup
	errs := make(chan error, 50)
	for range 50 {
		wg.Go(func() { errs <- w.try(w.token) })
	}
	w.waitFetches(1)
	close(hold)
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	w.waitFetches(1)
}

func TestANewKeyIsFetchedForButNotAtWill(t *testing.T) {
	w := newWorld(t)
	w.must(w.token, 1)
	next := newSigner(t, "b")
	w.set(func() { w.body = jwks(t, w.key, next) })
	rotated := next.sign(t, claim(nil))
	if err := w.try(rotated); err == nil || refusal(t, err).Status != 401 {
		t.Errorf("an unknown key just after a fetch: %v", err)
	}
	w.pass(minRefetch)
	w.must(rotated, 2)
	for range 20 {
		if w.try(newSigner(t, "made up").sign(t, claim(nil))) == nil {
			t.Error("a made-up key is accepted")
		}
	}
	w.waitFetches(2)
}

func TestLastGoodKeysServeUntilTheyAreTooOld(t *testing.T) {
	w := newWorld(t)
	w.must(w.token, 1)
	w.set(func() { w.status = 500 })
	w.pass(maxAge - time.Second)
	w.must(w.token, 2)
	w.settled()
	w.pass(time.Second)
	err := w.try(w.token)
	if err == nil {
		t.Fatal("accepted by keys that are too old")
	}
	if e := refusal(t, err); e.Status != 503 || e.Challenge != "" || !strings.Contains(e.Reason, "500") {
		t.Errorf("%+v", e)
	}
	w.set(func() { w.status = 200 })
	w.pass(lastBackoff)
	w.must(w.token, w.fetches.Load()+1)
}

func TestWithoutKeysRequestsAreRefusedAndTheIssuerIsSpared(t *testing.T) {
	w := newWorld(t)
	w.set(func() { w.status = 404 })
	for range 20 {
		if err := w.try(w.token); err == nil || refusal(t, err).Status != 503 {
			t.Fatalf("err = %v", err)
		}
	}
	w.waitFetches(1)
	w.pass(firstBackoff)
	if w.try(w.token) == nil {
		t.Error("accepted without keys")
	}
	w.waitFetches(2)
	// Whoever has no token needs no keys.
	if _, err := w.a.Authenticate(t.Context(), w.rules, bearer()); err != nil {
		t.Error(err)
	}
}

func TestBadAnswersAreNoKeys(t *testing.T) {
	for why, change := range map[string]func(w *world){
		"bytes":    func(w *world) { w.body = strings.Repeat(" ", 1<<20) + w.body },
		"not JSON": func(w *world) { w.body = "<html>" },
		"no keys":  func(w *world) { w.body = `{"keys":[]}` },
		"deadline": func(w *world) { w.hold = make(chan struct{}) },
	} {
		w := newWorld(t)
		w.set(func() { change(w) })
		if err := w.try(w.token); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: err = %v", why, err)
		}
	}
}

func TestRedirectsDoNotLeaveHTTPS(t *testing.T) {
	w := newWorld(t)
	plain := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, w.body) }))
	defer plain.Close()
	away := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer away.Close()
	a := newAuthenticator(t, Config{Transport: away.Client().Transport})
	rules := apply(policy.JWTRule{Issuer: issuer, JWKSURI: away.URL})
	if _, err := a.Authenticate(t.Context(), rules, bearer(w.token)); err == nil || !strings.Contains(err.Error(), "redirected from https to http") {
		t.Errorf("err = %v", err)
	}
}

func TestKeysAreNotFetchedFromTheNode(t *testing.T) {
	w := newWorld(t)
	a := newAuthenticator(t, Config{})
	for _, uri := range []string{strings.Replace(w.URL, "https", "http", 1), "http://169.254.169.254/latest", "http://[fe80::1]/", "http://0.0.0.0:1/"} {
		rules := apply(policy.JWTRule{Issuer: issuer, JWKSURI: uri})
		if _, err := a.Authenticate(t.Context(), rules, bearer(w.token)); err == nil || !strings.Contains(err.Error(), "not an address that keys are fetched from") {
			t.Errorf("%s: err = %v", uri, err)
		}
	}
	w.waitFetches(0)
}

func TestFreshness(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": defaultTTL, "max-age=120": 2 * time.Minute, "public, MAX-AGE=\"120\"": 2 * time.Minute, "max-age=1": minTTL,
		"max-age=99999999": maxTTL, "no-store": minTTL, "max-age=rubbish": defaultTTL, "max-age=99999999999999999999": defaultTTL,
	} {
		if got := freshFor(http.Header{"Cache-Control": {header}}); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

func TestTheNumberOfSourcesIsBounded(t *testing.T) {
	w := newWorld(t)
	for i := range maxSources + 10 {
		w.a.remote.mu.Lock()
		w.a.remote.sourceFor(&policy.JWTRule{JWKSURI: fmt.Sprint("https://", i)})
		w.a.remote.mu.Unlock()
		w.pass(time.Second)
	}
	if n := len(w.a.remote.sources); n != maxSources {
		t.Errorf("%d sources, want %d", n, maxSources)
	}
	if w.a.remote.sources["https://0"] != nil || w.a.remote.sources["https://265"] == nil {
		t.Error("not the one used least lately gave way")
	}
}

func TestCloseEndsFetches(t *testing.T) {
	w := newWorld(t)
	w.set(func() { w.hold = make(chan struct{}) })
	done := make(chan error, 1)
	go func() { done <- w.try(w.token) }()
	w.waitFetches(1)
	w.a.Close()
	if err := <-done; err == nil {
		t.Error("accepted without keys")
	}
	if w.try(w.token) == nil {
		t.Error("accepted after Close")
	}
}
