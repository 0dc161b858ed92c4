package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Name is a SPIFFE id that an SVID can be for: an ID or an AgentID.
type Name interface {
	String() string
	TrustDomain() string
}

// Signer asks the CA for an SVID. csr is a PKCS #10 request in DER, of which only the public key counts. uid is the
// workload in whose name it asks. The chain is DER, leaf first, without the root.
type Signer interface {
	Sign(ctx context.Context, uid string, csr []byte) (chain [][]byte, err error)
}

// Source is what a TLS configuration needs of a Manager.
type Source interface {
	// Get waits for an SVID until ctx ends.
	Get(ctx context.Context, id Name) (*SVID, error)
	// Current returns the SVID that is there now.
	Current(id Name) (*SVID, error)
}

// ManagerConfig is what a Manager needs. Signer, Bundle and Log must be set.
type ManagerConfig struct {
	Signer Signer
	Bundle GetBundle
	Log    *slog.Logger
	// Cache keeps SVIDs over a restart. Without it a restarted agent serves nothing until the CA answers.
	Cache *Cache
	// Clock defaults to time.Now.
	Clock func() time.Time
	// Random is uniform in [0, 1). It spreads renewals; the default is the system's randomness.
	Random func() float64
	// Concurrency is how many issuances run at once, 4 by default. More load the CA when a node starts.
	Concurrency int
	// SignTimeout bounds one issuance, 15 s by default.
	SignTimeout time.Duration
}

// Manager keeps an SVID for every identity that is wanted, renews it at half of its life, and keeps the old one until
// its end if the CA does not answer. All methods may be called at any time by any goroutine; work is done in Run.
type Manager struct {
	config  ManagerConfig
	nudge   chan struct{} // of capacity 1: something is due, or may be
	results chan result
	slots   sync.WaitGroup

	mu       sync.Mutex
	entries  map[string]*entry // by SPIFFE id
	wants    map[string]string // uid → SPIFFE id
	inFlight int
}

// entry is one identity. All fields but name are guarded by Manager.mu.
type entry struct {
	name      Name
	id        string
	uids      map[string]struct{}
	svid      *SVID
	ready     chan struct{} // closed, and made anew, when svid changes or the entry is dropped
	waiters   int
	due       time.Time // of the next issuance
	failures  int       // since the last success
	inFlight  bool
	forgotten bool
	err       error // of the last issuance
}

// NewManager returns a manager that does nothing until Run.
func NewManager(config ManagerConfig) (*Manager, error) {
	if config.Signer == nil || config.Bundle == nil || config.Log == nil {
		return nil, errors.New("identity manager: Signer, Bundle and Log must be set")
	}
	config.setDefaults()
	return &Manager{
		config:  config,
		nudge:   make(chan struct{}, 1),
		results: make(chan result, config.Concurrency),
		entries: make(map[string]*entry),
		wants:   make(map[string]string),
	}, nil
}

// Want says that the workload uid needs an SVID for id. Several workloads may want the same. A workload that wanted
// another id before no longer does.
func (m *Manager) Want(uid string, id Name) {
	key := id.String()
	if key == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wants[uid] == key {
		return
	}
	m.forget(uid)
	m.wants[uid] = key
	e := m.entries[key]
	if e == nil {
		e = &entry{name: id, id: key, uids: make(map[string]struct{}), ready: make(chan struct{}), due: m.config.Clock()}
		m.entries[key] = e
		m.restore(e)
	}
	e.uids[uid] = struct{}{}
	m.wake()
}

// Forget says that the workload is gone. An identity that nobody wants any more is dropped, on disk too.
func (m *Manager) Forget(uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(uid)
}

func (m *Manager) forget(uid string) {
	key, ok := m.wants[uid]
	if !ok {
		return
	}
	delete(m.wants, uid)
	e := m.entries[key]
	delete(e.uids, uid)
	if len(e.uids) > 0 {
		return
	}
	e.forgotten = true
	delete(m.entries, key)
	close(e.ready)
	m.config.Cache.Remove(key)
}

// BundleChanged makes the manager replace at once every SVID that the current bundle does not trust any more.
func (m *Manager) BundleChanged() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, bundle := m.config.Clock(), m.config.Bundle()
	for _, e := range m.entries {
		if e.svid == nil || e.svid.Verify(bundle, now) != nil {
			e.due, e.failures = now, 0
		}
	}
	m.wake()
}

