// Package publish gives every compiled state a version and brings every agent to the newest one.
//
// The protocol is api/meshv1: an agent says which version it enforces, gets one update from there to the newest
// version, and acknowledges it once it enforces it. At most one update is on its way to an agent; one that is slow
// skips versions instead of queueing them. Every update is marshalled once, however many agents get it.
package publish

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
)

const (
	// maxVersions bounds how far back an agent may be and still get a delta instead of everything.
	maxVersions = 256
	// maxCache bounds the bytes of marshalled updates that are kept for other agents; beyond it each agent's is
	// marshalled for itself.
	maxCache = 64 << 20
)

// Publisher holds the versioned state. It is safe for concurrent use.
type Publisher struct {
	epoch string

	mu        sync.Mutex
	version   uint64
	resources map[string]*meshv1.Resource
	encoded   map[string][]byte // deterministic, to tell what changed
	history   []change          // oldest first, the last is `version`
	changed   chan struct{}
	changedIn map[string]uint64 // the version that last set a key

	cache     map[uint64]*Encoded // by base, all to `version`
	cacheSize int
}

// change is one version: which keys it set or removed. What it set them to does not matter any more: an update
// carries what they are now.
type change struct {
	version  uint64
	compiled time.Time
	keys     map[string]bool // whether the key was there before
}

// New returns a publisher without a version. epoch names this run of the controller: agents that know another one
// start from nothing.
func New(epoch string) *Publisher {
	return &Publisher{epoch: epoch, changed: make(chan struct{}), cache: make(map[uint64]*Encoded), changedIn: make(map[string]uint64)}
}

// Epoch returns the name of this run.
func (p *Publisher) Epoch() string { return p.epoch }

// Version returns the newest version, 0 before the first.
func (p *Publisher) Version() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.version
}

// Publish makes resources the newest version, unless they are what that is already. It returns the newest version.
// Callers must not change the resources any more. Returns an error, and changes nothing, if one cannot be marshalled.
func (p *Publisher) Publish(resources map[string]*meshv1.Resource, compiled time.Time) (uint64, error) {
	encoded := make(map[string][]byte, len(resources))
	for key, r := range resources {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		if err != nil {
			return 0, fmt.Errorf("publish resource %s: %w", key, err)
		}
		encoded[key] = b
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := diff(p.encoded, encoded)
	if len(keys) == 0 && p.version > 0 {
		return p.version, nil
	}
	p.version++
	p.resources, p.encoded = resources, encoded
	p.history = append(p.history, change{p.version, compiled, keys})
	if drop := len(p.history) - maxVersions; drop > 0 {
		p.history = slices.Delete(p.history, 0, drop)
	}
	for key := range keys {
		if _, there := resources[key]; there {
			p.changedIn[key] = p.version
		} else {
			delete(p.changedIn, key)
		}
	}
	clear(p.cache)
	p.cacheSize = 0
	close(p.changed)
	p.changed = make(chan struct{})
	return p.version, nil
}

// ChangedIn returns the version that last changed a resource, 0 if it is not there.
func (p *Publisher) ChangedIn(key string) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changedIn[key]
}

// NewestCompiled returns when the newest version was compiled, the zero time before the first.
func (p *Publisher) NewestCompiled() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.history) == 0 {
		return time.Time{}
	}
	return p.history[len(p.history)-1].compiled
}

// diff returns the keys that differ, and whether each was there before.
func diff(old, now map[string][]byte) map[string]bool {
	keys := make(map[string]bool)
	for key, b := range now {
		if prev, ok := old[key]; !ok || !bytes.Equal(prev, b) {
			keys[key] = ok
		}
	}
	for key := range old {
		if _, ok := now[key]; !ok {
			keys[key] = true
		}
	}
	return keys
}

// newest returns the newest version and a channel that is closed when there is a newer one.
func (p *Publisher) newest() (uint64, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.version, p.changed
}

// base returns from which version an agent that enforces `version` of `epoch` can be brought to the newest by a
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
	return version > 0 && version <= p.version && len(p.history) > 0 && p.history[0].version <= version+1
}

// update returns the update from base to the newest version; from 0 if the history does not reach back to base.
func (p *Publisher) update(base uint64) (*Encoded, uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaches(base) {
		base = 0
	}
	if e := p.cache[base]; e != nil {
		return e, p.version, nil
	}
	u := &meshv1.Update{Epoch: p.epoch, Base: base, Version: p.version, CompiledUnixNano: p.history[len(p.history)-1].compiled.UnixNano()}
	known := p.changedSince(base)
	for _, key := range slices.Sorted(maps.Keys(known)) {
		if r, ok := p.resources[key]; ok {
			u.Set = append(u.Set, r)
		} else if known[key] { // else it came and went since base
			u.Removed = append(u.Removed, key)
		}
	}
	b, err := proto.Marshal(u)
	if err != nil {
		return nil, 0, fmt.Errorf("marshal update %d to %d: %w", base, p.version, err)
	}
	e := &Encoded{bytes: b}
	if p.cacheSize+len(b) <= maxCache {
		p.cache[base] = e
		p.cacheSize += len(b)
	}
	return e, p.version, nil
}

// changedSince returns the keys that changed after base, and whether each was there at base.
func (p *Publisher) changedSince(base uint64) map[string]bool {
	out := make(map[string]bool)
	if base == 0 {
		for key := range p.resources {
			out[key] = false
		}
		return out
	}
	for _, c := range p.history {
		if c.version <= base {
			continue
		}
		for key, before := range c.keys {
			if _, seen := out[key]; !seen {
				out[key] = before
			}
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
