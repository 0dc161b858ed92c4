package controller

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/ca/attest"
	"github.com/warren-mesh/warren/controller/admin"
	"github.com/warren-mesh/warren/controller/publish"
	"github.com/warren-mesh/warren/controller/relay"
)

// TokenFile is where the join tokens of a state directory are.
func TokenFile(stateDir string) string { return filepath.Join(stateDir, "tokens.json") }

// newEpoch names this run: versions of two runs must never be taken for each other's.
func newEpoch() string {
	b := make([]byte, 8)
	rand.Read(b) // never fails: it crashes the program instead
	return hex.EncodeToString(b)
}

// assemble makes the parts and wires them together.
func (c *Controller) assemble() error {
	c.publisher = publish.New(c.epoch)
	var err error
	if c.state, err = newState(c.publisher, c.authority, c.cfg); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	c.metrics = newMetrics(c)
	c.reports = newPodReports()
	attestor, waypoints := c.cfg.Attestor, c.cfg.Waypoints
	if attestor == nil {
		tokens, err := attest.OpenTokens(TokenFile(c.cfg.StateDir), nil)
		if err != nil {
			return err
		}
		attestor, waypoints = tokens, tokens
	}
	server := ca.ServerConfig{
		Authority: c.authority, Attestor: attestor, Waypoints: waypoints, Directory: c.state, Log: c.cfg.Log, Registerer: c.metrics.registry,
	}
	if c.cfg.KnownNodesOnly {
		server.NodeAllowed = c.state.hasNode
	}
	signer, err := ca.NewServer(server)
	if err != nil {
		return err
	}
	auth := signer.Authenticator()
	c.watchers = publish.NewServer(publish.Config{
		Publisher: c.publisher, Caller: auth.Caller, Audiences: audiencesOf, Now: time.Now, Log: c.cfg.Log,
		Observe: func(d time.Duration) { c.metrics.propagation.Observe(d.Seconds()) },
	})
	c.hub = relay.NewHub(auth.Caller, c.cfg.Log)

	if c.agents, err = newAgentServer(c.self, c.authority, auth, c.cfg.Log); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	cav1.RegisterCAServer(c.agents, signer)
	meshv1.RegisterMeshServer(c.agents, c.watchers)
	adminv1.RegisterRelayServer(c.agents, c.hub)
	adminv1.RegisterReportsServer(c.agents, c.reports)

	c.admins = grpc.NewServer(grpc.MaxConcurrentStreams(64), grpc.ConnectionTimeout(5*time.Second))
	c.admin = c.newAdmin()
	adminv1.RegisterAdminServer(c.admins, c.admin)
	c.http = &http.Server{
		Handler: c.metrics.handler(c.state.ready), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	return nil
}

func (c *Controller) newAdmin() *admin.Server {
	return admin.New(admin.Config{
		Agents: c.hub, Published: c.publisher, Compiled: c.state.compiled, Nodes: c.watchers.Nodes,
		Controller: c.status, Now: time.Now, Log: c.cfg.Log,
	})
}

// status is what the controller says about itself.
func (c *Controller) status() *adminv1.ControllerStatus {
	return &adminv1.ControllerStatus{
		Version: c.cfg.Version, Epoch: c.epoch, ConfigVersion: c.publisher.Version(), StartedUnix: c.started.Unix(),
		TrustDomain: c.cfg.TrustDomain, CaNotAfterUnix: c.authority.NotAfter().Unix(), CaOrigin: c.authority.Origin(),
		Rejected: c.state.rejected(),
	}
}
