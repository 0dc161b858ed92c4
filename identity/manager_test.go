package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// running starts a manager whose work ends with the test. Call it in a synctest bubble.
func running(t *testing.T, config ManagerConfig) *Manager {
	t.Helper()
	config.Log = quiet()
	m, err := NewManager(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m
}

// timed notes when each issuance was asked for, and lets answer answer.
type timed struct {
	mu     sync.Mutex
	at     []time.Time
	uids   []string
	answer Signer
}

func (s *timed) Sign(ctx context.Context, uid string, csr []byte) ([][]byte, error) {
	s.mu.Lock()
	s.at, s.uids = append(s.at, time.Now()), append(s.uids, uid)
	answer := s.answer
	s.mu.Unlock()
	return answer.Sign(ctx, uid, csr)
}

func (s *timed) switchTo(answer Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// gaps are the times between issuances.
func (s *timed) gaps() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var gaps []time.Duration
	for i := 1; i < len(s.at); i++ {
		gaps = append(gaps, s.at[i].Sub(s.at[i-1]))
	}
	return gaps
}

var errAway = errors.New("the CA is away")

func away(context.Context, string, []byte) ([][]byte, error) { return nil, errAway }

func fixed(r float64) func() float64 { return func() float64 { return r } }

func TestTheOldOneServesUntilItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t, nil)
		signer := &timed{answer: ca.signs(t, webID, time.Hour)}
		m := running(t, ManagerConfig{Signer: signer, Bundle: knows(ca.bundle(t, "mesh"))})
		web := mustParse(t, webID)
		m.Want("pod-1", web)
		first, err := m.Get(t.Context(), web)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := m.Snapshot()[0]; s.State != "valid" || s.Serial != first.Serial() || s.Err != "" || !s.NotAfter.Equal(first.NotAfter) || s.NotBefore.IsZero() {
			t.Errorf("status = %+v", s)
		}
		signer.switchTo(signerFunc(away))
		time.Sleep(59 * time.Minute)
		if got, err := m.Current(web); got != first || err != nil {
			t.Errorf("before its end: %v, %v", got, err)
		}
		if s := m.Snapshot()[0]; s.State != "renewing" || s.Err != errAway.Error() || s.RenewAt.Before(time.Now()) {
			t.Errorf("status = %+v", s)
		}
		time.Sleep(2 * time.Minute)
		if got, err := m.Current(web); got != nil || !errors.Is(err, ErrNoSVID) || !errors.Is(err, errAway) || !strings.Contains(err.Error(), "expired") {
			t.Errorf("after its end: %v, %v", got, err)
		}
		if s := m.Snapshot()[0]; s.State != "expired" {
			t.Errorf("status = %+v", s)
		}
		signer.switchTo(ca.signs(t, webID, time.Hour))
		again, err := m.Get(t.Context(), web) // waits for the next attempt
		if err != nil || again.Serial() == first.Serial() {
			t.Errorf("once the CA is back: %v, %v", again, err)
		}
	})
}

func TestGetWaitsAndSaysWhyItGaveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signer := &timed{answer: signerFunc(away)}
		m := running(t, ManagerConfig{Signer: signer, Bundle: knows(nil)})
		web := mustParse(t, webID)
		if _, err := m.Get(t.Context(), web); !errors.Is(err, ErrNoSVID) || !strings.Contains(err.Error(), "no workload here") {
			t.Errorf("nobody wants it: %v", err)
		}
		m.Want("pod-1", web)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := m.Get(ctx, web)
		if !errors.Is(err, ErrNoSVID) || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errAway) || time.Since(start) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if _, err := m.For(web)(); !errors.Is(err, ErrNoSVID) {
			t.Errorf("For = %v", err)
		}
		if s := m.Snapshot()[0]; s.State != "missing" || s.ID != webID || !slices.Equal(s.UIDs, []string{"pod-1"}) {
			t.Errorf("status = %+v", s)
		}
		waiting := make(chan error, 1)
		go func() {
			_, err := m.Get(t.Context(), web)
			waiting <- err
		}()
		synctest.Wait()
		m.Forget("pod-1")
		if err := <-waiting; !errors.Is(err, ErrNoSVID) {
			t.Errorf("forgotten while waited for: %v", err)
		}
	})
}