// RenewUnless makes the manager replace every SVID that another root vouches for than the one with this fingerprint, and
// returns how many those are. The old ones serve until the new ones are there.
func (m *Manager) RenewUnless(root string) (due int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, bundle := m.config.Clock(), m.config.Bundle()
	for _, e := range m.entries {
		if e.svid == nil || e.svid.Root(bundle, now) != root {
			due++
			if !e.inFlight {
				e.due, e.failures = now, 0
			}
		}
	}
	m.wake()
	return due
}

// Get returns the SVID of an identity that is wanted. It waits for it until ctx ends, and lets it be issued before
// those that nobody waits for.
// Returns an error that wraps ErrNoSVID if nobody wants the identity, or with the cause if ctx ends first.
func (m *Manager) Get(ctx context.Context, id Name) (*SVID, error) {
	key := id.String()
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		e := m.entries[key]
		if e == nil {
			return nil, fmt.Errorf("identity %q: %w: no workload here has it", key, ErrNoSVID)
		}
		if e.usable(m.config.Clock()) {
			return e.svid, nil
		}
		if err := m.wait(ctx, e); err != nil {
			return nil, fmt.Errorf("identity %q: %w: %w (the last attempt: %w)", key, ErrNoSVID, err, e.cause())
		}
	}
}

// wait returns once e has changed, or ctx ended. It gives up the lock meanwhile.
func (m *Manager) wait(ctx context.Context, e *entry) error {
	e.waiters++
	ready := e.ready
	m.wake()
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		e.waiters--
	}()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Current returns the SVID of an identity if it is there and has not expired.
// Returns an error that wraps ErrNoSVID otherwise.
func (m *Manager) Current(id Name) (*SVID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[id.String()]
	switch {
	case e == nil:
		return nil, fmt.Errorf("identity %q: %w: no workload here has it", id, ErrNoSVID)
	case e.usable(m.config.Clock()):
		return e.svid, nil
	case e.svid != nil:
		return nil, fmt.Errorf("identity %q: %w: expired at %s: %w", id, ErrNoSVID, e.svid.NotAfter.Format(time.RFC3339), e.cause())
	}
	return nil, fmt.Errorf("identity %q: %w: %w", id, ErrNoSVID, e.cause())
}

// For returns Current for one identity, as the TLS configurations take it.
func (m *Manager) For(id Name) GetSVID {
	return func() (*SVID, error) { return m.Current(id) }
}

// Status is one identity, for people.
type Status struct {
	ID        string
	Serial    string // hexadecimal, "" while there is none
	NotBefore time.Time
	NotAfter  time.Time
	RenewAt   time.Time // when the next issuance is due
	// State is valid, renewing (valid, and a new one is being asked for), expired or missing.
	State string
	Err   string   // why the last issuance failed, "" if it did not
	UIDs  []string // who wants it, sorted

	svid *SVID // nil while there is none
}

// Root returns the fingerprint of the root of b that vouches for the identity's SVID now, "" if none does or there is no
// SVID. It verifies signatures, so it is for whoever asks, and done without the manager's lock.
func (s Status) Root(b *Bundle, now time.Time) string {
	if s.svid == nil {
		return ""
	}
	return s.svid.Root(b, now)
}

// Snapshot returns the status of every identity, sorted by id.
func (m *Manager) Snapshot() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.config.Clock()
	all := make([]Status, 0, len(m.entries))
	for _, e := range m.entries {
		all = append(all, e.status(now))
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.ID, b.ID) })
	return all
}

func (e *entry) status(now time.Time) Status {
	s := Status{ID: e.id, RenewAt: e.due, State: "missing", UIDs: e.sortedUIDs(), svid: e.svid}
	if e.err != nil {
		s.Err = e.err.Error()
	}
	if e.svid == nil {
		return s
	}
	s.Serial, s.NotBefore, s.NotAfter = e.svid.Serial(), e.svid.NotBefore, e.svid.NotAfter
	switch {
	case e.svid.Expired(now):
		s.State = "expired"
	case e.inFlight || e.failures > 0:
		s.State = "renewing"
	default:
		s.State = "valid"
	}
	return s
}

func (e *entry) usable(now time.Time) bool { return e.svid != nil && !e.svid.Expired(now) }

func (e *entry) cause() error {
	if e.err == nil {
		return errors.New("the CA has not answered yet")
	}
	return e.err
}

func (e *entry) sortedUIDs() []string {
	uids := make([]string, 0, len(e.uids))
	for uid := range e.uids {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return uids
}

func (m *Manager) wake() {
	select {
	case m.nudge <- struct{}{}:
	default:
	}
}
