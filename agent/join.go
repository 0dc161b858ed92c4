package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/warren-mesh/warren/agent/feed"
	"github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/identity"
)

// nodeUID is the name under which the identity manager keeps the node's own SVID. No workload's UID has a slash.
const nodeUID = "node/self"

// signer asks the CA: for the node's own SVID by join token at first and by the SVID itself later, for workloads by
// the node's SVID.
type signer struct {
	cfg     Config
	certs   *identity.Manager
	bundle  identity.GetBundle
	node    identity.AgentID
	channel *grpc.ClientConn
}

// Sign implements identity.Signer.
func (s *signer) Sign(ctx context.Context, uid string, csr []byte) ([][]byte, error) {
	ca := cav1.NewCAClient(s.channel)
	if uid != nodeUID {
		reply, err := ca.SignWorkload(ctx, &cav1.SignWorkloadRequest{WorkloadUid: uid, Csr: csr})
		return reply.GetChain(), err
	}
	if _, err := s.certs.Current(s.node); err == nil {
		reply, err := ca.RenewNode(ctx, &cav1.RenewNodeRequest{Csr: csr})
		return reply.GetChain(), err
	}
	return s.attest(ctx, csr)
}

// attest proves to be the node by the join token, over a connection that presents no certificate.
func (s *signer) attest(ctx context.Context, csr []byte) ([][]byte, error) {
	if s.cfg.JoinTokenFile == "" {
		return nil, errors.New("this node has no SVID and no join token: make one with `controller token create --node " +
			s.cfg.Node + "` and give it by --join-token-file")
	}
	token, err := os.ReadFile(s.cfg.JoinTokenFile)
	if err != nil {
		return nil, fmt.Errorf("read join token: %w", err)
	}
	nobody := func() (*identity.SVID, error) { return nil, identity.ErrNoSVID }
	channel, err := dialController(s.cfg.Controller, identity.NodeClientConfig(nobody, s.bundle, s.cfg.TrustDomain))
	if err != nil {
		return nil, err
	}
	defer channel.Close()
	reply, err := cav1.NewCAClient(channel).AttestNode(ctx, &cav1.AttestNodeRequest{
		Node: s.cfg.Node, JoinToken: strings.TrimSpace(string(token)), Csr: csr,
	})
	if err != nil {
		return nil, fmt.Errorf("attest with join token %s: %w", s.cfg.JoinTokenFile, err)
	}
	return reply.Chain, nil
}

// dialController returns a channel to the controller. Nothing is dialled before the first call.
func dialController(address string, tls *tls.Config) (*grpc.ClientConn, error) {
	channel, err := grpc.NewClient("passthrough:///"+address, append(feed.DialOptions(), grpc.WithTransportCredentials(credentials.NewTLS(tls)))...)
	if err != nil {
		return nil, fmt.Errorf("controller address %q: %w", address, err)
	}
	return channel, nil
}

// asNode is how the node's own channel proves itself. A handshake waits for the first SVID: a connection that was made
// without one would stay without.
func (s *signer) asNode() *tls.Config {
	return identity.Client(func() (*identity.SVID, error) {
		ctx, cancel := context.WithTimeout(context.Background(), handshakeWait)
		defer cancel()
		return s.certs.Get(ctx, s.node)
	}, s.bundle, identity.AuthorizeController(s.cfg.TrustDomain))
}

// handshakeWait is shorter than what a channel gives a handshake.
const handshakeWait = 4 * time.Second

// certs is the identity manager as ztunnel sees it: an SVID that expired is refused at once, and said to be.
type certs struct {
	*identity.Manager
	bundles *identity.BundleStore
}

// Bundle returns the trust bundle in force.
func (c certs) Bundle() *identity.Bundle { return c.bundles.Load() }
