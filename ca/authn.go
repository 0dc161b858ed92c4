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
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	cav1 "github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/identity"
)

// Authenticator tells who calls, for every service that nodes and waypoints call over [identity.ControllerServerConfig].
// All fields but Directory must be set.
type Authenticator struct {
	TrustDomain string
	Bundle      identity.GetBundle
	Clock       func() time.Time
	// Directory knows which workloads are waypoints; nil knows none.
	Directory Directory
}

// WorkloadHeader is the metadata in which a waypoint says which pod it is: its certificate gives its service account.
const WorkloadHeader = "warren-workload-uid"

// refused is the only answer to whoever may not do what it asked: why is for the log.
func refused() error { return status.Error(codes.PermissionDenied, "not allowed") }

// Node returns the name of the calling node. The certificate was verified when the connection was made; here it is
// verified again, because connections outlive certificates and roots.
func (a *Authenticator) Node(ctx context.Context) (string, error) {
	uri, err := a.peer(ctx)
	if err != nil {
		return "", err
	}
	return a.node(uri)
}

func (a *Authenticator) node(uri string) (string, error) {
	td, node, err := identity.ParseNode(uri)
	if err != nil {
		return "", err
	}
	if td != a.TrustDomain {
		return "", fmt.Errorf("%w: %q is not of trust domain %q", identity.ErrUnexpectedPeer, uri, a.TrustDomain)
	}
	return node, nil
}

// Caller returns the name of the calling node, or "waypoint:<namespace>/<pod>", which no node has.
func (a *Authenticator) Caller(ctx context.Context) (string, error) {
	uri, err := a.peer(ctx)
	if err != nil {
		return "", err
	}
	if id, err := identity.Parse(uri); err == nil {
		record, _, err := a.waypoint(ctx, id)
		return WaypointCaller + record.Name, err
	}
	return a.node(uri)
}

// WaypointCaller begins the names of callers that are waypoints.
const WaypointCaller = "waypoint:"

// waypoint returns the record of the waypoint that calls, and its uid: the pod that it says it is, if that pod is a
// waypoint and has the identity that the certificate proves.
func (a *Authenticator) waypoint(ctx context.Context, id identity.ID) (Record, string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	said := md.Get(WorkloadHeader)
	if len(said) != 1 || a.Directory == nil {
		return Record{}, "", fmt.Errorf("%w: %s does not say which pod it is", identity.ErrUnexpectedPeer, id)
	}
	record, ok := a.Directory.Workload(said[0])
	if !ok || !record.Waypoint || record.ID != id {
		return Record{}, "", fmt.Errorf("%w: %s is no waypoint with uid %.64q", identity.ErrUnexpectedPeer, id, said[0])
	}
	return record, said[0], nil
}

// peer returns the SPIFFE id of the caller's certificate.
func (a *Authenticator) peer(ctx context.Context) (string, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", errors.New("the call has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", errors.New("the connection is not TLS")
	}
	return identity.VerifyChain(info.State.PeerCertificates, a.Bundle(), x509.ExtKeyUsageClientAuth, a.Clock())
}

// Unary refuses every call without a node's certificate, and gives the others their caller's name: see [NodeFromContext].
// What attests passes without one, and SignWorkload with a waypoint's too.
func (a *Authenticator) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		switch info.FullMethod {
		case cav1.CA_AttestNode_FullMethodName, cav1.CA_AttestWaypoint_FullMethodName:
			return next(ctx, req)
		case cav1.CA_SignWorkload_FullMethodName:
			if _, err := a.Caller(ctx); err != nil {
				return nil, refused()
			}
			return next(ctx, req) // which asks again, and for whom
		}
		node, err := a.Node(ctx)
		if err != nil {
			return nil, refused()
		}
		return next(context.WithValue(ctx, nodeKey{}, node), req)
	}
}

// Stream is Unary for streams; no stream may be opened but by a node or a waypoint.
func (a *Authenticator) Stream() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		caller, err := a.Caller(stream.Context())
		if err != nil {
			return refused()
		}
		return next(srv, &nodeStream{stream, context.WithValue(stream.Context(), nodeKey{}, caller)})
	}
}

type nodeKey struct{}

type nodeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *nodeStream) Context() context.Context { return s.ctx }

// NodeFromContext returns the name of the calling node, or what Caller calls a waypoint, inside a call that an Authenticator let pass.
func NodeFromContext(ctx context.Context) (node string, ok bool) {
	node, ok = ctx.Value(nodeKey{}).(string)
	return node, ok
}
