package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/warren-mesh/warren/ca/internal/atomicfile"
)

const (
	ownRootLife      = 10 * 365 * 24 * time.Hour
	maxIntermediates = 3 // with the leaf they are the 4 certificates that peers accept
)

// material is what the files of a CA hold.
type material struct {
	certs  []*x509.Certificate // the signing one first, then those above it
	key    crypto.Signer
	roots  []*x509.Certificate // trusted, of all files
	origin string
}

func (c *Config) load() (*material, error) {
	m, err := c.loadPair()
	if err != nil {
		return nil, err
	}
	for _, cert := range m.certs {
		if isSelfSigned(cert) {
			m.roots = append(m.roots, cert)
		}
	}
	if c.ExtraRootsFile != "" {
		extra, err := readCerts(c.ExtraRootsFile)
		if err != nil {
			return nil, err
		}
		m.addRoots(extra)
	}
	if len(m.roots) == 0 {
		return nil, fmt.Errorf("CA %s: no root: add it at the end of the file, or give a file with extra roots", m.origin)
	}
	return m, nil
}

func (m *material) addRoots(extra []*x509.Certificate) {
	for _, cert := range extra {
		known := false
		for _, root := range m.roots {
			known = known || root.Equal(cert)
		}
		if !known {
			m.roots = append(m.roots, cert)
		}
	}
}

func (c *Config) loadPair() (*material, error) {
	switch {
	case (c.CertFile == "") != (c.KeyFile == ""):
		return nil, errors.New("CA: a certificate file and a key file belong together: give both or none")
	case c.CertFile != "":
		return readPair(c.CertFile, c.KeyFile)
	case c.StateDir == "":
		return nil, errors.New("CA: give a state directory, or a certificate file and a key file")
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	if err := os.Chmod(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	certFile, keyFile := filepath.Join(c.StateDir, "ca.crt"), filepath.Join(c.StateDir, "ca.key")
	if _, err := os.Stat(certFile); errors.Is(err, fs.ErrNotExist) {
		if err := c.makeRoot(certFile, keyFile); err != nil {
			return nil, fmt.Errorf("CA: make a root in %s: %w", c.StateDir, err)
		}
	}
	return readPair(certFile, keyFile)
}

// makeRoot writes the key first and never replaces one: after a crash in between, or when two start at once, the
// certificate is made for the key that is there.
func (c *Config) makeRoot(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	err = atomicfile.Create(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	signing, err := readKey(keyFile)
	if err != nil {
		return err
	}
	if der, err = c.selfSign(signing); err != nil {
		return err
	}
	err = atomicfile.Create(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// selfSign makes a root's certificate, DER.
func (c *Config) selfSign(key crypto.Signer) ([]byte, error) {
	template, err := c.rootTemplate()
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

// rootTemplate: the root signs leaves only, and only of its trust domain. Go reads a URI constraint as the host and
// those below it, which is more than RFC 5280 says (the host alone), but peers also pick roots by trust domain. A trust
// domain that reads as an IP address cannot be a constraint.
func (c *Config) rootTemplate() (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := c.Clock()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Warren"}, CommonName: c.TrustDomain},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(ownRootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	_, notAddress := netip.ParseAddr(c.TrustDomain)
	if !c.OmitNameConstraints && notAddress != nil {
		template.PermittedURIDomains = []string{c.TrustDomain}
		template.PermittedDNSDomainsCritical = true // makes the whole extension critical
	}
	return template, nil
}

// readPair reads a signing certificate, what is above it, and its key.
func readPair(certFile, keyFile string) (*material, error) {
	certs, err := readCerts(certFile)
	if err != nil {
		return nil, err
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	m := &material{certs: certs, key: key, origin: "root " + certFile}
	if !isSelfSigned(certs[0]) {
		m.origin = "intermediate " + certFile
	}
	return m, m.check(certFile, keyFile)
}

func (m *material) check(certFile, keyFile string) error {
	for i, cert := range m.certs {
		if !cert.BasicConstraintsValid || !cert.IsCA {
			return fmt.Errorf("CA: %s: certificate %d (%s) is not a CA", certFile, i, cert.Subject)
		}
		if cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("CA: %s: certificate %d (%s): its key usage lacks keyCertSign", certFile, i, cert.Subject)
		}
	}
	pub, ok := m.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(m.certs[0].PublicKey) {
		return fmt.Errorf("CA: %s is not the key of the first certificate in %s", keyFile, certFile)
	}
	if k, isRSA := m.key.Public().(*rsa.PublicKey); isRSA && k.N.BitLen() < 2048 {
		return fmt.Errorf("CA: %s: an RSA key of %d bits is shorter than 2048", keyFile, k.N.BitLen())
	}
	return nil
}

// signer verifies the signing certificate up to a root.
func (m *material) signer(now time.Time) (*signer, error) {
	s := &signer{cert: m.certs[0], key: m.key, origin: m.origin}
	for _, cert := range m.certs {
		if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
			return nil, fmt.Errorf("CA %s: %w: %s is valid from %s to %s", m.origin, ErrExpired, cert.Subject,
				cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339))
		}
		if !isSelfSigned(cert) {
			s.chain = append(s.chain, cert.Raw)
		}
	}
	if len(s.chain) > maxIntermediates {
		return nil, fmt.Errorf("CA %s: %d intermediates, more than %d", m.origin, len(s.chain), maxIntermediates)
	}
	options := x509.VerifyOptions{
		Roots:         pool(m.roots),
		Intermediates: pool(m.certs),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	chains, err := s.cert.Verify(options)
	if err != nil {
		return nil, fmt.Errorf("CA %s: it does not lead to a root that is known: %w", m.origin, err)
	}
	for _, chain := range chains {
		if end := earliestEnd(chain); end.After(s.notAfter) {
			s.notAfter = end
		}
	}
	return s, nil
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, cert := range certs {
		p.AddCert(cert)
	}
	return p
}

func earliestEnd(chain []*x509.Certificate) time.Time {
	end := chain[0].NotAfter
	for _, cert := range chain {
		if cert.NotAfter.Before(end) {
			end = cert.NotAfter
		}
	}
	return end
}

func isSelfSigned(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawSubject, cert.RawIssuer) && cert.CheckSignatureFrom(cert) == nil
}

func readCerts(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("CA: %s: a PEM block %q where certificates are expected", path, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("CA: %s: certificate %d: %w", path, len(certs), err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("CA: %s: no PEM certificate in it", path)
	}
	return certs, nil
}

// readKey takes PKCS #8, SEC 1 (EC) and PKCS #1 (RSA).
func readKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("CA: %s: no PEM private key in it", path)
	}
	var key any
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("CA: %s: a PEM block %q where a private key is expected", path, block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("CA: %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("CA: %s: a key of type %T cannot sign", path, key)
	}
	return signer, nil
}
