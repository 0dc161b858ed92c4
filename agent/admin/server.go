// Package admin answers agentctl for this node, on a unix socket that only root opens, and through the relay for the
// controller. The same socket takes a CNI plug-in's word on pods that come and go.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/agent/enroll"
	"github.com/warren-mesh/warren/agent/feed"
	"github.com/warren-mesh/warren/agent/observe"
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/internal/meshview"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel"
)

// Config is what the server shows. All fields are required.
type Config struct {
	Node     string
	NodeID   string // the node's SPIFFE id
	Version  string
	Started  time.Time
	World    *mesh.Store[ztunnel.World]
	Bundle   identity.GetBundle
	Feed     *feed.Client
	Certs    *identity.Manager
	Enroller *enroll.Enroller
	Proxy    *ztunnel.Proxy
	Observer *observe.Observer
	Capture  *bpf.Capture
	// HostProblems are what is wrong on the node beside pods.
	HostProblems func() []*adminv1.Problem
}

// Server implements the Admin and Pods services.
type Server struct {
	adminv1.UnimplementedAdminServer
	adminv1.UnimplementedPodsServer
	cfg Config
}

// New returns a server that shows cfg.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Listen opens the unix socket, mode 0600, in place of one that a dead agent left.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make socket's directory: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("socket %s: another agent serves it", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove dead socket: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protect admin socket: %w", err)
	}
	return rootOnly{l}, nil
}

// rootOnly drops peers that are neither root nor ourselves: the mode of a socket file can be changed by mistake.
type rootOnly struct{ net.Listener }

func (l rootOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || allowed(c.(*net.UnixConn)) {
			return c, err
		}
		c.Close()
	}
}

func allowed(c *net.UnixConn) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	if cerr := rc.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil || err != nil {
		return false
	}
	return cred.Uid == 0 || int(cred.Uid) == os.Geteuid()
}

// Serve serves both services until ctx ends.
func Serve(ctx context.Context, l net.Listener, s *Server) error {
	srv := grpc.NewServer(grpc.MaxConcurrentStreams(64), grpc.ConnectionTimeout(5*time.Second))
	adminv1.RegisterAdminServer(srv, s)
	adminv1.RegisterPodsServer(srv, s)
	stop := context.AfterFunc(ctx, srv.Stop)
	defer stop()
	if err := srv.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve admin socket: %w", err)
	}
	return nil
}

// Add implements Pods.
func (s *Server) Add(ctx context.Context, q *adminv1.AddPodRequest) (*adminv1.AddPodReply, error) {
	for field, value := range map[string]string{"uid": q.Uid, "namespace": q.Namespace, "name": q.Name, "netns": q.Netns} {
		if value == "" || len(value) > 512 {
			return nil, status.Errorf(codes.InvalidArgument, "%s: it must have 1 to 512 bytes, not %d", field, len(value))
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, status.Errorf(codes.InvalidArgument, "%s: %q has other characters than printable ASCII", field, value)
		}
	}
	if strings.Contains(q.Uid, "/") { // the agent's own entries have one
		return nil, status.Errorf(codes.InvalidArgument, "uid: %q has a slash, which no UID has", q.Uid)
	}
	if !filepath.IsAbs(q.Netns) {
		return nil, status.Errorf(codes.InvalidArgument, "netns: %q is not an absolute path", q.Netns)
	}
	state, err := s.cfg.Enroller.Add(ctx, enroll.Registration{
		UID: mesh.UID(q.Uid), Namespace: q.Namespace, Name: q.Name, Netns: q.Netns,
	})
	if errors.Is(err, enroll.ErrUnknownPod) {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &adminv1.AddPodReply{State: string(state)}, nil
}

// Remove implements Pods.
func (s *Server) Remove(_ context.Context, q *adminv1.RemovePodRequest) (*adminv1.RemovePodReply, error) {
	if err := s.cfg.Enroller.Remove(mesh.UID(q.Uid), q.Netns); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &adminv1.RemovePodReply{}, nil
}

// Workloads implements Admin.
func (s *Server) Workloads(_ context.Context, q *adminv1.ListRequest) (*adminv1.WorkloadsReply, error) {
	return meshview.Workloads(s.cfg.World.Load().Mesh, q.Namespace), nil
}

// Services implements Admin.
func (s *Server) Services(_ context.Context, q *adminv1.ListRequest) (*adminv1.ServicesReply, error) {
	return meshview.Services(s.cfg.World.Load().Mesh, q.Namespace), nil
}

// Policies implements Admin. Only policies of this node's workloads are here.
func (s *Server) Policies(_ context.Context, q *adminv1.ListRequest) (*adminv1.PoliciesReply, error) {
	w := s.cfg.World.Load()
	reply := meshview.Policies(w.Mesh, w.Policies, q.Namespace)
	for _, p := range reply.Policies {
		p.Enforced, p.Wanted = 1, 1
	}
	return reply, nil
}

// Authz implements Admin. Returns FailedPrecondition for a workload of another node, whose policies this one does not
// have.
func (s *Server) Authz(_ context.Context, q *adminv1.AuthzRequest) (*adminv1.AuthzReply, error) {
	w := s.cfg.World.Load()
	if to := w.Mesh.WorkloadNamed(q.To); to != nil && to.Enrolled && to.Node != s.cfg.Node {
		return nil, status.Errorf(codes.FailedPrecondition, "to: %s is on node %s, and node %s does not have its policies: "+
			"ask the controller, or the agent of %s", q.To, to.Node, s.cfg.Node, to.Node)
	}
	return meshview.Authz(w.Mesh, w.Policies, q)
}

// Certs implements Admin.
func (s *Server) Certs(context.Context, *adminv1.ListRequest) (*adminv1.CertsReply, error) {
	out := &adminv1.CertsReply{}
	bundle, now := s.cfg.Bundle(), time.Now()
	for _, c := range s.cfg.Certs.Snapshot() {
		info := &adminv1.CertInfo{
			Node: s.cfg.Node, SpiffeId: c.ID, Serial: c.Serial, State: c.State, Error: c.Err, Root: c.Root(bundle, now), RenewAtUnix: unixOf(c.RenewAt),
			NotBeforeUnix: unixOf(c.NotBefore), NotAfterUnix: unixOf(c.NotAfter),
		}
		for _, uid := range c.UIDs {
			if w := s.cfg.World.Load().Mesh.Workload(mesh.UID(uid)); w != nil {
				info.Workloads = append(info.Workloads, w.FullName())
			}
		}
		out.Certs = append(out.Certs, info)
	}
	for _, td := range bundle.TrustDomains() {
		info := &adminv1.BundleInfo{Node: s.cfg.Node, TrustDomain: td}
		for _, root := range bundle.Roots(td) {
			info.Fingerprints = append(info.Fingerprints, identity.Fingerprint(root))
			info.NotAfterUnix = append(info.NotAfterUnix, root.NotAfter.Unix())
		}
		out.Bundles = append(out.Bundles, info)
	}
	return out, nil
}

// Renew implements Admin.
func (s *Server) Renew(_ context.Context, q *adminv1.RenewRequest) (*adminv1.RenewReply, error) {
	if q.GetRoot() == "" {
		return nil, status.Error(codes.InvalidArgument, "root: it must be the SHA-256 of a root")
	}
	return &adminv1.RenewReply{Due: uint32(s.cfg.Certs.RenewUnless(q.GetRoot()))}, nil
}

// unixOf is a time in Unix seconds, 0 for none.
func unixOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
