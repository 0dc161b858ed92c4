package peer

import (
	"testing"
	"time"
)

// TestTunnelsOfAnExpiredCertificateTakeNoNewStream: the caller dials anew, once, and a straggler changes nothing.
func TestTunnelsOfAnExpiredCertificateTakeNoNewStream(t *testing.T) {
	r := NewRounds[string, int]()
	now := time.Now()
	first := r.Of("a", now)
	r.Note("a", first, now.Add(time.Hour), 1)
	r.Note("a", first, now.Add(time.Minute), 2) // the first to end counts
	if again := r.Of("a", now.Add(time.Second)); again != first || r.Newest("a") != 2 {
		t.Errorf("a valid tunnel is not used again: %v, %v, with %d", again, first, r.Newest("a"))
	}
	second := r.Of("a", now.Add(2*time.Minute))
	if second == first {
		t.Fatal("an expired tunnel is used again")
	}
	r.Note("a", first, now, 3)
	if again := r.Of("a", now.Add(3*time.Minute)); again != second || r.Newest("a") != 0 {
		t.Errorf("a straggler of the first round made it %v with %v", again, r.Newest("a"))
	}
	if other := r.Of("b", now); other == first || other == second {
		t.Errorf("another key is in round %d, as one before", other)
	}
	r.Forget(func(key string) bool { return key == "a" })
	if again := r.Of("a", now); again == second {
		t.Errorf("what was forgotten is in round %d again", again)
	}
}

func TestWhatIsKnownOfDestinationsIsBounded(t *testing.T) {
	r := NewRounds[int, struct{}]()
	now := time.Now()
	seen := map[uint32]bool{}
	for key := range maxKeys + 100 {
		number := r.Of(key, now)
		if seen[number] {
			t.Fatalf("round %d was given twice", number)
		}
		seen[number] = true
	}
	if len(r.by) != maxKeys {
		t.Errorf("%d destinations are remembered, want %d", len(r.by), maxKeys)
	}
}

func TestLastStreamIsBeforeTheFirstEnd(t *testing.T) {
	now := time.Now()
	for _, c := range []struct{ ours, peers, want time.Duration }{
		{12 * time.Hour, 6 * time.Hour, 6*time.Hour - time.Minute},
		{time.Hour, 2 * time.Hour, time.Hour - time.Minute},
		{10 * time.Second, time.Hour, 9 * time.Second},
	} {
		if got := LastStream(now, now.Add(c.ours), now.Add(c.peers)).Sub(now); got != c.want {
			t.Errorf("certificates that end in %s and %s: last stream in %s, want %s", c.ours, c.peers, got, c.want)
		}
	}
}
