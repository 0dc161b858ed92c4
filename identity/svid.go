package identity

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// SVID is a SPIFFE X.509 identity document: a leaf, its intermediates and the leaf's private key. It is immutable.
type SVID struct {
	// ID is the SPIFFE id, that of an ID or an AgentID.
	ID string
	// Chain is the leaf and its intermediates, leaf first, without the root.
	Chain     []*x509.Certificate
	Key       crypto.Signer
	NotBefore time.Time
	NotAfter  time.Time

	tls *tls.Certificate
}

// ErrNoSVID is wrapped by the error of asking for an SVID that is not there, not there yet, or expired.
var ErrNoSVID = errors.New("no SVID")

// NewSVID makes an SVID of DER certificates, leaf first.
// Returns an error that wraps ErrBadCertificate if the chain is not fit to be an SVID, and another if the key is not
// the leaf's. The chain is not verified against any root: see [SVID.Verify].
func NewSVID(chain [][]byte, key crypto.Signer) (*SVID, error) {
	certs, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	uri, err := checkLeaf(certs)
	if err != nil {
		return nil, err
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(certs[0].PublicKey) {
		return nil, fmt.Errorf("%w: its public key is not that of the private key", ErrBadCertificate)
	}
	s := &SVID{ID: uri, Chain: certs, Key: key, NotBefore: certs[0].NotBefore, NotAfter: certs[0].NotAfter}
	s.tls = &tls.Certificate{PrivateKey: key, Leaf: certs[0], Certificate: chain}
	return s, nil
}

// Verify checks the SVID as a peer would, both as a server's and as a client's.
// Errors are those of [VerifyChain].
func (s *SVID) Verify(b *Bundle, now time.Time) error {
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := VerifyChain(s.Chain, b, usage, now); err != nil {
			return err
		}
	}
	return nil
}

// Root returns the SHA-256 of the root of b that vouches for the SVID, in hexadecimal, "" if none does now.
func (s *SVID) Root(b *Bundle, now time.Time) string {
	td, err := trustDomainOf(s.ID)
	if err != nil {
		return ""
	}
	for _, root := range b.Roots(td) {
		one, err := NewBundle(map[string][]*x509.Certificate{td: {root}})
		if err == nil && s.Verify(one, now) == nil {
			return Fingerprint(root)
		}
	}
	return ""
}

// Fingerprint is the SHA-256 of a certificate in hexadecimal.
func Fingerprint(cert *x509.Certificate) string { return fmt.Sprintf("%x", sha256.Sum256(cert.Raw)) }

// Expired tells whether the SVID is past its end.
func (s *SVID) Expired(now time.Time) bool { return now.After(s.NotAfter) }

// Serial is the leaf's serial number in hexadecimal.
func (s *SVID) Serial() string { return fmt.Sprintf("%x", s.Chain[0].SerialNumber) }

// Raw is the chain in DER, leaf first.
func (s *SVID) Raw() [][]byte {
	raw := make([][]byte, len(s.Chain))
	for i, cert := range s.Chain {
		raw[i] = cert.Raw
	}
	return raw
}

// Certificate is the SVID as crypto/tls wants it. Callers must not change it.
func (s *SVID) Certificate() *tls.Certificate { return s.tls }
