package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What a verification refuses. Every error of this package about a peer wraps one of them.
var (
	// ErrNoCertificate: the peer presented none.
	ErrNoCertificate = errors.New("no certificate")
	// ErrBadCertificate: it is not fit to be an SVID, whoever signed it.
	ErrBadCertificate = errors.New("certificate is not an X.509-SVID")
	// ErrUnknownTrustDomain: no root of its trust domain is known.
	ErrUnknownTrustDomain = errors.New("unknown trust domain")
	// ErrUntrusted: its chain does not lead to a root of its trust domain now.
	ErrUntrusted = errors.New("certificate chain is not trusted")
	// ErrUnexpectedPeer: it is authentic, but not who was expected.
	ErrUnexpectedPeer = errors.New("unexpected peer")
)

const (
	maxChainCerts = 4
	maxChainBytes = 16 << 10
	minRSABits    = 2048
)

// VerifyChain verifies a peer's chain, leaf first, for use as a server's or a client's, against the roots of the
// leaf's own trust domain only, and returns the leaf's SPIFFE id, which is an ID's or an AgentID's.
// The rules are those of the SPIFFE X.509-SVID standard, sections 2 to 5, and tighter: see checkLeaf.
func VerifyChain(chain []*x509.Certificate, b *Bundle, usage x509.ExtKeyUsage, now time.Time) (string, error) {
	uri, err := checkLeaf(chain)
	if err != nil {
		return "", err
	}
	td, err := trustDomainOf(uri)
	if err != nil {
		return "", err
	}
	trust := b.trust(td)
	if trust == nil {
		return "", fmt.Errorf("%w: %q of %q", ErrUnknownTrustDomain, td, uri)
	}
	options := x509.VerifyOptions{
		Roots:         trust.pool,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	}
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	if _, err := chain[0].Verify(options); err != nil {
		return "", fmt.Errorf("%w: %q: %s", ErrUntrusted, uri, printable(err))
	}
	return uri, nil
}

func trustDomainOf(uri string) (string, error) {
	id, err := Parse(uri)
	if err == nil {
		return id.trustDomain, nil
	}
	agent, agentErr := ParseAgent(uri)
	if agentErr == nil {
		return agent.trustDomain, nil
	}
	return "", fmt.Errorf("%w: %w", ErrBadCertificate, err)
}

func parseChain(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) > maxChainCerts {
		return nil, fmt.Errorf("%w: %d certificates, more than %d", ErrBadCertificate, len(chain), maxChainCerts)
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: certificate %d: %s", ErrBadCertificate, i, printable(err))
		}
		certs[i] = cert
	}
	return certs, nil
}

// checkLeaf checks everything that needs no root, and returns the one URI SAN, which it has not parsed.
func checkLeaf(chain []*x509.Certificate) (uri string, err error) {
	if err := checkSizes(chain); err != nil {
		return "", err
	}
	leaf := chain[0]
	switch {
	case leaf.IsCA:
		err = errors.New("the leaf is a CA")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		err = errors.New("the leaf's key usage lacks digitalSignature")
	case leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		err = errors.New("the leaf's key usage has keyCertSign or cRLSign")
	case !bothUsages(leaf):
		err = errors.New("the leaf's extended key usage is not both serverAuth and clientAuth")
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrBadCertificate, err)
	}
	uris, err := rawURIs(leaf)
	if err != nil {
		return "", fmt.Errorf("%w: subject alternative name: %s", ErrBadCertificate, printable(err))
	}
	if len(uris) != 1 {
		return "", fmt.Errorf("%w: %d URI names, not exactly one", ErrBadCertificate, len(uris))
	}
	return uris[0], nil
}

func checkSizes(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return ErrNoCertificate
	}
	if len(chain) > maxChainCerts {
		return fmt.Errorf("%w: %d certificates, more than %d", ErrBadCertificate, len(chain), maxChainCerts)
	}
	total := 0
	for i, cert := range chain {
		total += len(cert.Raw)
		if err := checkKey(cert.PublicKey); err != nil {
			return fmt.Errorf("%w: certificate %d: %w", ErrBadCertificate, i, err)
		}
	}
	if total > maxChainBytes {
		return fmt.Errorf("%w: %d bytes of certificates, more than %d", ErrBadCertificate, total, maxChainBytes)
	}
	return nil
}

// checkKey refuses keys that are too weak. Our own are P-256; the others are what other SPIFFE meshes issue.
func checkKey(key any) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521() {
			return nil
		}
		return fmt.Errorf("an ECDSA key on curve %s is not accepted", k.Params().Name)
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return fmt.Errorf("an RSA key of %d bits is shorter than %d", k.N.BitLen(), minRSABits)
		}
		return nil
	case ed25519.PublicKey:
		return nil
	}
	return fmt.Errorf("a key of type %T is not accepted", key)
}

// bothUsages: where the extension is present, SPIFFE demands both (X.509-SVID, section 4.4).
func bothUsages(leaf *x509.Certificate) bool {
	if len(leaf.ExtKeyUsage) == 0 && len(leaf.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) &&
		slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
}

// rawURIs returns the URI names byte for byte as they were signed. Certificate.URIs went through url.Parse, whose
// String forgets some of what it read (the case of the scheme, an empty fragment).
func rawURIs(cert *x509.Certificate) ([]string, error) {
	const uriTag = 6 // RFC 5280, section 4.2.1.6: GeneralName
	var uris []string
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names []asn1.RawValue
		rest, err := asn1.Unmarshal(ext.Value, &names)
		if err != nil {
			return nil, err
		}
		if len(rest) != 0 {
			return nil, errors.New("trailing bytes")
		}
		for _, name := range names {
			if name.Class == asn1.ClassContextSpecific && name.Tag == uriTag {
				uris = append(uris, string(name.Bytes))
			}
		}
	}
	return uris, nil
}

// printable is the text of an error that may quote foreign bytes, with every byte escaped that could forge a log line.
func printable(err error) string {
	quoted := strconv.QuoteToASCII(err.Error())
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
