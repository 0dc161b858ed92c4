package waypoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/warren-mesh/warren/agent/feed"
	"github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/identity"
)

// uidHeader says which pod calls: the certificate gives its service account only.
const uidHeader = "warren-workload-uid"

// identities sets up who the waypoint is and how it comes by its SVID.
func (w *Waypoint) identities() (err error) {
	if w.id, err = identity.New(w.cfg.TrustDomain, w.cfg.Namespace, w.cfg.ServiceAccount); err != nil {
		return fmt.Errorf("--namespace, --service-account or --trust-domain: %w", err)
	}
	file := identity.NewRootsFile(w.cfg.TrustBundle, w.cfg.TrustDomain)
	bundle, err := file.Read()
	if err != nil {
		return err
	}
	w.bundles.Swap(bundle)
	w.roots = func() *identity.Bundle { return file.With(w.bundles.Load()) }
	var cache *identity.Cache
	if w.cfg.StateDir != "" {
		if cache, err = identity.OpenCache(filepath.Join(w.cfg.StateDir, "svids"), time.Now(), w.cfg.Log); err != nil {
			return err
		}
	}
	s := &signer{w: w}
	w.manager, err = identity.NewManager(identity.ManagerConfig{Signer: s, Bundle: w.roots, Cache: cache, Log: w.cfg.Log})
	if err != nil {
		return err
	}
	w.channel, err = w.dialController(identity.Client(func() (*identity.SVID, error) {
		ctx, cancel := context.WithTimeout(context.Background(), handshakeWait)
		defer cancel()
		return w.manager.Get(ctx, w.id)
	}, w.roots, identity.AuthorizeController(w.cfg.TrustDomain)))
	s.channel = w.channel
	w.manager.Want(w.cfg.UID, w.id)
	return err
}

// handshakeWait is shorter than what a channel gives a handshake.
const handshakeWait = 4 * time.Second

// signer asks the CA: by a proof at first, by the SVID itself later.
type signer struct {
	w       *Waypoint
	channel *grpc.ClientConn
}

// Sign implements identity.Signer.
func (s *signer) Sign(ctx context.Context, uid string, csr []byte) ([][]byte, error) {
	if _, err := s.w.manager.Current(s.w.id); err == nil {
		reply, err := cav1.NewCAClient(s.channel).SignWorkload(ctx, &cav1.SignWorkloadRequest{WorkloadUid: uid, Csr: csr})
		return reply.GetChain(), err
	}
	return s.attest(ctx, uid, csr)
}

// attest proves who this pod is over a connection that presents no certificate.
func (s *signer) attest(ctx context.Context, uid string, csr []byte) ([][]byte, error) {
	proof, err := os.ReadFile(s.w.cfg.ProofFile)
	if err != nil {
		return nil, fmt.Errorf("read the proof of who this pod is: %w", err)
	}
	nobody := func() (*identity.SVID, error) { return nil, identity.ErrNoSVID }
	channel, err := s.w.dialController(identity.NodeClientConfig(nobody, s.w.roots, s.w.cfg.TrustDomain))
	if err != nil {
		return nil, err
	}
	defer channel.Close()
	reply, err := cav1.NewCAClient(channel).AttestWaypoint(ctx, &cav1.AttestWaypointRequest{
		WorkloadUid: uid, Proof: strings.TrimSpace(string(proof)), Csr: csr,
	})
	if err != nil {
		return nil, fmt.Errorf("prove to be pod %s/%s by %s: %w", s.w.cfg.Namespace, s.w.cfg.Pod, s.w.cfg.ProofFile, err)
	}
	if got, want := reply.GetSpiffeId(), s.w.id.String(); got != want {
		return nil, fmt.Errorf("the CA says that this pod is %s, and it was started as %s", got, want)
	}
	return reply.GetChain(), nil
}

// dialController returns a channel to the controller, whose calls say which pod makes them. Nothing is dialled before
// the first.
func (w *Waypoint) dialController(config *tls.Config) (*grpc.ClientConn, error) {
	if w.cfg.Controller == "" {
		return nil, errors.New("--controller is required")
	}
	said := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, uidHeader, w.cfg.UID)
	}
	options := append(feed.DialOptions(), grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(said(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return open(said(ctx), desc, cc, method, opts...)
		}))
	channel, err := grpc.NewClient("passthrough:///"+w.cfg.Controller, options...)
	if err != nil {
		return nil, fmt.Errorf("controller address %q: %w", w.cfg.Controller, err)
	}
	return channel, nil
}
