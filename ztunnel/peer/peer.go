// Package peer is what both ends of the mesh's tunnels, ztunnel and the waypoint, do about peers, and do alike: how much of
// something one may hold ([Gate]), which tunnels are up and which of them the trust bundle vouches for ([Tunnels]),
// until when a tunnel takes new streams ([Rounds]), and how long a peer's agent is waited for ([WhileAway]). It dials and accepts nothing, and knows no frame: the wire is ./hbone's.
package peer

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/identity"
)

// Addr returns a TCP address in the one form that is ever compared; of another kind of address it returns none.
func Addr(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Proof is what a peer proved itself by.
type Proof struct {
	chain []*x509.Certificate
	usage x509.ExtKeyUsage
}

// ProofOf returns the proof of a handshake that is over. The usage is that of the peer's certificate: a server's if this
// end dialled.
func ProofOf(c *tls.Conn, usage x509.ExtKeyUsage) Proof {
	return Proof{c.ConnectionState().PeerCertificates, usage}
}

// Leaf is the peer's own certificate.
func (p Proof) Leaf() *x509.Certificate { return p.chain[0] }

// vouched returns nil if a bundle vouches for the peer. A certificate that has expired since the handshake is judged as of
// its last moment: that it expired is no reason to end what was open, and none to let a removed root's peer go on.
func (p Proof) vouched(b *identity.Bundle, now time.Time) error {
	if end := p.Leaf().NotAfter; now.After(end) {
		now = end
	}
	_, err := identity.VerifyChain(p.chain, b, p.usage, now)
	return err
}
