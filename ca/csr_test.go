package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// requestFor asks for more than it may: another identity, a DNS name, a subject.
func requestFor(t testing.TB, key crypto.Signer, id string) []byte {
	t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "root"}, URIs: []*url.URL{uri}, DNSNames: []string{"api.bank"}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func badRequests(t testing.TB) map[string][]byte {
	t.Helper()
	good := requestFor(t, newKey(t), "spiffe://mesh/ns/a/sa/b")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(good)
	forged[bytes.Index(forged, []byte("root"))] = 'b' // changes what was signed
	return map[string][]byte{
		"nothing": nil, "garbage": []byte("garbage"), "cut short": good[:len(good)-3], "trailing bytes": append(bytes.Clone(good), 0),
		"bad signature": forged,
		"RSA":           requestFor(t, rsaKey, "spiffe://mesh/ns/a/sa/b"),
		"P-384":         requestFor(t, p384, "spiffe://mesh/ns/a/sa/b"),
		"Ed25519":       requestFor(t, edKey, "spiffe://mesh/ns/a/sa/b"),
		"huge":          requestFor(t, newKey(t), "spiffe://mesh/"+strings.Repeat("x", maxRequestBytes)),
	}
}

func TestRequests(t *testing.T) {
	key := newKey(t)
	pub, err := ParseRequest(requestFor(t, key, "spiffe://mesh/ns/a/sa/b"))
	if err != nil || !pub.Equal(key.Public()) {
		t.Errorf("ParseRequest = %v, %v", pub, err)
	}
	for name, der := range badRequests(t) {
		if pub, err := ParseRequest(der); !errors.Is(err, ErrBadRequest) || pub != nil {
			t.Errorf("%s: %v, %v", name, pub, err)
		}
	}
}

// FuzzCSR: whatever is sent, the answer is a refusal or a P-256 key that signs what was sent.
func FuzzCSR(f *testing.F) {
	f.Add(requestFor(f, newKey(f), "spiffe://mesh/ns/a/sa/b"))
	for _, der := range badRequests(f) {
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		pub, err := ParseRequest(der)
		if err != nil {
			if pub != nil || !errors.Is(err, ErrBadRequest) || len(err.Error()) > 200 {
				t.Fatalf("ParseRequest = %v, %q", pub, err)
			}
			return
		}
		if len(der) > maxRequestBytes || pub.Curve != elliptic.P256() {
			t.Fatalf("ParseRequest takes %d bytes and a key on %s", len(der), pub.Curve.Params().Name)
		}
	})
}

func withPeer(ctx context.Context, chain []*x509.Certificate) context.Context {
	info := credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: chain}}
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: info})
}
