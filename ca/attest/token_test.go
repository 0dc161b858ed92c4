package attest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/identity"
)

type store struct {
	*TokenStore
	now  time.Time
	path string
}

func newStore(t *testing.T) *store {
	t.Helper()
	s := &store{now: time.Unix(1_800_000_000, 0), path: filepath.Join(t.TempDir(), "tokens.json")}
	var err error
	s.TokenStore, err = OpenTokens(s.path, func() time.Time { return s.now })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *store) create(t *testing.T, node string, ttl time.Duration) string {
	t.Helper()
	token, err := s.Create(node, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestTokenIsGoodOnceForItsNode(t *testing.T) {
	s := newStore(t)
	token, other := s.create(t, "n1", time.Hour), s.create(t, "n1", time.Hour)
	ctx := context.Background()
	for name, err := range map[string]error{
		"another node": s.Attest(ctx, "n2", token),
		"no node":      s.Attest(ctx, "", token),
		"no token":     s.Attest(ctx, "n1", ""),
		"a prefix":     s.Attest(ctx, "n1", token[:len(token)-1]),
		"the hash":     s.Attest(ctx, "n1", hash(token)),
	} {
		if !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Attest(ctx, "n1", token); err != nil {
		t.Fatal(err)
	}
	if err := s.Attest(ctx, "n1", token); !errors.Is(err, ErrRefused) {
		t.Errorf("used again: %v", err)
	}
	if err := s.Attest(ctx, "n1", other); err != nil {
		t.Errorf("the node's other token: %v", err)
	}
}

func TestTokenExpires(t *testing.T) {
	s := newStore(t)
	token := s.create(t, "n1", time.Hour)
	s.now = s.now.Add(time.Hour)
	if err := s.Attest(context.Background(), "n1", token); !errors.Is(err, ErrRefused) {
		t.Errorf("at its end: %v", err)
	}
	if pending, err := s.Pending(); len(pending) != 0 || err != nil {
		t.Errorf("Pending = %v, %v", pending, err)
	}
}

// TestRacingAttestationsHaveOneWinner also across stores, as two processes would have them.
func TestRacingAttestationsHaveOneWinner(t *testing.T) {
	s := newStore(t)
	for range 10 {
		token := s.create(t, "n1", time.Hour)
		var won atomic.Int32
		var racers sync.WaitGroup
		start := make(chan struct{})
		for i := range 8 {
			mine := s.TokenStore
			if i%2 == 1 {
				var err error
				mine, err = OpenTokens(s.path, s.clock)
				if err != nil {
					t.Fatal(err)
				}
			}
			racers.Go(func() {
				<-start
				if mine.Attest(context.Background(), "n1", token) == nil {
					won.Add(1)
				}
			})
		}
		close(start)
		racers.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d won", won.Load())
		}
	}
}

func TestFileHoldsNoSecretAndOutlivesARestart(t *testing.T) {
	s := newStore(t)
	token := s.create(t, "n1", time.Hour)
	data, err := os.ReadFile(s.path)
	if err != nil || strings.Contains(string(data), token) || !strings.Contains(string(data), hash(token)) {
		t.Errorf("the file: %s, %v", data, err)
	}
	if info, err := os.Stat(s.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := OpenTokens(s.path, s.clock)
	if err != nil {
		t.Fatal(err)
	}
	pending, err := again.Pending()
	if err != nil || len(pending) != 1 || pending[0].Node != "n1" || !pending[0].Expires.Equal(s.now.Add(time.Hour)) {
		t.Errorf("Pending = %+v, %v", pending, err)
	}
	if err := again.Attest(context.Background(), "n1", token); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// TestUseThatCannotBeWrittenDownFails: else the token would be good again after a restart.
func TestUseThatCannotBeWrittenDownFails(t *testing.T) {
	s := newStore(t)
	token := s.create(t, "n1", time.Hour)
	if err := os.Rename(s.path, s.path+".aside"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Attest(context.Background(), "n1", token); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("Attest = %v", err)
	}
}

func TestBadTokensAreNotMade(t *testing.T) {
	s := newStore(t)
	for _, node := range []string{"", "N1", "a/b", ".."} {
		if _, err := s.Create(node, time.Hour); !errors.Is(err, identity.ErrMalformed) {
			t.Errorf("node %q: %v", node, err)
		}
	}
	for _, ttl := range []time.Duration{0, -1, maxTokenLife + 1} {
		if _, err := s.Create("n1", ttl); err == nil {
			t.Errorf("a life of %s is accepted", ttl)
		}
	}
}

func TestBrokenFileIsReported(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTokens(path, nil); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("OpenTokens = %v", err)
	}
}
