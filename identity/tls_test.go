package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

const (
	webID  = "spiffe://mesh/ns/shop/sa/web"
	evilID = "spiffe://mesh/ns/shop/sa/evil"
	nodeID = "spiffe://mesh/node/n1"
)

// handshake connects the two over loopback and returns what each side ends with.
func handshake(t *testing.T, server, client *tls.Config) (s, c *tls.Conn, serverErr, clientErr error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() {
		raw, err := listener.Accept()
		if err == nil {
			s = tls.Server(raw, server)
			err = s.HandshakeContext(ctx)
			if err != nil {
				raw.Close()
			}
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	c = tls.Client(raw, client)
	clientErr = c.HandshakeContext(ctx)
	if clientErr != nil {
		raw.Close()
	}
	serverErr = <-done
	return s, c, serverErr, clientErr
}

func have(s *SVID) GetSVID      { return func() (*SVID, error) { return s, nil } }
func knows(b *Bundle) GetBundle { return func() *Bundle { return b } }
func presents(chain [][]byte, key crypto.Signer) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, NextProtos: []string{"h2"}, VerifyConnection: func(tls.ConnectionState) error { return nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: chain, PrivateKey: key}, nil
		},
	}
}

func TestWorkloadsRecogniseEachOther(t *testing.T) {
	ca := newTestCA(t, nil)
	bundle := knows(ca.bundle(t, "mesh"))
	server := ServerConfig(have(ca.svid(t, webID, time.Hour)), bundle)
	client := ClientConfig(have(ca.svid(t, "spiffe://mesh/ns/shop/sa/db", time.Hour)), bundle, mustParse(t, webID))
	s, c, serverErr, clientErr := handshake(t, server, client)
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	atServer, err1 := PeerID(s.ConnectionState())
	atClient, err2 := PeerID(c.ConnectionState())
	if atServer.String() != "spiffe://mesh/ns/shop/sa/db" || atClient.String() != webID || err1 != nil || err2 != nil {
		t.Errorf("PeerID = %v (%v), %v (%v)", atServer, err1, atClient, err2)
	}
	state := c.ConnectionState()
	if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != "h2" || state.CurveID != tls.X25519MLKEM768 {
		t.Errorf("TLS %x, protocol %q, group %s", state.Version, state.NegotiatedProtocol, state.CurveID)
	}
	if _, err := PeerID(tls.ConnectionState{}); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("PeerID without a certificate = %v", err)
	}
}

func TestIntermediatesAreAccepted(t *testing.T) {
	root := newTestCA(t, nil)
	middle := newTestCA(t, root)
	key := newKey(t)
	svid, err := NewSVID([][]byte{middle.leaf(t, key.Public(), time.Hour, []string{webID}, nil), middle.cert.Raw}, key)
	if err != nil {
		t.Fatal(err)
	}
	bundle := knows(root.bundle(t, "mesh"))
	_, _, serverErr, clientErr := handshake(t, ServerConfig(have(svid), bundle), ClientConfig(have(svid), bundle, mustParse(t, webID)))
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
}

func TestClientRefusesAnotherServer(t *testing.T) {
	ca := newTestCA(t, nil)
	bundle := knows(ca.bundle(t, "mesh"))
	for _, expect := range []ID{mustParse(t, webID), {}} {
		_, _, _, err := handshake(t, ServerConfig(have(ca.svid(t, evilID, time.Hour)), bundle),
			ClientConfig(have(ca.svid(t, webID, time.Hour)), bundle, expect))
		if !errors.Is(err, ErrUnexpectedPeer) {
			t.Errorf("expected %q: the client's handshake = %v", expect, err)
		}
	}
}

