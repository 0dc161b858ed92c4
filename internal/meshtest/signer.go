package meshtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
)

// signer issues by the test's own authority.
type signer struct{ m *Mesh }

func (s signer) Sign(_ context.Context, uid string, csr []byte) ([][]byte, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	w := s.m.World.Load().Mesh.Workload(mesh.UID(uid))
	if w == nil {
		return nil, fmt.Errorf("no workload %q", uid)
	}
	id, err := identity.New(w.TrustDomain, w.Namespace, w.ServiceAccount)
	if err != nil {
		return nil, err
	}
	return s.m.Authority.IssueWorkload(id, req.PublicKey.(crypto.PublicKey), time.Hour)
}

// SVID issues an SVID to whoever wants to play a peer.
func (m *Mesh) SVID(id identity.ID, ttl time.Duration) *identity.SVID {
	m.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.tb.Fatal(err)
	}
	chain, err := m.Authority.IssueWorkload(id, &key.PublicKey, ttl)
	if err != nil {
		m.tb.Fatal(err)
	}
	svid, err := identity.NewSVID(chain, key)
	if err != nil {
		m.tb.Fatal(err)
	}
	return svid
}
