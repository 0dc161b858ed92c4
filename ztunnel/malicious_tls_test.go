package ztunnel_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/ztunnel"
)

// forger is a CA of the attacker's own.
type forger struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newForger(t *testing.T) *forger {
	t.Helper()
	f := &forger{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "forger"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &f.key.PublicKey, f.key)
	if err != nil {
		t.Fatal(err)
	}
	f.cert, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// leaf signs a workload's certificate with whatever URIs, which edit may spoil further.
func (f *forger) leaf(key crypto.Signer, ttl time.Duration, uris []string, edit func(*x509.Certificate)) tls.Certificate {
	f.t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(ttl),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			f.t.Fatal(err)
		}
		c.URIs = append(c.URIs, parsed)
	}
	if edit != nil {
		edit(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, f.cert, key.Public(), f.key)
	if err != nil {
		f.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// joinedBy is the mesh's bundle with the forger's root in it.
func joinedBy(t *testing.T, b *identity.Bundle, f *forger) *identity.Bundle {
	t.Helper()
	joined, err := identity.NewBundle(map[string][]*x509.Certificate{
		meshtest.TrustDomain: append(slices.Clone(b.Roots(meshtest.TrustDomain)), f.cert),
	})
	if err != nil {
		t.Fatal(err)
	}
	return joined
}

const webURI = "spiffe://cluster.local/ns/shop/sa/web"

// TestPeersThatDoNotProveWhoTheyAre: each is refused before it can ask for anything, and recorded as tls_failed.
func TestPeersThatDoNotProveWhoTheyAre(t *testing.T) {
	m := meshtest.New(t, shop)
	victim, from := m.Pod("shop/pay"), m.Pod("legacy/client")
	reached := tripwire(t, victim.NS, 8080)
	known, foreign := newForger(t), newForger(t)
	m.Nodes["n2"].Trust(joinedBy(t, m.Nodes["n2"].Trusted(), known)) // so that only the leaf is wrong
	key := newKey(t)
	leaf := func(ttl time.Duration, edit func(*x509.Certificate), uris ...string) *tls.Config {
		return presenting(known.leaf(key, ttl, uris, edit))
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	node, err := m.Authority.IssueNode("n1", key.Public(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	controller, err := m.Authority.IssueController(key.Public(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	good := known.leaf(key, time.Hour, []string{webURI}, nil)
	older := presenting(good)
	older.MaxVersion = tls.VersionTLS12
	http11, silent := presenting(good), presenting(good)
	http11.NextProtos, silent.NextProtos = []string{"http/1.1"}, nil

	cases := []struct {
		name   string
		config *tls.Config
		detail string
	}{
		{"no certificate", presenting(), "certificate"},
		{"expired", leaf(-time.Minute, nil, webURI), "expired"},
		{"not yet valid", leaf(time.Hour, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, webURI), "not yet valid"},
		{"foreign root", presenting(foreign.leaf(key, time.Hour, []string{webURI}, nil)), "unknown authority"},
		{"foreign root sent along", presenting(tls.Certificate{Certificate: [][]byte{foreign.leaf(key, time.Hour, []string{webURI}, nil).Certificate[0], foreign.cert.Raw}, PrivateKey: key}), "unknown authority"},
		{"the root itself", presenting(tls.Certificate{Certificate: [][]byte{known.cert.Raw}, PrivateKey: known.key}), "CA"},
		{"two URI names", leaf(time.Hour, nil, webURI, "spiffe://cluster.local/ns/shop/sa/cart"), "2 URI names"},
		{"no URI name", leaf(time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"web.shop"} }), "0 URI names"},
		{"malformed path", leaf(time.Hour, nil, "spiffe://cluster.local/ns/shop/web"), "malformed"},
		{"dot segments", leaf(time.Hour, nil, "spiffe://cluster.local/ns/bank/../shop/sa/web"), "malformed"},
		{"a node's certificate", presenting(tls.Certificate{Certificate: node, PrivateKey: key}), "node"},
		{"the controller's certificate", presenting(tls.Certificate{Certificate: controller, PrivateKey: key}), "controller"},
		{"another trust domain", leaf(time.Hour, nil, "spiffe://other.org/ns/shop/sa/web"), "other.org"},
		{"a short RSA key", presenting(known.leaf(weak, time.Hour, []string{webURI}, nil)), "1024 bits"},
		{"for servers only", leaf(time.Hour, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, webURI), "extended key usage"},
		{"TLS 1.2", older, "unsupported versions"},
		{"HTTP/1.1", http11, "h2"},
		{"no ALPN", silent, "h2"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := len(m.Records(everything))
			h, err := tryIntrude(t, from.NS, victim.Addrs[0], c.config)
			if err == nil { // in TLS 1.3 a client learns with its first read
				if got := h.connect(1, victim.Addr(false, 8080).String()); got != "closed" {
					t.Errorf("its CONNECT was answered: %s", got)
				}
			}
			meshtest.Eventually(t, "record of the refusal", func() bool { return len(m.Records(everything)) > before })
			r := m.Records(everything)[before]
			if r.Reason != ztunnel.ReasonTLS || r.Verdict != ztunnel.Denied || !strings.Contains(r.Detail, c.detail) {
				t.Errorf("recorded %s, want tls_failed with %q", describe(r), c.detail)
			}
			if !r.Src.ID.IsZero() {
				t.Errorf("recorded as %s, which it did not prove", r.Src.ID)
			}
		})
	}
	t.Run("plaintext on the tunnel port", func(t *testing.T) {
		before := len(m.Records(everything))
		c := dial(t, from.NS, victim.Addr(false, ztunnel.TunnelPort))
		io.WriteString(c, "CONNECT "+victim.Addr(false, 8080).String()+" HTTP/1.1\r\n\r\n")
		if b, err := io.ReadAll(c); strings.HasPrefix(string(b), "HTTP") || err != nil && isTimeout(err) {
			t.Errorf("it was answered: %q, %v", b, err)
		}
		meshtest.Eventually(t, "record of the refusal", func() bool { return len(m.Records(everything)) > before })
		if r := m.Records(everything)[before]; r.Reason != ztunnel.ReasonTLS {
			t.Errorf("recorded %s", describe(r))
		}
	})
	if n := reached.Load(); n != 0 {
		t.Errorf("the app was reached %d times", n)
	}
	if got := intrude(t, from.NS, victim.Addrs[0], presenting(good)).connect(1, victim.Addr(false, 8080).String()); got != "200" {
		t.Errorf("with nothing wrong: %s", got)
	}
}

func isTimeout(err error) bool { return timeoutError(err) == err }

// TestAServerThatIsNotWhoTheMeshSays: what answers at a workload's tunnel port cannot prove to be it. The client's app
// gets a RST, and none of its bytes leave.
func TestAServerThatIsNotWhoTheMeshSays(t *testing.T) {
	specs := append(slices.Clone(shop), meshtest.Spec{Name: "shop/vault", Node: "n3", Plain: true})
	m := meshtest.New(t, specs, enrolled("vault"))
	rogue, foreign := m.Pod("shop/vault"), newForger(t)
	plain := tripwire(t, rogue.NS, 8080)
	const vault = "spiffe://cluster.local/ns/shop/sa/vault"
	key := newKey(t)
	node, err := m.Authority.IssueNode("n3", key.Public(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name string
		cert *tls.Certificate // nil: no TLS at all
	}{
		{"another workload", m.SVID(workloadID(t, "spiffe://cluster.local/ns/shop/sa/cart"), time.Hour).Certificate()},
		{"the same account of another namespace", m.SVID(workloadID(t, "spiffe://cluster.local/ns/evil/sa/vault"), time.Hour).Certificate()},
		{"its node", &tls.Certificate{Certificate: node, PrivateKey: key}},
		{"the right name by a foreign root", ptr(foreign.leaf(key, time.Hour, []string{vault}, nil))},
		{"plaintext", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := len(m.Records(everything))
			asked, got := rogueServer(t, rogue, c.cert)
			wantReset := func() { expectReset(t, m.Pod("shop/web").NS, rogue.Addr(false, 8080)) }
			meshtest.Eventually(t, "the rogue is dialled, once the pool's back-off is over", func() bool {
				wantReset()
				return asked() > 0
			})
			meshtest.Eventually(t, "record of the failure", func() bool { return len(m.Records(everything)) > before })
			if r := m.Records(everything)[before]; r.Reason != ztunnel.ReasonTLS || r.Verdict != ztunnel.Failed || !r.Dst.ID.IsZero() {
				t.Errorf("recorded %s as %s, want tls_failed", describe(r), r.Dst.ID)
			}
			if b := got(); strings.Contains(b, "canary") {
				t.Errorf("the rogue got %q", b)
			}
			if n := plain.Load(); n != 0 {
				t.Errorf("the rogue was dialled in plaintext %d times", n)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

// TestAnAddressThatAnotherWorkloadTookOver: the mesh's word is older than the network's.
func TestAnAddressThatAnotherWorkloadTookOver(t *testing.T) {
	for name, c := range map[string]struct {
		claimed, real string // the workload that the mesh says is at the address of the other
		reason        ztunnel.Reason
	}{
		"on another node": {"shop/pay", "shop/bank", ztunnel.ReasonTLS},
		"on the same":     {"shop/cart", "shop/pen", ztunnel.ReasonAppUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			m := meshtest.New(t, append(slices.Clone(shop), meshtest.Spec{Name: "shop/bank", Node: "n2"}, meshtest.Spec{Name: "shop/pen", Node: "n1"}))
			claimed, other := m.Pod(c.claimed), m.Pod(c.real)
			reached := tripwire(t, other.NS, 8080)
			also := tripwire(t, claimed.NS, 8080)
			address := slices.Clone(other.Addrs)
			claimed.Workload.Addrs, other.Workload.Addrs = other.Workload.Addrs, claimed.Workload.Addrs
			m.Update(addPolicy(cartOnly()))
			for _, a := range address {
				expectReset(t, m.Pod("shop/web").NS, netip.AddrPortFrom(a, 8080))
				m.AwaitRecord("failure", func(r ztunnel.Record) bool {
					return r.Reporter == ztunnel.Outbound && r.Dst.Addr.Addr() == a && r.Reason == c.reason
				})
			}
			if reached.Load()+also.Load() != 0 {
				t.Error("an app was reached")
			}
		})
	}
}
