package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// protocol is HTTP/2's, in ALPN (RFC 9113, section 3.2).
const protocol = "h2"

// GetSVID returns the SVID to present now. It must not block for long: a handshake waits for it.
type GetSVID = func() (*SVID, error)

// GetBundle returns the bundle to verify against now; it may be nil.
type GetBundle = func() *Bundle

// AuthorizeFunc says whether a peer whose certificate is authentic may go on; peer is its SPIFFE id.
// Its error should wrap ErrUnexpectedPeer.
type AuthorizeFunc func(peer string) error

// ServerConfig is for the server's side of a tunnel between workloads. Any workload with an authentic certificate may
// connect: what it may reach is policy's to say. SVID and bundle are asked at every handshake.
func ServerConfig(get GetSVID, bundle GetBundle) *tls.Config {
	return Server(get, bundle, AuthorizeWorkloads())
}

// ClientConfig is for the client's side of a tunnel between workloads; the server must be expect.
func ClientConfig(get GetSVID, bundle GetBundle, expect ID) *tls.Config {
	return Client(get, bundle, AuthorizeID(expect))
}

// NodeClientConfig is for an agent that calls the controller of its trust domain. While get returns an error that
// wraps ErrNoSVID, no certificate is presented, with which only attesting is possible.
func NodeClientConfig(get GetSVID, bundle GetBundle, trustDomain string) *tls.Config {
	config := Client(get, bundle, AuthorizeController(trustDomain))
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		svid, err := get()
		if errors.Is(err, ErrNoSVID) {
			return &tls.Certificate{}, nil
		}
		if err != nil {
			return nil, err
		}
		return svid.tls, nil
	}
	return config
}

// ControllerServerConfig is for the controller, which nodes and waypoints of its trust domain call. A caller without a
// certificate passes the handshake, so that it can attest: what serves the calls must refuse it everything else. A caller
// with a certificate must have an authentic one of a node or of a workload: what serves the calls must refuse it
// everything unless that workload is a waypoint.
func ControllerServerConfig(get GetSVID, bundle GetBundle, trustDomain string) *tls.Config {
	config := Server(get, bundle, authorizeCallers(trustDomain))
	verify := config.VerifyConnection
	config.ClientAuth = tls.RequestClientCert
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return checkSession(state)
		}
		return verify(state)
	}
	return config
}

// Server returns the configuration of a server whose clients must have an authentic certificate and pass authorize.
func Server(get GetSVID, bundle GetBundle, authorize AuthorizeFunc) *tls.Config {
	config := base(bundle, x509.ExtKeyUsageClientAuth, authorize)
	config.ClientAuth = tls.RequireAnyClientCert // verified in VerifyConnection
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		svid, err := get()
		if err != nil {
			return nil, err
		}
		return svid.tls, nil
	}
	return config
}

// Client returns the configuration of a client whose server must have an authentic certificate and pass authorize.
func Client(get GetSVID, bundle GetBundle, authorize AuthorizeFunc) *tls.Config {
	config := base(bundle, x509.ExtKeyUsageServerAuth, authorize)
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		svid, err := get()
		if err != nil {
			return nil, err
		}
		return svid.tls, nil
	}
	return config
}

// base verifies in VerifyConnection, which runs at every handshake; VerifyPeerCertificate is not called when a session
// is resumed, and so would miss a root that was removed. Tickets are off for the same reason. CurvePreferences stay
// Go's, which offer X25519MLKEM768 first and work in FIPS mode.
func base(bundle GetBundle, usage x509.ExtKeyUsage, authorize AuthorizeFunc) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{protocol},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // tunnels live long: full records from the start
		InsecureSkipVerify:          true, // host names mean nothing here: VerifyConnection checks the SPIFFE id
		VerifyConnection: func(state tls.ConnectionState) error {
			if err := checkSession(state); err != nil {
				return err
			}
			peer, err := VerifyChain(state.PeerCertificates, bundle(), usage, time.Now())
			if err != nil {
				return fmt.Errorf("peer: %w", err)
			}
			return authorize(peer)
		},
	}
}

func checkSession(state tls.ConnectionState) error {
	if state.DidResume || state.Version < tls.VersionTLS13 {
		return errors.New("peer: only full TLS 1.3 handshakes are accepted")
	}
	// For old HTTP servers' sake crypto/tls lets a client pass that offers http/1.1 alone, or no protocol.
	if state.NegotiatedProtocol != protocol {
		return fmt.Errorf("peer: it does not speak %s but %q", protocol, state.NegotiatedProtocol)
	}
	return nil
}

// PeerID returns the workload at the other end of a connection that one of this package's configurations verified.
// Returns an error that wraps ErrNoCertificate, ErrBadCertificate or ErrMalformed.
func PeerID(state tls.ConnectionState) (ID, error) {
	uri, err := checkLeaf(state.PeerCertificates)
	if err != nil {
		return ID{}, err
	}
	return Parse(uri)
}

// PeerNode returns the name of the node at the other end of a connection, like PeerID.
// Returns an error that wraps ErrNoCertificate, ErrBadCertificate or ErrMalformed.
func PeerNode(state tls.ConnectionState) (node string, err error) {
	uri, err := checkLeaf(state.PeerCertificates)
	if err != nil {
		return "", err
	}
	_, node, err = ParseNode(uri)
	return node, err
}

// AuthorizeWorkloads lets every workload pass, of any trust domain that is known.
func AuthorizeWorkloads() AuthorizeFunc {
	return func(peer string) error {
		if _, err := Parse(peer); err != nil {
			return fmt.Errorf("%w: %w", ErrUnexpectedPeer, err)
		}
		return nil
	}
}

// AuthorizeID lets one workload pass. The zero ID lets none.
func AuthorizeID(expect ID) AuthorizeFunc { return authorizeExactly(expect.String()) }

// AuthorizeController lets the controller of a trust domain pass.
func AuthorizeController(trustDomain string) AuthorizeFunc {
	return authorizeExactly(ControllerSPIFFE(trustDomain))
}

// AuthorizeNodes lets the nodes of a trust domain pass.
func AuthorizeNodes(trustDomain string) AuthorizeFunc {
	return func(peer string) error {
		td, _, err := ParseNode(peer)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnexpectedPeer, err)
		}
		if td != trustDomain {
			return fmt.Errorf("%w: it is %q, not a node of trust domain %q", ErrUnexpectedPeer, peer, trustDomain)
		}
		return nil
	}
}

// authorizeCallers lets nodes and workloads of a trust domain pass.
func authorizeCallers(trustDomain string) AuthorizeFunc {
	nodes := AuthorizeNodes(trustDomain)
	return func(peer string) error {
		if id, err := Parse(peer); err == nil && id.TrustDomain() == trustDomain {
			return nil
		}
		return nodes(peer)
	}
}

func authorizeExactly(expect string) AuthorizeFunc {
	return func(peer string) error {
		if peer == "" || peer != expect {
			return fmt.Errorf("%w: it is %q, not %q", ErrUnexpectedPeer, peer, expect)
		}
		return nil
	}
}
