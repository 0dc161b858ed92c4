package ca

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	cav1 "github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/ca/attest"
	"github.com/warren-mesh/warren/identity"
)

// Record is what the controller knows about a workload.
type Record struct {
	Node     string
	Name     string // "<namespace>/<name>"
	ID       identity.ID
	Enrolled bool
	// Waypoint is true for a pod that is one: it asks for its own SVID, and for its configuration.
	Waypoint bool
}

// Directory is the controller's record of the workloads that run now.
type Directory interface {
	// Workload returns a workload's record. A pod that has ended must not be there any more.
	Workload(uid string) (Record, bool)
}

// ServerConfig is what a Server needs. All fields down to Registerer must be set.
type ServerConfig struct {
	Authority  *Authority
	Attestor   attest.NodeAttestor
	Directory  Directory
	Log        *slog.Logger
	Registerer prometheus.Registerer

	// Waypoints decides who is a waypoint's pod; nil lets nobody be.
	Waypoints attest.WaypointAttestor
	// NodeAllowed says whether a node may still renew; nil lets all. Refusing is how a node is put out of the mesh: its
	// certificate then ends within its life.
	NodeAllowed func(node string) bool
	// Rate and Burst limit the issuances of one node, a second and at once: 20 and 500 by default. A node that starts
	// asks once for each of its identities.
	Rate  float64
	Burst int
	Clock func() time.Time // time.Now by default
}

// Limits that are not worth a setting.
const (
	maxNodes       = 10_000 // that the limiter remembers
	attestRate     = 1      // a second, from one address
	attestBurst    = 20
	maxNameBytes   = 253
	maxProofBytes  = 16 << 10
	kindNode       = "node"
	kindWorkload   = "workload"
	kindAttestNode = "attest"
	kindWaypoint   = "attest_waypoint"
)

// Server implements cav1.CAServer. It must be served with identity.ControllerServerConfig.
type Server struct {
	cav1.UnimplementedCAServer

	config   ServerConfig
	auth     *Authenticator
	nodes    *limiter // by node
	attempts *limiter // to attest, by address: the caller is nobody yet
	issued   *prometheus.CounterVec
	refused  *prometheus.CounterVec
}

// NewServer returns the service; it registers its metrics.
func NewServer(config ServerConfig) (*Server, error) {
	if config.Authority == nil || config.Attestor == nil || config.Directory == nil || config.Log == nil || config.Registerer == nil {
		return nil, errors.New("CA server: Authority, Attestor, Directory, Log and Registerer must be set")
	}
	if config.Rate <= 0 {
		config.Rate = 20
	}
	if config.Burst <= 0 {
		config.Burst = 500
	}
	if config.Clock == nil {
		config.Clock = time.Now
	}
	s := &Server{config: config}
	s.auth = &Authenticator{TrustDomain: config.Authority.TrustDomain(), Bundle: config.Authority.Bundle, Clock: config.Clock, Directory: config.Directory}
	s.nodes = newLimiter(config.Rate, config.Burst, maxNodes, config.Clock)
	s.attempts = newLimiter(attestRate, attestBurst, maxNodes, config.Clock)
	s.issued = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_ca_issued_total", Help: "Certificates signed."}, []string{"kind"})
	s.refused = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_ca_refused_total", Help: "Requests refused."}, []string{"kind", "reason"})
	for _, c := range []prometheus.Collector{s.issued, s.refused} {
		if err := config.Registerer.Register(c); err != nil {
			return nil, fmt.Errorf("CA server: %w", err)
		}
	}
	return s, nil
}

// Authenticator returns the one that the server uses, for the interceptors of the services beside it.
func (s *Server) Authenticator() *Authenticator { return s.auth }

// AttestNode implements cav1.CAServer. The request is checked before the proof, which is good once only.
func (s *Server) AttestNode(ctx context.Context, req *cav1.AttestNodeRequest) (*cav1.SVID, error) {
	c := call{s, kindAttestNode, clip(req.GetNode()), ""}
	if !s.attempts.allow(remoteHost(ctx)) {
		return nil, c.limited()
	}
	if err := identity.CheckNodeName(req.GetNode()); err != nil {
		return nil, c.deny("malformed", errors.New("that is no node's name"))
	}
	pub, err := ParseRequest(req.GetCsr())
	if err != nil {
		return nil, c.badRequest(err)
	}
	if len(req.GetJoinToken()) > maxProofBytes {
		return nil, c.deny("attestation", errors.New("the proof is too long"))
	}
	err = s.config.Attestor.Attest(ctx, req.GetNode(), req.GetJoinToken())
	switch {
	case errors.Is(err, attest.ErrRefused):
		return nil, c.deny("attestation", err)
	case err != nil:
		return nil, c.unavailable(err)
	}
	return c.sign(identity.NodeSPIFFE(s.auth.TrustDomain, req.GetNode()), func() ([][]byte, error) {
		return s.config.Authority.IssueNode(req.GetNode(), crypto.PublicKey(pub), 0)
	})
}

