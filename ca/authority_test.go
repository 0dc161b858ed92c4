package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/identity"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func open(t testing.TB, change func(*Config)) *Authority {
	t.Helper()
	config := Config{TrustDomain: "mesh", StateDir: filepath.Join(t.TempDir(), "ca"), Log: quiet()}
	if change != nil {
		change(&config)
	}
	a, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func web(t testing.TB) identity.ID {
	t.Helper()
	id, err := identity.New("mesh", "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// given is a CA made elsewhere.
type given struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newCA(t testing.TB, parent *given, key crypto.Signer, change func(*x509.Certificate)) *given {
	t.Helper()
	serial, err := newSerial()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: serial.String()}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	if change != nil {
		change(template)
	}
	signer := parent
	if parent == nil {
		signer = &given{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &given{cert, key}
}

// files writes certificates and a key, and gives a Config that loads them.
func files(t testing.TB, key crypto.Signer, certs ...*x509.Certificate) Config {
	t.Helper()
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{TrustDomain: "mesh", CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), Log: quiet()}
	writeFile(t, c.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	writeFile(t, c.CertFile, pemOf(certs...))
	return c
}

func pemOf(certs ...*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, cert := range certs {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return text.Bytes()
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOwnRootIsMadeOnceAndKeptPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "ca")
	first := open(t, func(c *Config) { c.StateDir = dir })
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "ca.key"): 0o600, filepath.Join(dir, "ca.crt"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	again := open(t, func(c *Config) { c.StateDir = dir })
	root := first.Roots()[0]
	if !root.Equal(again.Roots()[0]) || len(again.Roots()) != 1 {
		t.Error("the root is another after a restart")
	}
	if !root.IsCA || !root.MaxPathLenZero || root.MaxPathLen != 0 || len(root.PermittedURIDomains) != 1 || root.PermittedURIDomains[0] != "mesh" || !root.PermittedDNSDomainsCritical {
		t.Errorf("the root: CA %t, path length %d, constraints %q", root.IsCA, root.MaxPathLen, root.PermittedURIDomains)
	}
	if life := time.Until(root.NotAfter); life < 9*365*24*time.Hour || !first.NotAfter().Equal(root.NotAfter) || !strings.Contains(first.Origin(), dir) {
		t.Errorf("a life of %s, origin %q", life, first.Origin())
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
}

func TestCrashBetweenKeyAndCertificateKeepsTheKey(t *testing.T) {
	dir := t.TempDir()
	first := open(t, func(c *Config) { c.StateDir = dir })
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	again := open(t, func(c *Config) { c.StateDir = dir })
	if !again.signer.key.(*ecdsa.PrivateKey).Equal(first.signer.key) {
		t.Error("the key was replaced")
	}
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{TrustDomain: "mesh", StateDir: dir, Log: quiet()}); err == nil || !strings.Contains(err.Error(), "ca.key") {
		t.Errorf("without its key: %v", err)
	}
}

func TestCertificatesSayWhatTheyMust(t *testing.T) {
	a := open(t, nil)
	key := newKey(t)
	issue := map[string]func() ([][]byte, error){
		"spiffe://mesh/ns/shop/sa/web": func() ([][]byte, error) { return a.IssueWorkload(web(t), key.Public(), 0) },
		"spiffe://mesh/node/n1":        func() ([][]byte, error) { return a.IssueNode("n1", key.Public(), 0) },
		"spiffe://mesh/controller":     func() ([][]byte, error) { return a.IssueController(key.Public(), 0) },
	}
	lives := map[string]time.Duration{"spiffe://mesh/ns/shop/sa/web": 12 * time.Hour, "spiffe://mesh/node/n1": 24 * time.Hour, "spiffe://mesh/controller": 24 * time.Hour}
	serials := map[string]bool{}
	for id, f := range issue {
		chain, err := f()
		if err != nil {
			t.Fatal(err)
		}
		svid, err := identity.NewSVID(chain, key)
		if err != nil {
			t.Fatal(err)
		}
		if err := svid.Verify(a.Bundle(), time.Now()); err != nil || svid.ID != id || len(chain) != 1 {
			t.Errorf("%s: %q with %d certificates, %v", id, svid.ID, len(chain), err)
		}
		leaf := svid.Chain[0]
		if leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 2 || leaf.IsCA || !leaf.BasicConstraintsValid || leaf.SerialNumber.BitLen() != 128 {
			t.Errorf("%s: key usage %b, extended %v, CA %t, serial of %d bits", id, leaf.KeyUsage, leaf.ExtKeyUsage, leaf.IsCA, leaf.SerialNumber.BitLen())
		}
		if len(leaf.Subject.Names) != 0 || !criticalSAN(leaf) || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 {
			t.Errorf("%s: subject %q, critical SAN %t", id, leaf.Subject, criticalSAN(leaf))
		}
		if before, life := time.Since(leaf.NotBefore), time.Until(leaf.NotAfter); before < time.Minute || before > 2*time.Minute || (life-lives[id]).Abs() > time.Minute {
			t.Errorf("%s: valid from %s ago, for %s", id, before, life)
		}
		serials[svid.Serial()] = true
	}
	if len(serials) != 3 {
		t.Errorf("%d serial numbers for 3 certificates", len(serials))
	}
}

func criticalSAN(cert *x509.Certificate) bool {
	for _, ext := range cert.Extensions {
		if ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			return ext.Critical
		}
	}
	return false
}

func TestLivesAreConfiguredAndEndWithTheCA(t *testing.T) {
	now := time.Now().Truncate(time.Second) // as certificates have it
	a := open(t, func(c *Config) {
		c.WorkloadTTL, c.Clock = time.Hour, func() time.Time { return now }
	})
	end := func(ttl time.Duration) time.Time {
		chain, err := a.IssueWorkload(web(t), newKey(t).Public(), ttl)
		if err != nil {
			t.Fatal(err)
		}
		_, end := describe(chain[0])
		return end
	}
	if got := end(0); got.Sub(now) != time.Hour {
		t.Errorf("configured 1 h: %s", got.Sub(now))
	}
	if got := end(time.Minute); got.Sub(now) != time.Minute {
		t.Errorf("asked for 1 m: %s", got.Sub(now))
	}
	now = a.NotAfter().Add(-10 * time.Minute)
	if got := end(0); !got.Equal(a.NotAfter()) {
		t.Errorf("ends at %s, the CA at %s", got, a.NotAfter())
	}
	now = a.NotAfter()
	if _, err := a.IssueNode("n1", newKey(t).Public(), 0); !errors.Is(err, ErrExpired) {
		t.Errorf("after the CA's end: %v", err)
	}
}

func TestForeignAndMalformedIdentitiesAreRefused(t *testing.T) {
	a := open(t, nil)
	other, err := identity.New("other.org", "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []identity.ID{other, {}} {
		if _, err := a.IssueWorkload(id, newKey(t).Public(), 0); !errors.Is(err, ErrForeign) {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, node := range []string{"", "N1", "a/b", "..", "controller/x"} {
		if _, err := a.IssueNode(node, newKey(t).Public(), 0); !errors.Is(err, identity.ErrMalformed) {
			t.Errorf("node %q: %v", node, err)
		}
	}
	if _, err := a.IssueController("a string", 0); err == nil {
		t.Error("a key that is none is signed")
	}
}

// TestRootIsConstrainedToItsTrustDomain: even who steals the key cannot sign for others, as Go's verifier sees it.
func TestRootIsConstrainedToItsTrustDomain(t *testing.T) {
	for omit, text := range map[bool]string{false: "not permitted by any constraint", true: ""} {
		a := open(t, func(c *Config) { c.OmitNameConstraints = omit })
		key := newKey(t)
		uri, err := url.Parse("spiffe://other.org/ns/shop/sa/web")
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{uri}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, a.Roots()[0], key.Public(), a.signer.key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		_, err = leaf.Verify(x509.VerifyOptions{Roots: pool(a.Roots())})
		if omit != (err == nil) || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("constraints omitted %t: %v", omit, err)
		}
	}
}

func TestTrustDomainsOfEveryShapeGetARoot(t *testing.T) {
	for _, td := range []string{"mesh", "cluster.local", "my_mesh.example", "10.0.0.1", "x-y.z"} {
		if a := open(t, func(c *Config) { c.TrustDomain = td }); a.TrustDomain() != td {
			t.Errorf("TrustDomain = %q", a.TrustDomain())
		}
	}
}
