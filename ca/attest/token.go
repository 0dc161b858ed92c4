package attest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/ca/internal/atomicfile"
	"github.com/warren-mesh/warren/identity"
)

const (
	tokenBytes   = 32
	maxTokens    = 10_000
	maxTokenLife = 7 * 24 * time.Hour
)

// TokenStore is a file of join tokens, each for one node, good once and for a while. The file holds hashes: who reads
// it cannot join. Every operation holds a lock on "<file>.lock", so that processes may share the file, and has reached
// the disk when it returns.
type TokenStore struct {
	path  string
	clock func() time.Time
	mu    sync.Mutex
}

// Token is one join token, without its secret.
type Token struct {
	Node    string    `json:"node"` // a node's name, or "pod:<namespace>/<name>"
	Expires time.Time `json:"expires"`
	Hash    string    `json:"hash"` // SHA-256 of the token's text, hexadecimal
}

// OpenTokens returns the store in a file, which need not exist. clock is time.Now if nil.
// Returns an error if the file is there but cannot be read.
func OpenTokens(path string, clock func() time.Time) (*TokenStore, error) {
	if clock == nil {
		clock = time.Now
	}
	s := &TokenStore{path: path, clock: clock}
	if _, err := s.read(); err != nil {
		return nil, err
	}
	return s, nil
}

// Create makes a token with which a node can join once within ttl, at most 7 days.
// Returns an error that wraps identity.ErrMalformed if the name cannot be a node's.
func (s *TokenStore) Create(node string, ttl time.Duration) (string, error) {
	if err := identity.CheckNodeName(node); err != nil {
		return "", fmt.Errorf("join token: %w", err)
	}
	return s.create(node, ttl)
}

func (s *TokenStore) create(who string, ttl time.Duration) (string, error) {
	if ttl <= 0 || ttl > maxTokenLife {
		return "", fmt.Errorf("join token for %s: a life of %s is not between 0 and %s", who, ttl, maxTokenLife)
	}
	secret := make([]byte, tokenBytes)
	rand.Read(secret) // never fails: it crashes the program instead
	token := base64.RawURLEncoding.EncodeToString(secret)
	err := s.change(func(tokens []Token) ([]Token, error) {
		if len(tokens) >= maxTokens {
			return nil, fmt.Errorf("join token for %s: %d tokens wait to be used, no more are made", who, len(tokens))
		}
		return append(tokens, Token{who, s.clock().Add(ttl).UTC(), hash(token)}), nil
	})
	return token, err
}

// CreateWaypoint makes a token with which a waypoint's pod can join once, like Create.
// Returns an error that wraps identity.ErrMalformed if pod is not "<namespace>/<name>".
func (s *TokenStore) CreateWaypoint(pod string, ttl time.Duration) (string, error) {
	namespace, name, ok := strings.Cut(pod, "/")
	if !ok || identity.CheckNodeName(namespace) != nil || identity.CheckNodeName(name) != nil {
		return "", fmt.Errorf("join token: %w: %q is not <namespace>/<pod>", identity.ErrMalformed, pod)
	}
	return s.create(podPrefix+pod, ttl)
}

// podPrefix tells a pod's token from a node's, whose name has no colon.
const podPrefix = "pod:"

// AttestWaypoint uses a token up, like Attest.
func (s *TokenStore) AttestWaypoint(ctx context.Context, w Workload, token string) error {
	return s.Attest(ctx, podPrefix+w.Namespace+"/"+w.Name, token)
}

// Attest uses a token up. Of several calls with one token exactly one succeeds.
// Returns an error that wraps ErrRefused if the token is unknown, used, expired or another node's.
func (s *TokenStore) Attest(_ context.Context, node, token string) error {
	return s.change(func(tokens []Token) ([]Token, error) {
		i := find(tokens, hash(token))
		if i < 0 {
			return nil, fmt.Errorf("%w: the join token is unknown, used or expired", ErrRefused)
		}
		if subtle.ConstantTimeCompare([]byte(tokens[i].Node), []byte(node)) != 1 {
			return nil, fmt.Errorf("%w: the join token is %q's", ErrRefused, tokens[i].Node)
		}
		return slices.Delete(tokens, i, i+1), nil
	})
}

// Pending returns the tokens that can still be used.
func (s *TokenStore) Pending() ([]Token, error) {
	tokens, err := s.read()
	return s.alive(tokens), err
}

// find looks at every token, in constant time for each.
func find(tokens []Token, hash string) int {
	found := -1
	for i := range tokens {
		if subtle.ConstantTimeCompare([]byte(tokens[i].Hash), []byte(hash)) == 1 {
			found = i
		}
	}
	return found
}

func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// change replaces the tokens by what edit makes of those that are alive. If edit fails nothing is written.
func (s *TokenStore) change(edit func([]Token) ([]Token, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	tokens, err := s.read()
	if err != nil {
		return err
	}
	tokens, err = edit(s.alive(tokens))
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(tokens, "", "  ")
	if err != nil {
		return fmt.Errorf("join tokens: %w", err)
	}
	if err := atomicfile.Replace(s.path, data); err != nil {
		return fmt.Errorf("join tokens: %w", err)
	}
	return nil
}

// lock keeps other processes out. The lock goes with the descriptor, so that a crash releases it.
func (s *TokenStore) lock() (unlock func(), err error) {
	file, err := os.OpenFile(s.path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("join tokens: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		file.Close()
		return nil, fmt.Errorf("join tokens: lock %s: %w", file.Name(), err)
	}
	return func() { file.Close() }, nil
}

func (s *TokenStore) alive(tokens []Token) []Token {
	now := s.clock()
	return slices.DeleteFunc(tokens, func(t Token) bool { return !now.Before(t.Expires) })
}

func (s *TokenStore) read() ([]Token, error) {
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("join tokens: %w", err)
	}
	var tokens []Token
	if err := json.Unmarshal(data, &tokens); err != nil {
		return nil, fmt.Errorf("join tokens: %s: %w", s.path, err)
	}
	return tokens, nil
}
