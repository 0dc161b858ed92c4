package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"time"
)

const (
	backoffFirst = 500 * time.Millisecond
	backoffLast  = 60 * time.Second
	// leastRenewal keeps a CA with absurdly short lives from being asked in a loop.
	leastRenewal = 500 * time.Millisecond
	idle         = time.Hour // between looks at the clock while nothing is due
)

type result struct {
	entry *entry
	uid   string
	svid  *SVID
	err   error
}

func (c *ManagerConfig) setDefaults() {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Random == nil {
		c.Random = random
	}
	if c.Concurrency <= 0 {
		c.Concurrency = 4
	}
	if c.SignTimeout <= 0 {
		c.SignTimeout = 15 * time.Second
	}
}

// random is uniform in [0, 1), to the 53 bits of a float64.
func random() float64 {
	var b [8]byte
	rand.Read(b[:]) // never fails: it crashes the program instead
	return float64(binary.BigEndian.Uint64(b[:])>>11) / (1 << 53)
}

// Run issues and renews until ctx ends, waits for what is under way, and returns nil. Call it once.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer m.slots.Wait()
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.nudge:
		case <-timer.C:
		case r := <-m.results:
			m.finish(r)
		}
		timer.Reset(m.dispatch(ctx))
	}
}

// dispatch starts what is due, as far as there are slots, and returns how long nothing more will be.
func (m *Manager) dispatch(ctx context.Context) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.config.Clock()
	for m.inFlight < m.config.Concurrency {
		next := m.next()
		if next == nil {
			return idle
		}
		if wait := next.due.Sub(now); wait > 0 {
			return min(wait, idle)
		}
		m.start(ctx, next)
	}
	return idle // a result will come
}

// next returns the entry to issue first: among those that are due one that somebody waits for, then one that has
// nothing to serve, then the one that is due first. If none is due it is the one that will be first.
func (m *Manager) next() *entry {
	now := m.config.Clock()
	var best *entry
	for _, e := range m.entries {
		if !e.inFlight && (best == nil || e.before(best, now)) {
			best = e
		}
	}
	return best
}

func (e *entry) before(other *entry, now time.Time) bool {
	if a, b := e.urgency(now), other.urgency(now); a != b {
		return a > b
	}
	return e.due.Before(other.due)
}

func (e *entry) urgency(now time.Time) int {
	switch {
	case e.due.After(now):
		return 0
	case e.waiters > 0:
		return 3
	case !e.usable(now):
		return 2
	}
	return 1
}

// start runs one issuance in a goroutine that Run waits for. After failures another workload's uid gets its turn: one
// that the CA does not know must not stand in the way of the others.
func (m *Manager) start(ctx context.Context, e *entry) {
	uids := e.sortedUIDs()
	uid := uids[e.failures%len(uids)]
	e.inFlight = true
	m.inFlight++
	m.slots.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, m.config.SignTimeout)
		defer cancel()
		svid, err := m.issue(ctx, uid, e.id)
		m.results <- result{e, uid, svid, err} // has room for all that run
	})
}

// issue makes a new key and has it signed. What comes back is checked as a peer's would be.
func (m *Manager) issue(ctx context.Context, uid, id string) (*SVID, error) {
	key, csr, err := NewRequest()
	if err != nil {
		return nil, err
	}
	chain, err := m.config.Signer.Sign(ctx, uid, csr)
	if err != nil {
		return nil, err
	}
	return CheckReply(chain, key, id, m.config.Bundle(), m.config.Clock())
}

// NewRequest makes an ECDSA P-256 key and a certificate request (PKCS #10, DER) that says nothing but its public half.
func NewRequest() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return key, csr, nil
}

// CheckReply makes an SVID of what a CA answered to a request made with key.
// Returns an error if the chain is not one of an SVID for id and key that peers with bundle b would accept now.
func CheckReply(chain [][]byte, key crypto.Signer, id string, b *Bundle, now time.Time) (*SVID, error) {
	svid, err := NewSVID(chain, key)
	if err != nil {
		return nil, fmt.Errorf("the CA's reply: %w", err)
	}
	if svid.ID != id {
		return nil, fmt.Errorf("the CA's reply: %w: it is for %q, not %q", ErrBadCertificate, svid.ID, id)
	}
	if err := svid.Verify(b, now); err != nil {
		return nil, fmt.Errorf("the CA's reply: %w", err)
	}
	return svid, nil
}

// finish takes in one result. Files are written without the lock: handshakes wait for it.
func (m *Manager) finish(r result) {
	if !m.absorb(r) {
		return
	}
	if err := m.config.Cache.Save(r.svid); err != nil {
		m.config.Log.Warn("SVID is not cached: a restart without the CA would lose it", "id", r.entry.id, "err", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, wanted := m.entries[r.entry.id]; !wanted { // forgotten while it was written
		m.config.Cache.Remove(r.entry.id)
	}
}

// absorb tells whether there is a new SVID.
func (m *Manager) absorb(r result) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := r.entry
	m.inFlight--
	e.inFlight = false
	if e.forgotten {
		return false
	}
	now := m.config.Clock()
	e.err = r.err
	if r.err != nil {
		e.due = now.Add(m.backoff(e.failures))
		e.failures++
		m.config.Log.Warn("no new SVID", "id", e.id, "workload", r.uid, "err", r.err, "retry_in", e.due.Sub(now))
		return false
	}
	e.failures = 0
	e.set(r.svid)
	e.due = m.renewAt(now, r.svid.NotAfter)
	m.config.Log.Info("SVID issued", "id", e.id, "serial", r.svid.Serial(), "not_after", r.svid.NotAfter, "renew_at", e.due)
	return true
}

func (e *entry) set(svid *SVID) {
	e.svid = svid
	close(e.ready)
	e.ready = make(chan struct{})
}

// restore fills a new entry from the cache. A bundle that knows the trust domain must trust it; without one it is
// taken as it is, so that an agent serves while neither controller nor CA is there: peers verify it anyway.
func (m *Manager) restore(e *entry) {
	now := m.config.Clock()
	svid, ok := m.config.Cache.Load(e.id, now)
	if !ok {
		return
	}
	bundle := m.config.Bundle()
	if bundle.trust(e.name.TrustDomain()) != nil {
		if err := svid.Verify(bundle, now); err != nil {
			m.config.Log.Warn("cached SVID is not used", "id", e.id, "err", err)
			return
		}
	}
	e.set(svid)
	e.due = m.renewAt(svid.NotBefore, svid.NotAfter)
}

// renewAt is half of a life, give or take 10 % of that.
func (m *Manager) renewAt(start, end time.Time) time.Time {
	half := float64(end.Sub(start)) / 2
	return start.Add(max(leastRenewal, time.Duration(half*(0.9+0.2*m.config.Random()))))
}

// backoff is 0.5 s, doubled with each failure up to 60 s, less up to a quarter.
func (m *Manager) backoff(failures int) time.Duration {
	d := backoffLast
	if failures < 7 { // 0.5 s × 2⁷ is past the last
		d = backoffFirst << failures
	}
	return d - time.Duration(float64(d)*m.config.Random()/4)
}
