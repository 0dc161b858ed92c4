package controller

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/controller/publish"
	"github.com/warren-mesh/warren/identity"
)

const (
	// maxFromAgent bounds one message of an agent: an answer that lists everything it has.
	maxFromAgent = 16 << 20
	// maxConnectionAge makes agents connect anew, and so show a certificate that is still good.
	maxConnectionAge = time.Hour
)

// newAgentServer returns the server that agents call: mutual TLS 1.3, and only the methods of allowed.
func newAgentServer(self *selfSigner, authority *ca.Authority, auth *ca.Authenticator, log *slog.Logger) (*grpc.Server, error) {
	codec, err := publish.Codec()
	if err != nil {
		return nil, err
	}
	config := identity.ControllerServerConfig(self.current, authority.Bundle, authority.TrustDomain())
	return grpc.NewServer(
		grpc.Creds(credentials.NewTLS(config)),
		grpc.ForceServerCodecV2(codec),
		grpc.MaxRecvMsgSize(maxFromAgent),
		grpc.MaxConcurrentStreams(64),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 10 * time.Second, Timeout: 5 * time.Second,
			MaxConnectionAge: maxConnectionAge, MaxConnectionAgeGrace: 30 * time.Second,
		}),
		grpc.ChainUnaryInterceptor(recoverUnary(log), allowUnary, auth.Unary()),
		grpc.ChainStreamInterceptor(recoverStream(log), allowStream, auth.Stream()),
	), nil
}

// allowed tells whether agents may call a method at all. A method that is not named here is refused, however the
// name is written: a server that allows by default can be passed by a path that its rules do not match, as in
// CVE-2026-33186. Who may call is the Authenticator's business.
func allowed(method string) bool {
	switch method {
	case cav1.CA_AttestNode_FullMethodName, cav1.CA_AttestWaypoint_FullMethodName, cav1.CA_RenewNode_FullMethodName, cav1.CA_SignWorkload_FullMethodName,
		meshv1.Mesh_Watch_FullMethodName, adminv1.Relay_Connect_FullMethodName, adminv1.Reports_Pods_FullMethodName:
		return true
	}
	return false
}

func allowUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if !allowed(info.FullMethod) {
		return nil, status.Error(codes.PermissionDenied, "not allowed")
	}
	return next(ctx, req)
}

func allowStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if !allowed(info.FullMethod) {
		return status.Error(codes.PermissionDenied, "not allowed")
	}
	return next(srv, stream)
}

// recoverUnary keeps one caller's call from taking the controller down for all.
func recoverUnary(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
		defer recovered(log, info.FullMethod, &err)
		return next(ctx, req)
	}
}

func recoverStream(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
		defer recovered(log, info.FullMethod, &err)
		return next(srv, stream)
	}
}

func recovered(log *slog.Logger, method string, err *error) {
	if r := recover(); r != nil {
		log.Error("a call panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error")
	}
}
