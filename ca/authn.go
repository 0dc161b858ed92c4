package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	cav1 "github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/identity"
)

// Authenticator tells which node calls, for every service that nodes call over [identity.ControllerServerConfig].
// All fields must be set.
type Authenticator struct {
	TrustDomain string
	Bundle      identity.GetBundle
	Clock       func() time.Time
}

// refused is the only answer to whoever may not do what it asked: why is for the log.
func refused() error { return status.Error(codes.PermissionDenied, "not allowed") }

// Node returns the name of the calling node. The certificate was verified when the connection was made; here it is
// verified again, because connections outlive certificates and roots.
func (a *Authenticator) Node(ctx context.Context) (string, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", errors.New("the call has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", errors.New("the connection is not TLS")
	}
	uri, err := identity.VerifyChain(info.State.PeerCertificates, a.Bundle(), x509.ExtKeyUsageClientAuth, a.Clock())
	if err != nil {
		return "", err
	}
	td, node, err := identity.ParseNode(uri)
	if err != nil {
		return "", err
	}
	if td != a.TrustDomain {
		return "", fmt.Errorf("%w: %q is not of trust domain %q", identity.ErrUnexpectedPeer, uri, a.TrustDomain)
	}
	return node, nil
}

// Unary refuses every call without a node's certificate, but AttestNode, and gives the others their caller's name:
// see [NodeFromContext].
func (a *Authenticator) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if info.FullMethod == cav1.CA_AttestNode_FullMethodName {
			return next(ctx, req)
		}
		node, err := a.Node(ctx)
		if err != nil {
			return nil, refused()
		}
		return next(context.WithValue(ctx, nodeKey{}, node), req)
	}
}

// Stream is Unary for streams; no stream may be opened without a certificate.
func (a *Authenticator) Stream() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		node, err := a.Node(stream.Context())
		if err != nil {
			return refused()
		}
		return next(srv, &nodeStream{stream, context.WithValue(stream.Context(), nodeKey{}, node)})
	}
}

type nodeKey struct{}

type nodeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *nodeStream) Context() context.Context { return s.ctx }

// NodeFromContext returns the name of the calling node inside a call that an Authenticator let pass.
func NodeFromContext(ctx context.Context) (node string, ok bool) {
	node, ok = ctx.Value(nodeKey{}).(string)
	return node, ok
}