// TestMaliciousCertificates has a client present each, which a tunnel's server must refuse for the stated reason.
func TestMaliciousCertificates(t *testing.T) {
	ca, foreign := newTestCA(t, nil), newTestCA(t, nil)
	key := newKey(t)
	change := func(f func(*x509.Certificate)) [][]byte {
		return [][]byte{ca.leaf(t, key.Public(), time.Hour, []string{webID}, f)}
	}
	uris := func(uris ...string) [][]byte { return [][]byte{ca.leaf(t, key.Public(), time.Hour, uris, nil)} }
	long := uris(webID)
	for range 4 {
		long = append(long, newTestCA(t, ca).cert.Raw)
	}
	fat := change(func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("x", 17<<10) })
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		chain [][]byte
		want  error
		text  string
	}{
		{"expired", change(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), ErrUntrusted, "expired"},
		{"not yet valid", change(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), ErrUntrusted, "not yet valid"},
		{"foreign root", [][]byte{foreign.leaf(t, key.Public(), time.Hour, []string{webID}, nil)}, ErrUntrusted, "unknown authority"},
		{"foreign root sent along", [][]byte{foreign.leaf(t, key.Public(), time.Hour, []string{webID}, nil), foreign.cert.Raw}, ErrUntrusted, "unknown authority"},
		{"two ids", uris(webID, evilID), ErrBadCertificate, "2 URI names"},
		{"an id and a foreign URI", uris("https://example.org/", webID), ErrBadCertificate, "2 URI names"},
		{"no subject alternative name", uris(), ErrBadCertificate, "0 URI names"},
		{"a DNS name only", change(func(c *x509.Certificate) { c.ExtraExtensions = nil; c.DNSNames = []string{"web.shop"} }), ErrBadCertificate, "0 URI names"},
		{"unknown trust domain", uris("spiffe://other.org/ns/shop/sa/web"), ErrUnknownTrustDomain, "other.org"},
		{"trust domain below ours", uris("spiffe://sub.mesh/ns/shop/sa/web"), ErrUnknownTrustDomain, "sub.mesh"},
		{"percent", uris("spiffe://mesh/ns/shop/sa/we%62"), ErrBadCertificate, "malformed"},
		{"dot segments", uris("spiffe://mesh/ns/bank/../shop/sa/web"), ErrBadCertificate, "malformed"},
		{"upper-case scheme", uris("SPIFFE://mesh/ns/shop/sa/web"), ErrBadCertificate, "malformed"},
		{"empty fragment", uris(webID + "#"), ErrBadCertificate, "malformed"},
		{"trailing slash", uris(webID + "/"), ErrBadCertificate, "malformed"},
		{"a node", uris(nodeID), ErrUnexpectedPeer, "malformed workload identity"},
		{"CA as leaf", change(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), ErrBadCertificate, "is a CA"},
		{"key usage missing", change(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), ErrBadCertificate, "digitalSignature"},
		{"key usage too much", change(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }), ErrBadCertificate, "cRLSign"},
		{"usage of a server only", change(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), ErrBadCertificate, "extended key usage"},
		{"usage of a client only", change(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }), ErrBadCertificate, "extended key usage"},
		{"too many certificates", long, ErrBadCertificate, "5 certificates"},
		{"too many bytes", fat, ErrBadCertificate, "bytes of certificates"},
		{"P-224", [][]byte{ca.leaf(t, p224.Public(), time.Hour, []string{webID}, nil)}, ErrBadCertificate, "P-224"},
		{"RSA 1024", [][]byte{ca.leaf(t, weak.Public(), time.Hour, []string{webID}, nil)}, ErrBadCertificate, "1024 bits"},
	}
	keys := map[string]crypto.Signer{"RSA 1024": weak, "P-224": p224}
	server := ServerConfig(have(ca.svid(t, webID, time.Hour)), knows(ca.bundle(t, "mesh")))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			signer := keys[tt.name]
			if signer == nil {
				signer = key
			}
			if tt.name == "P-224" { // crypto/tls would not even send it
				refusedAs(t, server.VerifyConnection(tls.ConnectionState{Version: tls.VersionTLS13, NegotiatedProtocol: "h2", PeerCertificates: []*x509.Certificate{parseCert(t, tt.chain[0])}}), tt.want, tt.text)
				return
			}
			_, _, err, _ := handshake(t, server, presents(tt.chain, signer))
			refusedAs(t, err, tt.want, tt.text)
		})
	}
}

