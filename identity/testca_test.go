package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"log/slog"
	"math/big"
	"testing"
	"time"
)

// testCA is a root that signs whatever a test wants, well-formed or not.
type testCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newTestCA(t testing.TB, parent *testCA) *testCA {
	t.Helper()
	key := newKey(t)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: newTestSerial(t), Subject: pkix.Name{CommonName: "root " + newTestSerial(t).String()},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	ca := &testCA{template, key}
	signer := ca
	if parent != nil {
		signer = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	ca.cert = parseCert(t, der)
	return ca
}

func newTestSerial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parseCert(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// leaf signs a good leaf for uris, byte for byte, after change had its way with it.
func (ca *testCA) leaf(t testing.TB, pub crypto.PublicKey, life time.Duration, uris []string, change func(*x509.Certificate)) []byte {
	t.Helper()
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: newTestSerial(t), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if len(uris) > 0 {
		template.ExtraExtensions = append(template.ExtraExtensions, sanOf(t, uris))
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, pub, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// sanOf puts URIs into a certificate that url.URL could not hold.
func sanOf(t testing.TB, uris []string) pkix.Extension {
	t.Helper()
	var names []asn1.RawValue
	for _, uri := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: value}
}

func (ca *testCA) svid(t testing.TB, id string, life time.Duration) *SVID {
	t.Helper()
	key := newKey(t)
	svid, err := NewSVID([][]byte{ca.leaf(t, key.Public(), life, []string{id}, nil)}, key)
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

func (ca *testCA) bundle(t testing.TB, trustDomains ...string) *Bundle {
	t.Helper()
	domains := map[string][]*x509.Certificate{}
	for _, td := range trustDomains {
		domains[td] = []*x509.Certificate{ca.cert}
	}
	b, err := NewBundle(domains)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signerFunc is a Signer.
type signerFunc func(ctx context.Context, uid string, csr []byte) ([][]byte, error)

func (f signerFunc) Sign(ctx context.Context, uid string, csr []byte) ([][]byte, error) {
	return f(ctx, uid, csr)
}

// signs answers with certificates for id.
func (ca *testCA) signs(t testing.TB, id string, life time.Duration) signerFunc {
	return func(_ context.Context, _ string, csr []byte) ([][]byte, error) {
		request, err := x509.ParseCertificateRequest(csr)
		if err != nil {
			return nil, err
		}
		return [][]byte{ca.leaf(t, request.PublicKey, life, []string{id}, nil)}, nil
	}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func mustParse(t testing.TB, s string) ID {
	t.Helper()
	id, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