// TestWaitedForComesFirst holds the only slot while many become due, and one of them is waited for.
func TestWaitedForComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t, nil)
		var order []string
		signer := signerFunc(func(ctx context.Context, uid string, csr []byte) ([][]byte, error) {
			order = append(order, uid) // one at a time
			time.Sleep(time.Second)
			return ca.signs(t, "spiffe://mesh/ns/shop/sa/"+uid, time.Hour)(ctx, uid, csr)
		})
		m := running(t, ManagerConfig{Signer: signer, Bundle: knows(ca.bundle(t, "mesh")), Concurrency: 1})
		for _, name := range []string{"first", "b", "c", "d", "urgent", "e"} {
			m.Want(name, mustParse(t, "spiffe://mesh/ns/shop/sa/"+name))
			time.Sleep(time.Millisecond)
		}
		if _, err := m.Get(t.Context(), mustParse(t, "spiffe://mesh/ns/shop/sa/urgent")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []string{"first", "urgent", "b", "c", "d", "e"}; !slices.Equal(order, want) {
			t.Errorf("issued %q, want %q", order, want)
		}
	})
}

func TestAtMostFourAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most, total := 0, 0, 0
		signer := signerFunc(func(ctx context.Context, uid string, csr []byte) ([][]byte, error) {
			mu.Lock()
			now++
			total++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			mu.Lock()
			now--
			mu.Unlock()
			return nil, errAway
		})
		m := running(t, ManagerConfig{Signer: signer, Bundle: knows(nil)})
		for i := range 20 {
			m.Want(fmt.Sprint(i), mustParse(t, fmt.Sprintf("spiffe://mesh/ns/shop/sa/w%d", i)))
		}
		time.Sleep(10 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if most != 4 || total < 40 {
			t.Errorf("%d at once, %d in all", most, total)
		}
	})
}

func TestSharedIdentityLivesWhileAnyoneWantsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t, nil)
		signer := &timed{answer: ca.signs(t, webID, time.Hour)}
		m := running(t, ManagerConfig{Signer: signer, Bundle: knows(ca.bundle(t, "mesh"))})
		web, db := mustParse(t, webID), mustParse(t, "spiffe://mesh/ns/shop/sa/db")
		m.Want("pod-1", web)
		m.Want("pod-2", web)
		m.Want("pod-2", web)
		synctest.Wait()
		if len(signer.at) != 1 {
			t.Errorf("%d issuances for one identity", len(signer.at))
		}
		m.Forget("pod-1")
		m.Forget("never-seen")
		if _, err := m.Current(web); err != nil {
			t.Errorf("one still wants it: %v", err)
		}
		m.Want("pod-2", db) // changes its mind
		if _, err := m.Current(web); !errors.Is(err, ErrNoSVID) {
			t.Errorf("nobody wants it: %v", err)
		}
		if s := m.Snapshot(); len(s) != 1 || s[0].ID != db.String() {
			t.Errorf("Snapshot = %+v", s)
		}
		m.Want("pod-3", ID{})
		if len(m.Snapshot()) != 1 {
			t.Error("the zero ID is kept")
		}
	})
}

func TestAnotherWorkloadAsksAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t, nil)
		signer := &timed{answer: signerFunc(func(ctx context.Context, uid string, csr []byte) ([][]byte, error) {
			if uid == "a-gone" {
				return nil, errors.New("not allowed")
			}
			return ca.signs(t, webID, time.Hour)(ctx, uid, csr)
		})}
		m := running(t, ManagerConfig{Signer: signer, Bundle: knows(ca.bundle(t, "mesh"))})
		web := mustParse(t, webID)
		m.Want("a-gone", web)
		m.Want("b-here", web)
		if _, err := m.Get(t.Context(), web); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(signer.uids, []string{"a-gone", "b-here"}) {
			t.Errorf("asked in the name of %q", signer.uids)
		}
	})
}

func TestManagerNeedsItsParts(t *testing.T) {
	for _, config := range []ManagerConfig{{}, {Signer: signerFunc(away), Bundle: knows(nil)}, {Signer: signerFunc(away), Log: quiet()}, {Bundle: knows(nil), Log: quiet()}} {
		if _, err := NewManager(config); err == nil {
			t.Errorf("NewManager(%+v) succeeds", config)
		}
	}
}
