package identity

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
)

// Bundle is the set of trust domains that are known, each with the roots that may sign its identities. It is
// immutable. A nil Bundle knows nobody.
type Bundle struct {
	domains map[string]*trust
}

type trust struct {
	roots []*x509.Certificate
	pool  *x509.CertPool
}

// maxRoots bounds the roots of a trust domain: each one costs when a chain is built.
const maxRoots = 16

// NewBundle makes a bundle of trust domain → roots.
// Returns an error if a trust domain is malformed, or has no roots, too many, or one that is not a CA.
func NewBundle(domains map[string][]*x509.Certificate) (*Bundle, error) {
	b := &Bundle{domains: make(map[string]*trust, len(domains))}
	for name, roots := range domains {
		if err := checkTrustDomain(name); err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
		if len(roots) == 0 || len(roots) > maxRoots {
			return nil, fmt.Errorf("bundle of trust domain %s: %d roots, not 1 to %d", name, len(roots), maxRoots)
		}
		t := &trust{roots: slices.Clone(roots), pool: x509.NewCertPool()}
		for _, root := range roots {
			if !root.BasicConstraintsValid || !root.IsCA {
				return nil, fmt.Errorf("bundle of trust domain %s: root with serial %x is not a CA", name, root.SerialNumber)
			}
			t.pool.AddCert(root)
		}
		b.domains[name] = t
	}
	return b, nil
}

// ParseBundle makes a bundle of trust domain → DER certificates.
func ParseBundle(domains map[string][][]byte) (*Bundle, error) {
	parsed := make(map[string][]*x509.Certificate, len(domains))
	for name, ders := range domains {
		for _, der := range ders {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("bundle of trust domain %q: %w", name, err)
			}
			parsed[name] = append(parsed[name], cert)
		}
		if len(ders) == 0 {
			parsed[name] = nil
		}
	}
	return NewBundle(parsed)
}

// TrustDomains returns the names of the known trust domains, sorted.
func (b *Bundle) TrustDomains() []string {
	if b == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(b.domains))
}

// Roots returns the roots of a trust domain, or nil if it is unknown.
func (b *Bundle) Roots(trustDomain string) []*x509.Certificate {
	t := b.trust(trustDomain)
	if t == nil {
		return nil
	}
	return slices.Clone(t.roots)
}

func (b *Bundle) trust(trustDomain string) *trust {
	if b == nil {
		return nil
	}
	return b.domains[trustDomain]
}

// BundleStore holds the current bundle. Its zero value holds none.
type BundleStore struct{ current atomic.Pointer[Bundle] }

// Load returns the current bundle, or nil.
func (s *BundleStore) Load() *Bundle { return s.current.Load() }

// Swap makes b current. Handshakes verify against it from now on; what was verified before is the caller's to re-check.
func (s *BundleStore) Swap(b *Bundle) { s.current.Store(b) }
