// Package ca signs the mesh's identities: X.509-SVIDs for workloads, for nodes' agents and for the controller.
//
// An [Authority] holds the signing key and knows how a certificate must look. A [Server] is the gRPC service before it:
// it decides who may have which certificate, from the caller's own verified certificate and the controller's records,
// never from what a request claims. A certificate request contributes its public key and nothing else.
package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"time"

	"github.com/warren-mesh/warren/identity"
)

var (
	// ErrExpired: the CA's own certificate is past its end, or not yet valid.
	ErrExpired = errors.New("the CA's certificate is not valid now")
	// ErrForeign: the identity is not of the CA's trust domain.
	ErrForeign = errors.New("identity of another trust domain")
)

// backdate lets peers' clocks be behind ours.
const backdate = time.Minute

// Config says which CA an Authority is. TrustDomain and Log must be set, and either StateDir or both files.
type Config struct {
	TrustDomain string
	// StateDir holds ca.crt and ca.key of a root that the Authority makes at its first start. Mode 0700.
	StateDir string
	// CertFile and KeyFile are an existing root or intermediate instead, PEM. CertFile begins with the signing
	// certificate; intermediates and the root may follow.
	CertFile, KeyFile string
	// ExtraRootsFile holds more roots, PEM, for the bundle: the next root before it signs, the last one after, or the
	// root of an intermediate in CertFile.
	ExtraRootsFile string
	// OmitNameConstraints leaves out of a root of our own that it may sign for the trust domain only, for peers whose
	// verifier does not know URI constraints.
	OmitNameConstraints bool

	// Lives of certificates. Shorter ones limit what a stolen key is worth and load the CA more; half of a life is how
	// long the CA may be away. By default 12 h for workloads, 24 h for nodes and the controller.
	WorkloadTTL, NodeTTL, ControllerTTL time.Duration

	Clock func() time.Time // time.Now by default
	Log   *slog.Logger
}

// Authority signs certificates. All methods may be called by any goroutine.
type Authority struct {
	config Config
	signer *signer
	bundle *identity.Bundle
}

// signer is a CA certificate with its key.
type signer struct {
	cert     *x509.Certificate
	key      crypto.Signer
	chain    [][]byte // what follows a leaf: the signing certificate and intermediates, without a root
	notAfter time.Time
	origin   string
}

// Open loads the CA, or makes a root of its own.
// Returns an error that names the file and what is wrong with it; one that wraps ErrExpired if a certificate is not
// valid now.
func Open(config Config) (*Authority, error) {
	config.setDefaults()
	if _, err := identity.ControllerID(config.TrustDomain); err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	material, err := config.load()
	if err != nil {
		return nil, err
	}
	a := &Authority{config: config}
	a.bundle, err = identity.NewBundle(map[string][]*x509.Certificate{config.TrustDomain: material.roots})
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	a.signer, err = material.signer(config.Clock())
	if err != nil {
		return nil, err
	}
	if err := a.selfTest(); err != nil {
		return nil, fmt.Errorf("CA %s cannot sign for trust domain %s: %w", a.signer.origin, config.TrustDomain, err)
	}
	a.reportExpiry()
	return a, nil
}

func (c *Config) setDefaults() {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.WorkloadTTL <= 0 {
		c.WorkloadTTL = 12 * time.Hour
	}
	if c.NodeTTL <= 0 {
		c.NodeTTL = 24 * time.Hour
	}
	if c.ControllerTTL <= 0 {
		c.ControllerTTL = 24 * time.Hour
	}
}

// selfTest issues a certificate and verifies it as a peer would: it finds name constraints, path lengths and extended
// key usages of a given CA that would make every certificate useless.
func (a *Authority) selfTest() error {
	key, _, err := identity.NewRequest()
	if err != nil {
		return err
	}
	chain, err := a.IssueController(key.Public(), time.Minute)
	if err != nil {
		return err
	}
	svid, err := identity.NewSVID(chain, key)
	if err != nil {
		return err
	}
	return svid.Verify(a.bundle, a.config.Clock())
}

