// Package publish gives every compiled state a version and brings every receiver to the newest one.
//
// The protocol is api/meshv1: a receiver says which version it enforces, gets one update from there to the newest
// version, and acknowledges it once it enforces it. At most one update is on its way to a receiver; one that is slow
// skips versions instead of queueing them.
//
// A resource is for everybody, or for some audiences only: names that a receiver is known by, such as its node's. What
// a receiver holds at a version are the resources of that version that are for everybody or for one of its audiences.
// What everybody gets is encoded once, however many receivers there are; behind it comes what this receiver alone gets.
// Versions are the mesh's: one in which nothing changed for a receiver reaches it too, as a few bytes, so that what it
// acknowledges is comparable with what others do.
package publish

import (
	"bytes"
	"slices"
	"sync"
	"time"
)

const (
	// maxVersions bounds how far back a receiver may be and still get a delta instead of everything.
	maxVersions = 256
	// maxChanges bounds how many changes of resources are remembered for that. The newest version's are in any case.
	maxChanges = 200_000
	// maxCache bounds the bytes of encoded updates that are kept for other receivers; beyond it each one's is encoded
	// for itself.
	maxCache = 64 << 20
)

// Publisher holds the versioned state. It is safe for concurrent use.
type Publisher struct {
	epoch string

	mu        sync.Mutex
	now       *content
	history   []change // oldest first, the last is the newest version
	changes   int      // of keys in history
	changed   chan struct{}
	changedIn map[string]uint64 // the version that last set a key to something else

	deltas    map[uint64]*delta // by base, all to the newest version
	cacheSize int
}

// content is the whole state at one version. It does not change.
type content struct {
	version  uint64
	compiled time.Time
	encoded  map[string][]byte   // every resource, deterministic, to tell what changed
	audience map[string][]string // of those that are not for everybody; sorted, without repetition
}

// change is one version: what became of which keys. What it set them to does not matter any more: an update carries
// what they are now.
type change struct {
	version  uint64
	compiled time.Time
	keys     map[string]past
}

// past is what a resource was before a version changed it.
type past struct {
	scope   scope
	changed bool // its content did, not only whom it is for
}

// New returns a publisher without a version. epoch names this run of the controller: receivers that know another one
// start from nothing.
func New(epoch string) *Publisher {
	return &Publisher{
		epoch: epoch, now: &content{}, changed: make(chan struct{}),
		deltas: make(map[uint64]*delta), changedIn: make(map[string]uint64),
	}
}

// Epoch returns the name of this run.
func (p *Publisher) Epoch() string { return p.epoch }

// Version returns the newest version, 0 before the first.
func (p *Publisher) Version() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now.version
}

// Publish makes resources, marshalled deterministically and by key, the newest version, unless they are what that is
// already. A resource without an entry in audience is for everybody; one with an empty entry for nobody. It returns the
// newest version. Callers must not change what they gave any more.
func (p *Publisher) Publish(encoded map[string][]byte, audience map[string][]string, compiled time.Time) uint64 {
	next := &content{compiled: compiled, encoded: encoded, audience: sortedAudiences(audience)}
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := diff(p.now, next)
	if len(keys) == 0 && p.now.version > 0 {
		return p.now.version
	}
	next.version = p.now.version + 1
	p.now = next
	p.remember(change{next.version, compiled, keys})
	p.noteChanged(keys)
	clear(p.deltas)
	p.cacheSize = 0
	close(p.changed)
	p.changed = make(chan struct{})
	return next.version
}

// remember adds a version to the history, which forgets the oldest ones beyond its bounds.
func (p *Publisher) remember(c change) {
	p.history = append(p.history, c)
	p.changes += len(c.keys)
	drop := 0
	for left := len(p.history); left > maxVersions || p.changes > maxChanges && left > 1; left-- {
		p.changes -= len(p.history[drop].keys)
		drop++
	}
	p.history = slices.Delete(p.history, 0, drop)
}

