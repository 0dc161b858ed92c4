// Package keyset reads JWK sets (RFC 7517): which public keys verify an issuer's tokens. It knows no token and fetches
// nothing, so that whoever accepts a configuration reads a set as whoever uses it.
//
// Only keys of asymmetric algorithms are taken: RSA of 2048 to 8192 bits, P-256, P-384, P-521 and Ed25519. Others in a
// set are skipped, as are keys that are not for signatures; a set without any key to use is an error.
package keyset

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// ErrUnusable is wrapped by every error of Parse.
var ErrUnusable = errors.New("unusable JWK set")

const (
	// MaxBytes bounds the JSON of a set.
	MaxBytes = 1 << 20
	maxKeys  = 128
	maxKeyID = 1024

	minRSABits, maxRSABits = 2048, 8192
)

// Key is one public key.
type Key struct {
	ID         string // "" if it has none
	Public     any
	algorithms []jose.SignatureAlgorithm
}

// Verifies tells whether the key may verify signatures of an algorithm.
func (k *Key) Verifies(algorithm string) bool {
	return slices.Contains(k.algorithms, jose.SignatureAlgorithm(algorithm))
}

// Set is an issuer's keys. It is immutable.
type Set struct{ keys []Key }

// Len returns how many keys there are.
func (s *Set) Len() int { return len(s.keys) }

// Keys returns the keys that may have signed with an algorithm and a key id. A token without a key id may have been
// signed by any key, and a key without one may have signed any token.
func (s *Set) Keys(id, algorithm string) []*Key {
	var found []*Key
	for i := range s.keys {
		k := &s.keys[i]
		if k.Verifies(algorithm) && (id == "" || k.ID == "" || k.ID == id) {
			found = append(found, k)
		}
	}
	return found
}

// Has tells whether a key has the id.
func (s *Set) Has(id string) bool {
	return slices.ContainsFunc(s.keys, func(k Key) bool { return k.ID == id })
}

// Algorithms are all that tokens may be signed with.
func Algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
		jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}
}

// Parse reads a set. Returns an error that wraps ErrUnusable.
func Parse(raw []byte) (*Set, error) {
	if len(raw) > MaxBytes {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrUnusable, MaxBytes)
	}
	var wire struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &wire); err != nil {
		return nil, fmt.Errorf("%w: not JSON of the form {\"keys\": […]}: %w", ErrUnusable, err)
	}
	if len(wire.Keys) > maxKeys {
		return nil, fmt.Errorf("%w: %d keys, more than %d", ErrUnusable, len(wire.Keys), maxKeys)
	}
	set, skipped := &Set{}, error(nil)
	for i, one := range wire.Keys {
		k, err := parseKey(one)
		if err != nil {
			skipped = errors.Join(skipped, fmt.Errorf("keys[%d]: %w", i, err))
			continue
		}
		set.keys = append(set.keys, k)
	}
	switch {
	case len(wire.Keys) == 0:
		return nil, fmt.Errorf("%w: it has no keys", ErrUnusable)
	case len(set.keys) == 0:
		return nil, fmt.Errorf("%w: no key can be used: %w", ErrUnusable, skipped)
	}
	return set, nil
}

func parseKey(raw []byte) (Key, error) {
	var wire jose.JSONWebKey
	if err := wire.UnmarshalJSON(raw); err != nil {
		return Key{}, err
	}
	switch {
	case !wire.IsPublic():
		return Key{}, errors.New("not a public key of an asymmetric algorithm")
	case wire.Use != "" && wire.Use != "sig":
		return Key{}, fmt.Errorf("its use is %q, not sig", wire.Use)
	case len(wire.KeyID) > maxKeyID:
		return Key{}, fmt.Errorf("its kid is longer than %d bytes", maxKeyID)
	}
	algorithms, err := algorithmsOf(wire.Key)
	if err != nil {
		return Key{}, err
	}
	if wire.Algorithm != "" {
		only := jose.SignatureAlgorithm(wire.Algorithm)
		if !slices.Contains(algorithms, only) {
			return Key{}, fmt.Errorf("its alg %q does not go with its type", wire.Algorithm)
		}
		algorithms = []jose.SignatureAlgorithm{only}
	}
	return Key{ID: wire.KeyID, Public: wire.Key, algorithms: algorithms}, nil
}

func algorithmsOf(public any) ([]jose.SignatureAlgorithm, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return nil, fmt.Errorf("an RSA key of %d bits, want %d to %d", n, minRSABits, maxRSABits)
		}
		return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []jose.SignatureAlgorithm{jose.ES256}, nil
		case elliptic.P384():
			return []jose.SignatureAlgorithm{jose.ES384}, nil
		case elliptic.P521():
			return []jose.SignatureAlgorithm{jose.ES512}, nil
		}
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}, nil
	}
	return nil, fmt.Errorf("a key of type %T", public)
}
