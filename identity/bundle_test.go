package identity

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBundleIsImmutable(t *testing.T) {
	ca := newTestCA(t, nil)
	roots := []*x509.Certificate{ca.cert}
	b, err := NewBundle(map[string][]*x509.Certificate{"mesh": roots})
	if err != nil {
		t.Fatal(err)
	}
	roots[0] = nil
	b.Roots("mesh")[0] = nil
	if got := b.Roots("mesh"); len(got) != 1 || !got[0].Equal(ca.cert) {
		t.Errorf("Roots = %v", got)
	}
	if b.Roots("other.org") != nil || !slices.Equal(b.TrustDomains(), []string{"mesh"}) {
		t.Errorf("TrustDomains = %q", b.TrustDomains())
	}
	var none *Bundle
	if none.Roots("mesh") != nil || none.TrustDomains() != nil {
		t.Error("a nil bundle knows somebody")
	}
}

func TestBadBundlesAreRefused(t *testing.T) {
	ca := newTestCA(t, nil)
	leaf := ca.svid(t, webID, time.Hour).Chain[0]
	for text, domains := range map[string]map[string][]*x509.Certificate{
		`trust domain "Mesh"`: {"Mesh": {ca.cert}},
		`trust domain ""`:     {"": {ca.cert}},
		"mesh: 0 roots":       {"mesh": nil},
		"17 roots":            {"mesh": slices.Repeat([]*x509.Certificate{ca.cert}, 17)},
		"is not a CA":         {"mesh": {ca.cert, leaf}},
	} {
		if _, err := NewBundle(domains); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("NewBundle = %v, want %q", err, text)
		}
	}
	if _, err := ParseBundle(map[string][][]byte{"mesh": {ca.cert.Raw, {1}}}); err == nil {
		t.Error("ParseBundle takes garbage")
	}
	if _, err := ParseBundle(map[string][][]byte{"mesh": {}}); err == nil {
		t.Error("ParseBundle takes a trust domain without roots")
	}
	if b, err := ParseBundle(map[string][][]byte{"mesh": {ca.cert.Raw}}); err != nil || len(b.Roots("mesh")) != 1 {
		t.Errorf("ParseBundle = %v, %v", b, err)
	}
}

// TestRootsSignForTheirOwnTrustDomain: a root that is known for one trust domain is worth nothing for another.
func TestRootsSignForTheirOwnTrustDomain(t *testing.T) {
	ours, theirs := newTestCA(t, nil), newTestCA(t, nil)
	b, err := NewBundle(map[string][]*x509.Certificate{"mesh": {ours.cert}, "other.org": {theirs.cert}})
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.svid(t, webID, time.Hour).Verify(b, time.Now()); !errors.Is(err, ErrUntrusted) {
		t.Errorf("an identity of ours signed by their root: %v", err)
	}
	if err := theirs.svid(t, "spiffe://other.org/ns/a/sa/b", time.Hour).Verify(b, time.Now()); err != nil {
		t.Errorf("an identity of theirs: %v", err)
	}
}

// FuzzCertID: whatever is in a certificate, what comes out is nothing, or one canonical id that stands in it.
func FuzzCertID(f *testing.F) {
	ca := newTestCA(f, nil)
	key := newKey(f)
	bundle := ca.bundle(f, "mesh")
	for _, uris := range [][]string{{webID}, {nodeID}, {webID, evilID}, {"spiffe://mesh/ns/a/../b"}, {"x\x00y"}, nil} {
		f.Add(ca.leaf(f, key.Public(), time.Hour, uris, nil))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		id, err := VerifyChain([]*x509.Certificate{cert}, bundle, x509.ExtKeyUsageServerAuth, time.Now())
		if err != nil {
			if id != "" || strings.ContainsAny(err.Error(), "\x00\n\r\x1b") {
				t.Fatalf("VerifyChain = %q, %q", id, err)
			}
			return
		}
		if _, err := trustDomainOf(id); err != nil || !bytes.Contains(der, []byte(id)) {
			t.Fatalf("VerifyChain = %q", id)
		}
	})
}

func TestMalformedSANIsRefused(t *testing.T) {
	leaf := *newTestCA(t, nil).svid(t, webID, time.Hour).Chain[0]
	for name, value := range map[string][]byte{"not a sequence": {1}, "trailing bytes": append(bytes.Clone(sanOf(t, []string{webID}).Value), 0, 0)} {
		leaf.Extensions = slices.Clone(leaf.Extensions)
		for i, ext := range leaf.Extensions {
			if ext.Id.String() == "2.5.29.17" {
				leaf.Extensions[i].Value = value
			}
		}
		if _, err := checkLeaf([]*x509.Certificate{&leaf}); !errors.Is(err, ErrBadCertificate) || !strings.Contains(err.Error(), "subject alternative name") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
