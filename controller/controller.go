// Package controller tells every node's agent what the mesh looks like and who is who in it.
//
//	manifest   folders of Kubernetes manifests → objects, strictly
//	compile    objects → resources, as a pure function
//	publish    resources → versions → one delta stream a node
//	relay      questions to agents, over a stream that each of them opened
//	admin      what agentctl asks, for the whole mesh
//
// [New] binds everything, [Controller.Run] runs it and drains it. The certificate authority runs here too: it signs
// only for workloads that the compiled state has on the node that asks.
package controller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/controller/admin"
	"github.com/warren-mesh/warren/controller/manifest"
	"github.com/warren-mesh/warren/controller/publish"
	"github.com/warren-mesh/warren/controller/relay"
)

// drainTime bounds how long a stop waits for calls that are under way.
const drainTime = 3 * time.Second

// Controller is one controller. It runs once.
type Controller struct {
	cfg       Config
	epoch     string
	started   time.Time
	authority *ca.Authority
	self      *selfSigner
	state     *state
	source    Source
	publisher *publish.Publisher
	watchers  *publish.Server
	hub       *relay.Hub
	metrics   *metrics
	admin     *admin.Server
	reports   *podReports

	agents   *grpc.Server
	admins   *grpc.Server
	http     *http.Server
	agentsL  net.Listener
	adminsL  []net.Listener // the socket, and TCP if wanted
	metricsL net.Listener
}

// New prepares a controller and binds its addresses. Nothing is served before Run.
// Returns an error that says which file, address or setting is wrong.
func New(cfg Config) (*Controller, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	c := &Controller{cfg: cfg, epoch: newEpoch(), started: time.Now()}
	if err := c.open(); err != nil {
		return nil, err
	}
	if err := c.assemble(); err != nil {
		return nil, err
	}
	if err := c.bind(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// open opens what lies in the state directory.
func (c *Controller) open() error {
	caDir, kept := filepath.Join(c.cfg.StateDir, "ca"), filepath.Join(c.cfg.StateDir, "manifests")
	for _, dir := range []string{c.cfg.StateDir, caDir, kept} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("controller: state directory: %w", err)
		}
	}
	config := ca.Config{
		TrustDomain: c.cfg.TrustDomain, StateDir: caDir, CertFile: c.cfg.CACert, KeyFile: c.cfg.CAKey,
		ExtraRootsFile: c.cfg.CARoots, WorkloadTTL: c.cfg.WorkloadTTL, Log: c.cfg.Log,
	}
	if c.cfg.CACert != "" {
		config.StateDir = ""
	}
	var err error
	if c.authority, err = ca.Open(config); err != nil {
		return err
	}
	if c.self, err = newSelfSigner(c.authority, c.cfg.Log); err != nil {
		return err
	}
	if c.source = c.cfg.Source; c.source == nil {
		c.source = manifest.NewWatcher(manifest.Config{Roots: c.cfg.Manifests, StatusRoots: c.cfg.StatusManifests, KeepDir: kept}, c.cfg.Log)
	}
	return writeBundle(filepath.Join(c.cfg.StateDir, "bundle.pem"), c.authority.Roots())
}

// close releases what was bound.
func (c *Controller) close() {
	for _, l := range append(c.adminsL, c.agentsL, c.metricsL) {
		if l != nil {
			_ = l.Close()
		}
	}
}

// bind opens every listener.
func (c *Controller) bind() (err error) {
	if c.agentsL, err = net.Listen("tcp", c.cfg.Listen); err != nil {
		return fmt.Errorf("controller: listen for agents: %w", err)
	}
	socket, err := listenAdmin(c.cfg.AdminSocket, c.cfg.Log)
	if err != nil {
		return fmt.Errorf("controller: listen for agentctl: %w", err)
	}
	c.adminsL = []net.Listener{socket}
	if c.cfg.AdminListen != "" {
		l, err := listenLoopback(c.cfg.AdminListen)
		if err != nil {
			return fmt.Errorf("controller: listen for agentctl: %w", err)
		}
		c.adminsL = append(c.adminsL, l)
	}
	if c.cfg.MetricsListen == "" {
		return nil
	}
	if c.metricsL, err = net.Listen("tcp", c.cfg.MetricsListen); err != nil {
		return fmt.Errorf("controller: listen for metrics: %w", err)
	}
	return nil
}

// AgentsAddr is where agents connect.
func (c *Controller) AgentsAddr() net.Addr { return c.agentsL.Addr() }

// Handler serves /metrics, /healthz and /readyz, for a server of the caller's.
func (c *Controller) Handler() http.Handler { return c.http.Handler }

// MetricsAddr is where metrics are served, nil if they are not.
func (c *Controller) MetricsAddr() net.Addr {
	if c.metricsL == nil {
		return nil
	}
	return c.metricsL.Addr()
}

// Run serves until ctx ends or something fails for good; then it drains. It returns nil if it was ctx that ended.
func (c *Controller) Run(ctx context.Context) error {
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.self.run(gctx) })
	group.Go(func() error {
		return c.source.Run(gctx, func(r manifest.Result) { c.state.take(r) })
	})
	group.Go(func() error { return serving("agents", c.agents.Serve(c.agentsL)) })
	for _, l := range c.adminsL {
		group.Go(func() error { return serving("agentctl", c.admins.Serve(l)) })
	}
	if c.metricsL != nil {
		group.Go(func() error { return serving("metrics", c.http.Serve(c.metricsL)) })
	}
	c.cfg.Log.Info("controller is listening", "agents", c.agentsL.Addr().String(), "admin_socket", c.cfg.AdminSocket,
		"metrics", addrString(c.MetricsAddr()), "trust_domain", c.cfg.TrustDomain, "epoch", c.epoch, "ca", c.authority.Origin())
	group.Go(func() error {
		<-gctx.Done()
		c.drain()
		return nil
	})
	err := group.Wait()
	c.cfg.Log.Info("controller stopped", "err", err)
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// serving turns a server's end by a drain into nil.
func serving(what string, err error) error {
	if err == nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("controller: serve %s: %w", what, err)
}

// drain stops every server: calls may end, streams are cut, as agents keep what they enforce.
func (c *Controller) drain() {
	var wg sync.WaitGroup
	for _, s := range []*grpc.Server{c.agents, c.admins} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			timer := time.AfterFunc(drainTime, s.Stop)
			defer timer.Stop()
			s.GracefulStop()
		}()
	}
	c.hub.Close()
	c.watchers.Close()
	wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := c.http.Shutdown(ctx); err != nil {
		c.cfg.Log.Warn("metrics were cut off", "err", err)
	}
	if err := os.Remove(c.cfg.AdminSocket); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.cfg.Log.Warn("the admin socket stays behind", "err", err)
	}
}
