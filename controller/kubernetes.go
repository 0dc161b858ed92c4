package controller

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/ca/attest"
	"github.com/warren-mesh/warren/controller/kube"
	"github.com/warren-mesh/warren/controller/manifest"
	"github.com/warren-mesh/warren/controller/waypoints"
)

// Kubernetes says how a controller runs in a cluster, beside its Config.
type Kubernetes struct {
	kube.Config
	// AgentServiceAccount is the agents', in the controller's namespace; TokenAudience is whom their tokens are made for.
	AgentServiceAccount string
	TokenAudience       string
	// Waypoints says how waypoints are run; without an image they are not.
	Waypoints waypoints.Template
}

// WaypointAudience is whom the tokens are made for by which waypoints prove who they are.
const WaypointAudience = waypoints.Audience

// RunOnKubernetes runs one replica until ctx ends: it follows the API server from the start, and serves while it leads.
// Returns kube.ErrDeposed if another replica leads: the process begins anew.
func RunOnKubernetes(ctx context.Context, cfg Config, k Kubernetes) error {
	k.Log = cfg.Log
	klog.SetSlogLogger(cfg.Log.With("logger", "client-go")) // it has no other place for what it says
	cluster, err := kube.Connect(k.Config)
	if err != nil {
		return err
	}
	r := &replica{cfg: cfg, kube: k, cluster: cluster}
	listener, err := net.Listen("tcp", cfg.MetricsListen)
	if err != nil {
		return fmt.Errorf("controller: listen for metrics: %w", err)
	}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.serveFront(gctx, listener) })
	group.Go(func() error { return cluster.Follow(gctx) })
	group.Go(func() error {
		if err := cluster.Lead(gctx, r.lead); err != nil {
			return err
		}
		return gctx.Err()
	})
	err = group.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// replica is one controller among several.
type replica struct {
	cfg     Config
	kube    Kubernetes
	cluster *kube.Cluster
	leading atomic.Pointer[Controller]
}

// lead serves until ctx ends, with whichever CA the Secret has.
func (r *replica) lead(ctx context.Context) error {
	for {
		err := r.leadWithCA(ctx)
		if !errors.Is(err, kube.ErrCAChanged) {
			return err
		}
		r.cfg.Log.Info("beginning anew with another CA; agents come back by themselves")
	}
}

func (r *replica) leadWithCA(ctx context.Context) error {
	cfg := r.cfg
	material, err := r.cluster.CA(ctx, filepath.Join(cfg.StateDir, "secret"), func() ([]byte, []byte, error) { return ca.NewRoot(cfg.TrustDomain) })
	if err != nil {
		return err
	}
	cfg.CACert, cfg.CAKey, cfg.CARoots = material.CertFile, material.KeyFile, material.RootsFile
	cfg.Source, cfg.KnownNodesOnly, cfg.MetricsListen = r.cluster, true, ""
	cfg.RootNamespace, cfg.Leaving = r.kube.Namespace, r.cluster.Leaving
	var c *Controller
	attestor := attest.NewKubernetes(attest.KubernetesConfig{
		Reviews: r.cluster.Client().AuthenticationV1().TokenReviews(), Audience: r.kube.TokenAudience, WaypointAudience: WaypointAudience,
		ServiceAccount: r.kube.Namespace + "/" + r.kube.AgentServiceAccount, NodeOf: func(uid string) (string, bool) { return c.state.nodeOf(uid) },
	})
	cfg.Attestor, cfg.Waypoints = attestor, attestor
	if c, err = New(cfg); err != nil {
		return err
	}
	runner, err := r.waypoints(c)
	if err != nil {
		return err
	}
	r.leading.Store(c)
	defer r.leading.Store(nil)
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.Run(gctx) })
	group.Go(func() error {
		return r.cluster.Tend(gctx, kube.Announcement{
			Material: material, Roots: bundlePEM(c.authority), Port: uint16(c.AgentsAddr().(*net.TCPAddr).Port),
		})
	})
	group.Go(func() error { return runner.Run(gctx) })
	group.Go(func() error { return r.reportLeaving(gctx, c, runner) })
	group.Go(func() error { return (&podReporter{r, c}).run(gctx) })
	group.Go(func() error { return (&policyReporter{r, c, map[manifest.Key]verdict{}}).run(gctx) })
	group.Go(func() error { return (&routeReporter{r, c, map[manifest.Key]string{}}).run(gctx) })
	return group.Wait()
}

func bundlePEM(a *ca.Authority) (out []byte) {
	for _, root := range a.Roots() {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})...)
	}
	return out
}

// serveFront answers probes and scrapes, whether this replica leads or waits.
func (r *replica) serveFront(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: http.HandlerFunc(r.front), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	return serving("metrics", server.Serve(l))
}

func (r *replica) front(w http.ResponseWriter, q *http.Request) {
	if c := r.leading.Load(); c != nil {
		c.Handler().ServeHTTP(w, q)
		return
	}
	switch q.URL.Path {
	case "/healthz":
		fmt.Fprintln(w, "ok")
	case "/readyz":
		if !r.cluster.Synced() {
			http.Error(w, "the API server's objects have not been read yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok: waiting to lead")
	case "/metrics":
		fmt.Fprint(w, "# HELP warren_controller_leading 1 on the replica that serves.\n# TYPE warren_controller_leading gauge\nwarren_controller_leading 0\n")
	default:
		http.NotFound(w, q)
	}
}
