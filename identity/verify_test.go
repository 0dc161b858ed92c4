package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

// TestSVIDsOfOtherMeshesAreAccepted: what SPIFFE allows and our own CA does not do.
func TestSVIDsOfOtherMeshesAreAccepted(t *testing.T) {
	ca := newTestCA(t, nil)
	bundle := ca.bundle(t, "mesh")
	rsaKey, err := rsa.GenerateKey(rand.Reader, minRSABits)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{
		"RSA 2048":              ca.leaf(t, rsaKey.Public(), time.Hour, []string{webID}, nil),
		"P-384":                 ca.leaf(t, p384.Public(), time.Hour, []string{webID}, nil),
		"P-521":                 ca.leaf(t, p521.Public(), time.Hour, []string{webID}, nil),
		"Ed25519":               ca.leaf(t, ed, time.Hour, []string{webID}, nil),
		"no extended key usage": ca.leaf(t, p384.Public(), time.Hour, []string{webID}, func(c *x509.Certificate) { c.ExtKeyUsage = nil }),
		"key encipherment too":  ca.leaf(t, p384.Public(), time.Hour, []string{webID}, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }),
	} {
		id, err := VerifyChain([]*x509.Certificate{parseCert(t, der)}, bundle, x509.ExtKeyUsageClientAuth, time.Now())
		if id != webID || err != nil {
			t.Errorf("%s: %q, %v", name, id, err)
		}
	}
}

func TestChainLimitsAreInclusive(t *testing.T) {
	cas := []*testCA{newTestCA(t, nil)}
	for range 3 {
		cas = append(cas, newTestCA(t, cas[len(cas)-1]))
	}
	key := newKey(t)
	size := 0
	for _, ca := range cas[1:] {
		size += len(ca.cert.Raw)
	}
	leaf := func(padding int) []byte {
		return cas[3].leaf(t, key.Public(), time.Hour, []string{webID}, func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("x", padding) })
	}
	chainOf := func(leaf []byte) [][]byte { return [][]byte{leaf, cas[3].cert.Raw, cas[2].cert.Raw, cas[1].cert.Raw} }
	// A signature's length differs by a few bytes from one certificate to the next: try until one fits exactly.
	padding := maxChainBytes - size - len(leaf(1000)) + 1000
	for range 200 {
		der := leaf(padding)
		if size+len(der) != maxChainBytes {
			continue
		}
		svid, err := NewSVID(chainOf(der), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := svid.Verify(cas[0].bundle(t, "mesh"), time.Now()); err != nil {
			t.Error(err)
		}
		return
	}
	t.Error("no chain came out at the limit")
}