// reportExpiry warns in the last tenth of the signing certificate's life: leaves get shorter as it ends.
func (a *Authority) reportExpiry() {
	left := a.signer.notAfter.Sub(a.config.Clock())
	life := a.signer.cert.NotAfter.Sub(a.signer.cert.NotBefore)
	level := slog.LevelInfo
	if left < life/10 || left < a.config.NodeTTL {
		level = slog.LevelWarn
	}
	a.config.Log.Log(context.Background(), level, "CA is ready", "origin", a.signer.origin, "trust_domain", a.config.TrustDomain,
		"not_after", a.signer.notAfter, "left", left.Round(time.Minute))
}

// TrustDomain returns the trust domain that the CA signs for.
func (a *Authority) TrustDomain() string { return a.config.TrustDomain }

// Bundle returns the trust domain's roots: the CA's own and the extra ones.
func (a *Authority) Bundle() *identity.Bundle { return a.bundle }

// Roots returns the same roots one by one.
func (a *Authority) Roots() []*x509.Certificate { return a.bundle.Roots(a.config.TrustDomain) }

// NotAfter is when the CA can sign no more.
func (a *Authority) NotAfter() time.Time { return a.signer.notAfter }

// Origin says for people where the CA comes from.
func (a *Authority) Origin() string { return a.signer.origin }

// IssueWorkload signs a workload's certificate; ttl 0 is the configured one. The chain is DER, leaf first, without the
// root. The life is cut to the CA's own.
// Returns an error that wraps ErrForeign or ErrExpired.
func (a *Authority) IssueWorkload(id identity.ID, pub crypto.PublicKey, ttl time.Duration) ([][]byte, error) {
	if id.TrustDomain() != a.config.TrustDomain {
		return nil, fmt.Errorf("issue %q: %w", id, ErrForeign)
	}
	return a.issue(id.String(), pub, orDefault(ttl, a.config.WorkloadTTL))
}

// IssueNode signs the certificate of a node's agent, like IssueWorkload.
// Returns an error that wraps identity.ErrMalformed or ErrExpired.
func (a *Authority) IssueNode(node string, pub crypto.PublicKey, ttl time.Duration) ([][]byte, error) {
	id, err := identity.NodeID(a.config.TrustDomain, node)
	if err != nil {
		return nil, fmt.Errorf("issue: %w", err)
	}
	return a.issue(id.String(), pub, orDefault(ttl, a.config.NodeTTL))
}

// IssueController signs the controller's certificate, like IssueWorkload.
func (a *Authority) IssueController(pub crypto.PublicKey, ttl time.Duration) ([][]byte, error) {
	return a.issue(identity.ControllerSPIFFE(a.config.TrustDomain), pub, orDefault(ttl, a.config.ControllerTTL))
}

func orDefault(ttl, configured time.Duration) time.Duration {
	if ttl <= 0 {
		return configured
	}
	return ttl
}

func (a *Authority) issue(id string, pub crypto.PublicKey, ttl time.Duration) ([][]byte, error) {
	if _, ok := pub.(*ecdsa.PublicKey); !ok {
		return nil, fmt.Errorf("issue %q: a key of type %T, not ECDSA", id, pub)
	}
	uri, err := url.Parse(id)
	if err != nil {
		return nil, fmt.Errorf("issue: %w", err)
	}
	now := a.config.Clock()
	if !now.Before(a.signer.notAfter) {
		return nil, fmt.Errorf("issue %q: %w: it ended at %s", id, ErrExpired, a.signer.notAfter.Format(time.RFC3339))
	}
	end := now.Add(ttl)
	if end.After(a.signer.notAfter) {
		end = a.signer.notAfter
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("issue %q: %w", id, err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		URIs:                  []*url.URL{uri}, // critical, as the subject is empty
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template, a.signer.cert, pub, a.signer.key)
	if err != nil {
		return nil, fmt.Errorf("issue %q: %w", id, err)
	}
	return append([][]byte{leaf}, a.signer.chain...), nil
}

// newSerial is 128 random bits, of which the first is never 0: a serial of full length.
func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	return serial.SetBit(serial, 127, 1), nil
}

// describe is for the audit log.
func describe(leaf []byte) (serial string, notAfter time.Time) {
	cert, err := x509.ParseCertificate(leaf)
	if err != nil {
		return "unreadable", time.Time{}
	}
	return fmt.Sprintf("%x", cert.SerialNumber), cert.NotAfter
}
