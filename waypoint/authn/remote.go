package authn

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/waypoint/keyset"
)

const (
	// maxSources bounds how many places' keys are kept; the one used least lately gives way.
	maxSources = 256
	// maxAge is how long keys are used after they were fetched, if they cannot be fetched again.
	maxAge = 4 * time.Hour
	// minRefetch is the time between fetches for the sake of a key id that nobody knows, which anybody may make up.
	minRefetch = 10 * time.Second

	firstBackoff, lastBackoff = time.Second, time.Minute
	defaultTimeout            = 5 * time.Second
	maxTimeout                = 30 * time.Second
)

// remote keeps the keys that are fetched. Fetches are its own, not the request's that started them: it may go, and
// others wait for the same.
type remote struct {
	client *http.Client
	now    func() time.Time
	log    *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	sources map[string]*source
	closed  bool
}

// source is one place with keys. Its fields are remote.mu's.
type source struct {
	uri     string
	timeout time.Duration
	used    time.Time

	set               *keyset.Set
	fetched           time.Time
	refresh           time.Time // from then on another fetch is due
	tried             time.Time
	failures          int
	err               error         // of the last fetch
	fetching          chan struct{} // closed when the fetch that is under way ends, nil if none is
	notBeforeNextTime time.Time
}

func newRemote(cfg Config) *remote {
	ctx, cancel := context.WithCancel(context.Background())
	return &remote{
		client: newClient(cfg), now: cfg.Now, log: cfg.Log, ctx: ctx, cancel: cancel,
		sources: make(map[string]*source),
	}
}

func (r *remote) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
	r.client.CloseIdleConnections()
}

// keys returns an issuer's keys, fetched if need be: if there are none, they are too old, or none has the key id.
func (r *remote) keys(ctx context.Context, rule *policy.JWTRule, kid string) (*keyset.Set, error) {
	r.mu.Lock()
	s := r.sourceFor(rule)
	now := r.now()
	good := s.set != nil && now.Sub(s.fetched) < maxAge
	unknown := good && kid != "" && !s.set.Has(kid) && now.Sub(s.tried) >= minRefetch
	if s.fetching == nil && !now.Before(s.notBeforeNextTime) && (!good || unknown || !now.Before(s.refresh)) {
		r.start(s, now)
	}
	wait, set := s.fetching, s.set
	r.mu.Unlock()
	if good && (!unknown || wait == nil) {
		return set, nil
	}
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return r.after(s)
}

// after returns what there is once a fetch ended, or while none may be made.
func (r *remote) after(s *source) (*keyset.Set, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case s.set != nil && r.now().Sub(s.fetched) < maxAge:
		return s.set, nil
	case s.err != nil:
		return nil, s.err
	}
	return nil, fmt.Errorf("fetch %s: not done", s.uri)
}

// sourceFor returns the source of a rule.
func (r *remote) sourceFor(rule *policy.JWTRule) *source {
	s := r.sources[rule.JWKSURI]
	if s == nil {
		r.makeRoom()
		s = &source{uri: rule.JWKSURI}
		r.sources[rule.JWKSURI] = s
	}
	s.used, s.timeout = r.now(), defaultTimeout
	if rule.Timeout > 0 {
		s.timeout = min(rule.Timeout, maxTimeout)
	}
	return s
}

func (r *remote) makeRoom() {
	if len(r.sources) < maxSources {
		return
	}
	var oldest *source
	for _, s := range r.sources {
		if oldest == nil || s.used.Before(oldest.used) {
			oldest = s
		}
	}
	delete(r.sources, oldest.uri)
}

// start starts a fetch. The caller holds mu.
func (r *remote) start(s *source, now time.Time) {
	if r.closed {
		s.err = fmt.Errorf("fetch %s: shutting down", s.uri)
		return
	}
	done := make(chan struct{})
	s.fetching, s.tried = done, now
	timeout := s.timeout
	r.wg.Go(func() {
		set, ttl, err := fetch(r.ctx, r.client, s.uri, timeout)
		r.mu.Lock()
		defer r.mu.Unlock()
		s.finish(set, ttl, err, r.now())
		s.fetching = nil
		close(done)
		if err != nil {
			r.log.Warn("keys of an issuer could not be fetched", "uri", s.uri, "err", err, "failures", s.failures)
		}
	})
}

func (s *source) finish(set *keyset.Set, ttl time.Duration, err error, now time.Time) {
	s.err = err
	if err != nil {
		s.failures++
		s.notBeforeNextTime = now.Add(min(firstBackoff<<min(s.failures-1, 10), lastBackoff))
		return
	}
	s.failures, s.notBeforeNextTime = 0, time.Time{}
	// A little before they expire, so that no request has to wait.
	s.set, s.fetched, s.refresh = set, now, now.Add(ttl*8/10)
}