// AttestWaypoint implements cav1.CAServer. The identity is the record's, which must be a waypoint's.
func (s *Server) AttestWaypoint(ctx context.Context, req *cav1.AttestWaypointRequest) (*cav1.SVID, error) {
	uid := req.GetWorkloadUid()
	c := call{s, kindWaypoint, "", clip(uid)}
	if !s.attempts.allow(remoteHost(ctx)) {
		return nil, c.limited()
	}
	record, ok := s.config.Directory.Workload(uid)
	if !ok || !record.Waypoint || s.config.Waypoints == nil {
		return nil, c.deny("not_a_waypoint", errors.New("no waypoint's pod has this uid"))
	}
	pub, err := ParseRequest(req.GetCsr())
	if err != nil {
		return nil, c.badRequest(err)
	}
	if len(req.GetProof()) > maxProofBytes {
		return nil, c.deny("attestation", errors.New("the proof is too long"))
	}
	_, name, _ := strings.Cut(record.Name, "/")
	err = s.config.Waypoints.AttestWaypoint(ctx, attest.Workload{
		UID: uid, Namespace: record.ID.Namespace(), Name: name, ServiceAccount: record.ID.ServiceAccount(),
	}, req.GetProof())
	switch {
	case errors.Is(err, attest.ErrRefused):
		return nil, c.deny("attestation", err)
	case err != nil:
		return nil, c.unavailable(err)
	}
	return c.sign(record.ID.String(), func() ([][]byte, error) {
		return s.config.Authority.IssueWorkload(record.ID, crypto.PublicKey(pub), 0)
	})
}

// RenewNode implements cav1.CAServer.
func (s *Server) RenewNode(ctx context.Context, req *cav1.RenewNodeRequest) (*cav1.SVID, error) {
	c, err := s.begin(ctx, kindNode, "")
	if err != nil {
		return nil, err
	}
	if s.config.NodeAllowed != nil && !s.config.NodeAllowed(c.node) {
		return nil, c.deny("node_not_allowed", errors.New("the node may not renew"))
	}
	pub, err := ParseRequest(req.GetCsr())
	if err != nil {
		return nil, c.badRequest(err)
	}
	return c.sign(identity.NodeSPIFFE(s.auth.TrustDomain, c.node), func() ([][]byte, error) {
		return s.config.Authority.IssueNode(c.node, crypto.PublicKey(pub), 0)
	})
}

// SignWorkload implements cav1.CAServer. The identity is the record's.
func (s *Server) SignWorkload(ctx context.Context, req *cav1.SignWorkloadRequest) (*cav1.SVID, error) {
	c, err := s.beginFor(ctx, clip(req.GetWorkloadUid()))
	if err != nil {
		return nil, err
	}
	record, ok := s.config.Directory.Workload(req.GetWorkloadUid())
	switch {
	case !ok:
		return nil, c.deny("unknown_workload", errors.New("no workload has this uid"))
	case c.node == WaypointCaller+record.Name && record.Waypoint: // about itself
	case record.Node != c.node:
		return nil, c.deny("other_node", fmt.Errorf("the workload runs on node %q", record.Node))
	case !record.Enrolled:
		return nil, c.deny("not_enrolled", errors.New("the workload is not in the mesh"))
	}
	pub, err := ParseRequest(req.GetCsr())
	if err != nil {
		return nil, c.badRequest(err)
	}
	return c.sign(record.ID.String(), func() ([][]byte, error) {
		return s.config.Authority.IssueWorkload(record.ID, crypto.PublicKey(pub), 0)
	})
}

// begin says which node calls, and holds it to its rate.
func (s *Server) begin(ctx context.Context, kind, uid string) (call, error) {
	node, err := s.auth.Node(ctx)
	return s.admit(call{s, kind, "", uid}, node, err)
}

// beginFor is begin for what waypoints may ask as well.
func (s *Server) beginFor(ctx context.Context, uid string) (call, error) {
	caller, err := s.auth.Caller(ctx)
	return s.admit(call{s, kindWorkload, "", uid}, caller, err)
}

func (s *Server) admit(c call, node string, err error) (call, error) {
	if err != nil {
		return c, c.deny("unauthenticated", err)
	}
	c.node = node
	if !s.nodes.allow(node) {
		return c, c.limited()
	}
	return c, nil
}

// clip bounds what a stranger makes us log.
func clip(name string) string { return name[:min(len(name), maxNameBytes)] }

// remoteHost is the caller's address without its port, "" if it has none.
func remoteHost(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}

// call is one request on its way to an answer. Each way out counts it and writes one log line.
type call struct {
	server *Server
	kind   string
	node   string // the caller, or who it claims to be when it attests
	uid    string
}

// deny answers the same for every reason.
func (c call) deny(reason string, err error) error {
	c.count(reason, err)
	return refused()
}

func (c call) limited() error {
	c.count("rate_limited", errors.New("too many requests"))
	return status.Error(codes.ResourceExhausted, "too many requests")
}

func (c call) badRequest(err error) error {
	c.count("bad_request", err)
	return status.Error(codes.InvalidArgument, err.Error())
}

func (c call) unavailable(err error) error {
	c.count("cannot_sign", err)
	return status.Error(codes.Unavailable, "cannot sign now")
}

func (c call) count(reason string, err error) {
	c.server.refused.WithLabelValues(c.kind, reason).Inc()
	c.server.config.Log.Warn("certificate refused", "kind", c.kind, "node", c.node, "workload", c.uid, "reason", reason, "err", err)
}

func (c call) sign(id string, issue func() ([][]byte, error)) (*cav1.SVID, error) {
	chain, err := issue()
	if err != nil {
		return nil, c.unavailable(err)
	}
	serial, notAfter := describe(chain[0])
	c.server.issued.WithLabelValues(c.kind).Inc()
	c.server.config.Log.Info("certificate issued", "kind", c.kind, "id", id, "node", c.node, "workload", c.uid, "serial", serial, "not_after", notAfter)
	return &cav1.SVID{SpiffeId: id, Chain: chain}, nil
}
