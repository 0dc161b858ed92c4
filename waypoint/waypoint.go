// Package waypoint is an L7 proxy's life: it has an identity of its own, is told by the controller what the mesh looks
// like, takes connections that clients' ztunnels tunnel to it, and sends their requests on to the tunnels of the
// destinations' nodes. In the order in which a connection travels:
//
//	identity.go   who the waypoint is: a proof, then an SVID that renews itself
//	tunnels.go    peers' tunnels: TLS, how many of them, and their end when trust ends
//	stream.go     what a client wants: a service, or a workload, that this waypoint is for
//	protocol.go   HTTP or not: what the port says, or what the first bytes are
//	serve.go      HTTP/1 and HTTP/2 by net/http on the stream, then ./proxy
//	passthrough.go what is no HTTP: bytes to an endpoint, under L4 policy
//	dial.go       tunnels to the destinations, pooled
//
//	exchange   what is known of a connection, a request and its answer
//	proxy      routing, filters, policy, retries, forwarding
//	upstream   endpoints, load balancing, connections
//	authn, extauthz, limit, fault, telemetry
//
// Nothing here captures anything: a waypoint's pod is an ordinary one, which the node's agent leaves alone.
package waypoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/warren-mesh/warren/agent/feed"
	"github.com/warren-mesh/warren/agent/relay"
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/waypoint/authn"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/extauthz"
	"github.com/warren-mesh/warren/waypoint/proxy"
	"github.com/warren-mesh/warren/waypoint/telemetry"
	"github.com/warren-mesh/warren/waypoint/upstream"
)

// Config is what a waypoint is told. Fields without a default are required.
type Config struct {
	// Gateway is the Gateway, and the service of its name, that this is a replica of: "<namespace>/<name>".
	Gateway string
	// Namespace, Pod, UID and ServiceAccount are this pod's own; Node and Zone are where it runs, Zone may be empty.
	Namespace, Pod, UID, ServiceAccount, Node, Zone string
	TrustDomain                                     string
	// Controller is its gRPC address, host:port.
	Controller string
	// TrustBundle is a PEM file with the roots that vouch for the controller, used until the controller sends more.
	TrustBundle string
	// ProofFile proves who this pod is: its projected token, or a join token.
	ProofFile string
	// StateDir keeps SVIDs over restarts of the process, on a tmpfs as it holds keys; empty keeps none.
	StateDir string
	// Listen is where tunnels come in. The default is ":15008".
	Listen string
	// HealthListen serves /healthz and /readyz, MetricsListen /metrics; empty serves none.
	HealthListen, MetricsListen string
	// LameDuck is how long after being told to stop new connections are still taken: clients' nodes must hear first that
	// this replica goes. DrainTimeout is how long what is open may go on after that.
	LameDuck, DrainTimeout time.Duration
	// MaxConns bounds open client connections. Default 100,000.
	MaxConns int
	// Tracing and AccessLog are what telemetry does beside metrics.
	Tracing   telemetry.Tracing
	AccessLog bool
	// ClientCertHeader hands the client's certificate to apps as X-Forwarded-Client-Cert.
	ClientCertHeader bool
	Version          string
	Log              *slog.Logger
}

// Waypoint is one replica.
type Waypoint struct {
	cfg      Config
	started  time.Time
	id       identity.ID
	registry *prometheus.Registry
	bundles  *identity.BundleStore
	roots    identity.GetBundle
	manager  *identity.Manager
	channel  *grpc.ClientConn
	feed     *feed.Client
	world    *mesh.Store[exchange.World]

	telemetry *telemetry.Telemetry
	tunnels   *tunnels
	dialer    *dialer
	upstreams *upstream.Upstreams
	streams   *streams
	authn     *authn.Authenticator
	external  *extauthz.Client
	proxy     *proxy.Proxy
	http      *httpServer
	admin     adminv1.AdminServer
	draining  chan struct{} // closed when the waypoint is told to stop
}

// New prepares everything that can fail for good, so that Run only has to serve.
func New(cfg Config) (*Waypoint, error) {
	w := &Waypoint{
		cfg: cfg, started: time.Now(), registry: prometheus.NewRegistry(), bundles: &identity.BundleStore{}, draining: make(chan struct{}),
	}
	if cfg.MaxConns == 0 {
		w.cfg.MaxConns = 100_000
	}
	if err := w.identities(); err != nil {
		return nil, err
	}
	w.feed = feed.New(feed.Config{
		Client: meshv1.NewMeshClient(w.channel), AgentVersion: cfg.Version, StateFile: w.stateFile(), Enforce: w.enforce, Log: cfg.Log,
	})
	w.world = mesh.NewStore(w.worldOf(w.feed.Store().Load(), nil))
	w.takeBundle(w.feed.Store().Load())
	return w, w.assemble()
}