func refusedAs(t *testing.T, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Errorf("the server says %v, want %v with %q", err, want, text)
	}
	if err != nil && unprintable(err) {
		t.Errorf("the error is not printable: %q", err)
	}
}

func unprintable(err error) bool {
	return strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' })
}

// TestControlBytesInNames: crypto/x509 refuses such certificates; whoever prints its error must not be forged a line.
func TestControlBytesInNames(t *testing.T) {
	ca := newTestCA(t, nil)
	key := newKey(t)
	server := ServerConfig(have(ca.svid(t, webID, time.Hour)), knows(ca.bundle(t, "mesh")))
	for _, uri := range []string{"spiffe://mesh/ns/shop/sa/web\x00", "spiffe://mesh/ns/shop/sa/web\nlevel=INFO", "spiffe://mesh/ns/\x1b[2J/sa/web", "spiffe://mesh/ns/sh\xc3\xb6p/sa/web"} {
		der := ca.leaf(t, key.Public(), time.Hour, []string{uri}, nil)
		_, _, err, _ := handshake(t, server, presents([][]byte{der}, key))
		if err == nil || unprintable(err) {
			t.Errorf("%q: the server says %q", uri, err)
		}
		_, err = NewSVID([][]byte{der}, key)
		if !errors.Is(err, ErrBadCertificate) || unprintable(err) {
			t.Errorf("%q: NewSVID = %q", uri, err)
		}
	}
}

func TestOldTLSAndMissingCertificatesAreRefused(t *testing.T) {
	ca := newTestCA(t, nil)
	svid := ca.svid(t, webID, time.Hour)
	server := ServerConfig(have(svid), knows(ca.bundle(t, "mesh")))
	old := presents(svid.Raw(), svid.Key)
	old.MaxVersion = tls.VersionTLS12
	if _, _, err, _ := handshake(t, server, old); err == nil || !strings.Contains(err.Error(), "unsupported versions") {
		t.Errorf("a client of TLS 1.2: %v", err)
	}
	if _, _, err, _ := handshake(t, server, presents(nil, nil)); err == nil || !strings.Contains(err.Error(), "didn't provide a certificate") {
		t.Errorf("a client without a certificate: %v", err)
	}
	otherProtocol := presents(svid.Raw(), svid.Key)
	for _, protocols := range [][]string{{"http/1.1"}, {"spdy"}, nil} {
		otherProtocol.NextProtos = protocols
		if _, _, err, _ := handshake(t, server, otherProtocol); err == nil {
			t.Errorf("a client of protocols %q passes", protocols)
		}
	}
	noBundle := ServerConfig(have(svid), knows(nil))
	if _, _, err, _ := handshake(t, noBundle, presents(svid.Raw(), svid.Key)); !errors.Is(err, ErrUnknownTrustDomain) {
		t.Errorf("without a bundle: %v", err)
	}
}

// TestResumptionIsRefused: with tickets a client whose root was removed would come back without being verified.
func TestResumptionIsRefused(t *testing.T) {
	ca := newTestCA(t, nil)
	svid := ca.svid(t, webID, time.Hour)
	var bundle BundleStore
	bundle.Swap(ca.bundle(t, "mesh"))
	server := ServerConfig(have(svid), bundle.Load)
	client := presents(svid.Raw(), svid.Key)
	client.ClientSessionCache, client.ServerName = tls.NewLRUClientSessionCache(4), "web"
	for range 2 {
		s, c, serverErr, clientErr := handshake(t, server, client)
		if serverErr != nil || clientErr != nil {
			t.Fatal(serverErr, clientErr)
		}
		go s.Write([]byte("x")) // a ticket would come before it
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if s.ConnectionState().DidResume {
			t.Error("a session was resumed")
		}
	}
	bundle.Swap(newTestCA(t, nil).bundle(t, "mesh"))
	if _, _, err, _ := handshake(t, server, client); !errors.Is(err, ErrUntrusted) {
		t.Errorf("after its root was removed: %v", err)
	}
	err := server.VerifyConnection(tls.ConnectionState{Version: tls.VersionTLS13, DidResume: true, PeerCertificates: svid.Chain})
	if err == nil || !strings.Contains(err.Error(), "full TLS 1.3") {
		t.Errorf("a resumed session: %v", err)
	}
}

