package publish

import (
	"strconv"
	"testing"
	"time"
)

func TestHistoryIsBounded(t *testing.T) {
	p := New("e")
	for i := range maxVersions + 10 {
		publish(t, p, "a="+time.Duration(i).String())
	}
	if len(p.history) != maxVersions {
		t.Errorf("%d versions are kept", len(p.history))
	}
	for _, c := range []struct{ version, base uint64 }{{1, 0}, {9, 0}, {10, 10}, {p.Version(), p.Version()}, {p.Version() + 1, 0}, {0, 0}} {
		if got := p.base("e", c.version); got != c.base {
			t.Errorf("an agent at %d starts from %d, want %d", c.version, got, c.base)
		}
	}
	if got := p.base("other", p.Version()); got != 0 {
		t.Errorf("an agent of another epoch starts from %d", got)
	}
}

// Versions that change much are remembered for a shorter time, the newest in any case.
func TestHistoryIsBoundedByWhatChanged(t *testing.T) {
	p := New("e")
	note := func(changes int) {
		c := change{version: p.now.version + 1, keys: make(map[string]past, changes)}
		for i := range changes {
			c.keys[strconv.Itoa(i)] = past{}
		}
		p.now = &content{version: c.version}
		p.remember(c)
	}
	const many = maxChanges/3 - 1
	for range 5 {
		note(many)
	}
	if len(p.history) != 3 || p.changes != 3*many || p.base("e", 1) != 0 || p.base("e", 2) != 2 {
		t.Errorf("%d versions with %d changes are kept, want 3 with %d", len(p.history), p.changes, 3*many)
	}
	note(maxChanges + 1)
	if len(p.history) != 1 || p.changes != maxChanges+1 || p.base("e", 5) != 5 {
		t.Errorf("%d versions with %d changes are kept, want the newest", len(p.history), p.changes)
	}
}