func (w *Waypoint) stateFile() string {
	if w.cfg.StateDir == "" {
		return ""
	}
	return filepath.Join(w.cfg.StateDir, "mesh.state")
}

// worldOf is what a state comes to, after another world.
func (w *Waypoint) worldOf(s *feed.State, before *exchange.World) *exchange.World {
	d := s.Decoded()
	return &exchange.World{
		Mesh: s.Mesh, Policies: s.Policies, Routes: d.Routes, Traffic: d.Traffic, Authentication: d.Authentication,
		Behind: exchange.BehindOf(w.cfg.Gateway, s.Mesh, before),
	}
}

// takeBundle puts the controller's trust bundle in force, if it sent one.
func (w *Waypoint) takeBundle(s *feed.State) {
	if s.Bundle != nil && len(s.Bundle.TrustDomains()) > 0 {
		w.bundles.Swap(s.Bundle)
	}
}

// enforce makes a state the one that is decided by. When it returns, no request is decided by an older one, no tunnel of
// a peer that is no longer trusted is open, and no connection that was let pass without being read that policy forbids.
func (w *Waypoint) enforce(_ context.Context, s *feed.State) error {
	w.takeBundle(s)
	w.manager.BundleChanged()
	w.world.Swap(w.worldOf(s, w.world.Load()))
	w.tunnels.distrust()
	w.dialer.distrust()
	w.streams.redecide()
	w.proxy.Redecide()
	return nil
}

// Run serves until ctx ends, and on for the lame-duck and drain times.
func (w *Waypoint) Run(ctx context.Context) error {
	listener, err := net.Listen("tcp", w.cfg.Listen)
	if err != nil {
		return fmt.Errorf("waypoint: listen for tunnels: %w", err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, gctx := errgroup.WithContext(serving)
	group.Go(func() error { return w.manager.Run(gctx) })
	group.Go(func() error { return w.feed.Run(gctx) })
	group.Go(func() error { return w.tunnels.serve(gctx, listener) })
	group.Go(func() error { return w.http.run(gctx) })
	group.Go(func() error {
		return relay.New(relay.Config{Client: adminv1.NewRelayClient(w.channel), Admin: w.admin, Log: w.cfg.Log}).Run(gctx)
	})
	for address, handler := range map[string]http.Handler{w.cfg.HealthListen: w.health(), w.cfg.MetricsListen: w.metrics()} {
		if address != "" {
			group.Go(func() error { return serveHTTP(gctx, address, handler) })
		}
	}
	go func() {
		w.leave(ctx, gctx)
		stop()
	}()
	w.cfg.Log.Info("waypoint serves", "gateway", w.cfg.Gateway, "pod", w.cfg.Namespace+"/"+w.cfg.Pod, "id", w.id.String(),
		"listen", listener.Addr().String(), "controller", w.cfg.Controller, "version", w.cfg.Version)
	err = group.Wait()
	w.close()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// leave returns when nothing is to be served any more: told to stop, the waypoint is not ready, takes what still comes,
// asks clients to go elsewhere, and waits for what is open.
func (w *Waypoint) leave(ctx, failed context.Context) {
	select {
	case <-failed.Done():
		return
	case <-ctx.Done():
	}
	w.cfg.Log.Info("told to stop: not ready any more, and taking what still comes", "for", w.cfg.LameDuck)
	close(w.draining)
	wait(failed, w.cfg.LameDuck)
	w.tunnels.drain()
	drained, cancel := context.WithTimeout(failed, w.cfg.DrainTimeout)
	defer cancel()
	w.tunnels.settle(drained, min(settleTime, w.cfg.DrainTimeout/2)) // what crossed the GOAWAY is served as well
	w.http.drain(drained)
	w.streams.drained(drained)
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// close ends what is left.
func (w *Waypoint) close() {
	w.streams.cut()
	w.tunnels.close()
	w.proxy.Close()
	w.authn.Close()
	w.external.Close()
	w.upstreams.Close()
	w.dialer.close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := w.telemetry.Close(ctx); err != nil {
		w.cfg.Log.Warn("some spans were not sent", "err", err)
	}
	_ = w.channel.Close() // nobody uses it any more
}
