package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/warren-mesh/warren/agent/feed"
	"github.com/warren-mesh/warren/identity"
)

// der returns a new root.
func der(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	out, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// bundle returns a bundle as a state that came anew has it.
func bundle(t *testing.T, roots ...[]byte) *identity.Bundle {
	t.Helper()
	b, err := identity.ParseBundle(map[string][][]byte{"cluster.local": roots})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSVIDsAreLookedThroughWhenRootsChange(t *testing.T) {
	one, two := der(t), der(t)
	a := &Agent{bundles: &identity.BundleStore{}}
	looks := 0
	take := func(b *identity.Bundle) int {
		a.takeBundle(&feed.State{Bundle: b})
		looks = 0
		a.vouched.by(a.bundles.Load(), func() { looks++ })
		return looks
	}
	if take(bundle(t, one)) != 1 {
		t.Error("not looked through at the first time")
	}
	first := a.bundles.Load()
	if take(bundle(t, one)) != 0 || a.bundles.Load() != first {
		t.Error("looked through, or swapped, for the same roots")
	}
	if take(bundle(t, one, two)) != 1 {
		t.Error("not looked through when a root came")
	}
	if take(bundle(t, two)) != 1 {
		t.Error("not looked through when a root went")
	}
	if take(nil) != 0 || len(a.bundles.Load().Roots("cluster.local")) != 1 {
		t.Error("a state without roots took them away")
	}
}