func TestNodesAndController(t *testing.T) {
	ca := newTestCA(t, nil)
	bundle := knows(ca.bundle(t, "mesh", "other.org"))
	controller := ControllerServerConfig(have(ca.svid(t, ControllerSPIFFE("mesh"), time.Hour)), bundle, "mesh")
	none := func() (*SVID, error) { return nil, ErrNoSVID }

	s, _, serverErr, clientErr := handshake(t, controller, NodeClientConfig(have(ca.svid(t, nodeID, time.Hour)), bundle, "mesh"))
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	if node, err := PeerNode(s.ConnectionState()); node != "n1" || err != nil {
		t.Errorf("PeerNode = %q, %v", node, err)
	}
	s, _, serverErr, clientErr = handshake(t, controller, NodeClientConfig(none, bundle, "mesh"))
	if serverErr != nil || clientErr != nil {
		t.Fatal("without a certificate, to attest:", serverErr, clientErr)
	}
	if _, err := PeerNode(s.ConnectionState()); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("PeerNode without a certificate = %v", err)
	}
	// A workload passes, as it may be a waypoint: who serves the call finds out.
	if _, _, err, _ := handshake(t, controller, NodeClientConfig(have(ca.svid(t, webID, time.Hour)), bundle, "mesh")); err != nil {
		t.Errorf("a workload calls the controller: %v", err)
	}
	for _, id := range []string{ControllerSPIFFE("mesh"), "spiffe://other.org/node/n1", "spiffe://other.org/ns/shop/sa/web"} {
		_, _, err, _ := handshake(t, controller, NodeClientConfig(have(ca.svid(t, id, time.Hour)), bundle, "mesh"))
		if !errors.Is(err, ErrUnexpectedPeer) {
			t.Errorf("%s calls the controller: %v", id, err)
		}
	}
	for _, id := range []string{webID, nodeID, "spiffe://other.org/controller"} {
		impostor := ControllerServerConfig(have(ca.svid(t, id, time.Hour)), bundle, "mesh")
		_, _, _, err := handshake(t, impostor, NodeClientConfig(none, bundle, "mesh"))
		if !errors.Is(err, ErrUnexpectedPeer) {
			t.Errorf("%s poses as the controller: %v", id, err)
		}
	}
	broken := errors.New("disk on fire")
	_, _, _, err := handshake(t, controller, NodeClientConfig(func() (*SVID, error) { return nil, broken }, bundle, "mesh"))
	if !errors.Is(err, broken) {
		t.Errorf("an SVID that cannot be had: %v", err)
	}
}

func TestHandshakeWithoutSVIDFails(t *testing.T) {
	ca := newTestCA(t, nil)
	bundle := knows(ca.bundle(t, "mesh"))
	svid := ca.svid(t, webID, time.Hour)
	none := func() (*SVID, error) { return nil, ErrNoSVID }
	if _, _, err, _ := handshake(t, ServerConfig(none, bundle), ClientConfig(have(svid), bundle, mustParse(t, webID))); !errors.Is(err, ErrNoSVID) {
		t.Errorf("the server's: %v", err)
	}
	if _, _, _, err := handshake(t, ServerConfig(have(svid), bundle), ClientConfig(none, bundle, mustParse(t, webID))); !errors.Is(err, ErrNoSVID) {
		t.Errorf("the client's: %v", err)
	}
}