// noteChanged keeps which version gave resources the content that they have.
func (p *Publisher) noteChanged(keys map[string]past) {
	for key, was := range keys {
		if _, there := p.now.encoded[key]; !there {
			delete(p.changedIn, key)
		} else if was.changed {
			p.changedIn[key] = p.now.version
		}
	}
}

// sortedAudiences returns audiences in order; lists that are in order already are shared.
func sortedAudiences(audience map[string][]string) map[string][]string {
	out := make(map[string][]string, len(audience))
	for key, to := range audience {
		if !slices.IsSorted(to) {
			to = slices.Sorted(slices.Values(to))
		}
		out[key] = to
	}
	return out
}

// ChangedIn returns the version that last changed a resource's content, 0 if it is not there. Whom it is for may have
// changed since.
func (p *Publisher) ChangedIn(key string) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changedIn[key]
}

// NewestCompiled returns when the newest version was compiled, the zero time before the first.
func (p *Publisher) NewestCompiled() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now.compiled
}

// diff returns the keys that differ, and what each was before.
func diff(old, now *content) map[string]past {
	keys := make(map[string]past)
	for key, b := range now.encoded {
		prev, ok := old.encoded[key]
		was := past{old.scopeOf(key), !ok || !bytes.Equal(prev, b)}
		if was.changed || !was.scope.equal(now.scopeOf(key)) {
			keys[key] = was
		}
	}
	for key := range old.encoded {
		if _, ok := now.encoded[key]; !ok {
			keys[key] = past{old.scopeOf(key), true}
		}
	}
	return keys
}

// newest returns the newest version and a channel that is closed when there is a newer one.
func (p *Publisher) newest() (uint64, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now.version, p.changed
}

// base returns from which version a receiver that enforces `version` of `epoch` can be brought to the newest by a
// delta, 0 if it has to get everything.
func (p *Publisher) base(epoch string, version uint64) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if epoch != p.epoch || !p.reaches(version) {
		return 0
	}
	return version
}

// reaches tells whether every change after version is still known.
func (p *Publisher) reaches(version uint64) bool {
	return version > 0 && version <= p.now.version && len(p.history) > 0 && p.history[0].version <= version+1
}

// update returns what brings a receiver from base to the newest version; from 0 if the history does not reach back to
// base. audiences are what the receiver is known by, and were so when it got base.
func (p *Publisher) update(base uint64, audiences []string) (*Encoded, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaches(base) {
		base = 0
	}
	d := p.deltas[base]
	if d == nil {
		d = p.newDelta(base)
		if p.cacheSize+d.size <= maxCache {
			p.deltas[base] = d
			p.cacheSize += d.size
		}
	}
	own, kept := d.part(audiences, maxCache-p.cacheSize)
	p.cacheSize += kept
	return &Encoded{shared: d.shared, own: own}, p.now.version
}

// newDelta works out what changed after base. The caller holds p.mu.
func (p *Publisher) newDelta(base uint64) *delta {
	d := &delta{content: p.now, own: make(map[string][]int), parts: make(map[string][]byte)}
	d.shared = appendHead(nil, p.epoch, base, p.now)
	if base == 0 {
		for key := range p.now.encoded {
			d.turns = append(d.turns, turn{key: key, now: p.now.scopeOf(key), changed: true})
		}
	} else {
		d.turns = p.changedSince(base)
	}
	d.build()
	return d
}

// changedSince returns what became since base of every key that changed.
func (p *Publisher) changedSince(base uint64) []turn {
	seen := make(map[string]int)
	var out []turn
	for _, c := range p.history {
		if c.version <= base {
			continue
		}
		for key, was := range c.keys {
			i, ok := seen[key]
			if !ok {
				i = len(out)
				seen[key] = i
				out = append(out, turn{key: key, was: was.scope, now: p.now.scopeOf(key)})
			}
			out[i].changed = out[i].changed || was.changed
		}
	}
	return out
}

// compiledBetween returns when the versions after base up to version were compiled.
func (p *Publisher) compiledBetween(base, version uint64) []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	var times []time.Time
	for _, c := range p.history {
		if c.version > base && c.version <= version {
			times = append(times, c.compiled)
		}
	}
	return times
}
