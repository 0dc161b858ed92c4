// Package identity is who a workload is, and how it proves that: SPIFFE ids, SVIDs that renew themselves, and
// the TLS configurations that check a peer's.
//
// An identity comes from a verified certificate or from the kernel; never from a header or an address.
package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ID is a workload's SPIFFE id, spiffe://<trust domain>/ns/<namespace>/sa/<service account>, parsed.
// It is comparable. The zero ID means "no identity".
type ID struct {
	trustDomain    string
	namespace      string
	serviceAccount string
}

// ErrMalformed is wrapped by every error of Parse and New.
var ErrMalformed = errors.New("malformed workload identity")

// New returns the ID of a service account.
// Returns an error that wraps ErrMalformed if a part is empty or has a character that SPIFFE or Kubernetes forbids.
func New(trustDomain, namespace, serviceAccount string) (ID, error) {
	if err := checkTrustDomain(trustDomain); err != nil {
		return ID{}, err
	}
	if !isLabel(namespace, 63, false) {
		return ID{}, fmt.Errorf("%w: namespace %q", ErrMalformed, namespace)
	}
	if !isLabel(serviceAccount, 253, true) {
		return ID{}, fmt.Errorf("%w: service account %q", ErrMalformed, serviceAccount)
	}
	return ID{trustDomain, namespace, serviceAccount}, nil
}

// Parse parses the canonical form and nothing else: no trailing slash, no case folding, no percent encoding.
func Parse(s string) (ID, error) {
	sid, err := spiffeid.FromString(s)
	if err != nil {
		return ID{}, fmt.Errorf("%w: %q: %w", ErrMalformed, s, err)
	}
	parts := strings.Split(sid.Path(), "/")
	if len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return ID{}, fmt.Errorf("%w: %q is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>", ErrMalformed, s)
	}
	id, err := New(sid.TrustDomain().Name(), parts[2], parts[4])
	if err != nil {
		return ID{}, err
	}
	if id.String() != s {
		return ID{}, fmt.Errorf("%w: %q is not canonical", ErrMalformed, s)
	}
	return id, nil
}

// checkTrustDomain is the SPIFFE-ID standard, section 2.1, with its limit of 255 bytes, and without empty labels. It says the
// same as spiffeid.TrustDomainFromString, which costs ten times as much, and every connection asks.
func checkTrustDomain(name string) error {
	ok := name != "" && len(name) <= 255 && !strings.HasPrefix(name, ".") && !strings.HasSuffix(name, ".") && !strings.Contains(name, "..")
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_')
	}
	if !ok {
		return fmt.Errorf("%w: trust domain %q", ErrMalformed, name)
	}
	return nil
}

// isLabel tells whether s is a DNS label (RFC 1123), or with dots a DNS subdomain, of at most max bytes.
func isLabel(s string, max int, dots bool) bool {
	if s == "" || len(s) > max {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for _, c := range []byte(part) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return dots || !strings.Contains(s, ".")
}

// IsZero tells whether there is no identity.
func (id ID) IsZero() bool { return id == ID{} }

// TrustDomain returns the trust domain's name.
func (id ID) TrustDomain() string { return id.trustDomain }

// Namespace returns the Kubernetes namespace.
func (id ID) Namespace() string { return id.namespace }

// ServiceAccount returns the service account's name, without its namespace.
func (id ID) ServiceAccount() string { return id.serviceAccount }

// Principal is the id without its scheme, as policies write it: <trust domain>/ns/<namespace>/sa/<service account>.
func (id ID) Principal() string {
	if id.IsZero() {
		return ""
	}
	return id.trustDomain + "/ns/" + id.namespace + "/sa/" + id.serviceAccount
}

// String returns the SPIFFE id, or "" for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return "spiffe://" + id.Principal()
}
