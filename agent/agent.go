// Package agent is a node's life: capture in the kernel, ztunnel, identities, and what the controller says,
// wired together.
//
//	feed      what the mesh looks like, from the controller; the last good state over restarts
//	enroll    which pods of this node are captured
//	procpods  pods that run already, from /proc
//	podnet    sockets inside their network namespaces
//	direct    connections that the kernel makes by itself
//	observe   connection records → log, metrics, flows
//	kubelet   whose probes reach pods without ztunnel
//	admin     what agentctl and the CNI plug-in ask, on a unix socket
//	relay     the same questions from the controller, over a stream that the agent opens
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/warren-mesh/warren/agent/admin"
	"github.com/warren-mesh/warren/agent/direct"
	"github.com/warren-mesh/warren/agent/enroll"
	"github.com/warren-mesh/warren/agent/feed"
	"github.com/warren-mesh/warren/agent/observe"
	"github.com/warren-mesh/warren/agent/podnet"
	"github.com/warren-mesh/warren/agent/procpods"
	"github.com/warren-mesh/warren/agent/relay"
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel"
)

// Config is what an agent is told. Fields without a default are required.
type Config struct {
	Node        string
	TrustDomain string
	// Controller is its gRPC address, host:port.
	Controller string
	// TrustBundle is a PEM file with the roots that vouch for the controller, used until the controller sends more.
	TrustBundle string
	// JoinTokenFile proves the node's name once: a join token, or on Kubernetes the token of the agent's service account.
	// Empty if the state directory has the node's SVID.
	JoinTokenFile string
	// StateDir keeps the last good state, SVIDs and the pod registry; on a tmpfs, as it holds keys.
	StateDir string
	// Socket is the unix socket of the admin API and of the CNI plug-in.
	Socket string
	// PinDir is this agent's directory on a bpffs.
	PinDir string
	// CgroupRoot is the cgroup v2 hierarchy, or a hybrid host's directory that has it as "unified"; empty finds it.
	CgroupRoot string
	// ProcDir is the node's /proc, in which pods that run already are looked for; empty looks for none.
	ProcDir string
	// KubeletNames are what the kubelet's program may be called; nil for the usual names.
	KubeletNames []string
	// CNI is the node's CNI chain, into which the plug-in is put.
	CNI CNI
	// MetricsListen serves /metrics, /healthz and /readyz; empty serves none.
	MetricsListen string
	// CarrySameNode has the agent carry every connection between pods of this node: the kernel makes none by itself.
	CarrySameNode bool
	// EncryptSameNode tunnels between pods of this node too.
	EncryptSameNode bool
	// DrainTimeout is how long connections that are open when the agent is told to stop may go on; it serves meanwhile.
	DrainTimeout time.Duration
	Version      string
	Log          *slog.Logger
}

// Agent is one node's agent.
type Agent struct {
	cfg        Config
	reg        *prometheus.Registry
	bundles    *identity.BundleStore
	vouched    vouched
	bundleFile *identity.RootsFile
	manager    *identity.Manager
	channel    *grpc.ClientConn
	feed       *feed.Client
	world      *mesh.Store[ztunnel.World]
	capture    *bpf.Capture
	direct     *direct.Follower
	thread     *podnet.Thread
	proxy      *ztunnel.Proxy
	observer   *observe.Observer
	enroller   *enroll.Enroller
	admin      *admin.Server
	host       *host
}

// New prepares everything that can fail for good, so that Run only has to serve.
func New(cfg Config) (*Agent, error) {
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	a := &Agent{cfg: cfg, reg: prometheus.NewRegistry(), bundles: &identity.BundleStore{}, thread: podnet.NewThread()}
	if err := a.identities(); err != nil {
		return nil, err
	}
	a.feed = feed.New(feed.Config{
		Client: meshv1.NewMeshClient(a.channel), AgentVersion: cfg.Version,
		StateFile: filepath.Join(cfg.StateDir, "mesh.state"), Enforce: a.enforce, Log: cfg.Log,
	})
	a.world = mesh.NewStore(worldOf(a.feed.Store().Load()))
	a.takeBundle(a.feed.Store().Load())
	if err := a.dataPath(); err != nil {
		return nil, err
	}
	var err error
	if a.host, err = newHost(cfg); err != nil {
		return nil, err
	}
	a.admin = admin.New(admin.Config{
		HostProblems: a.hostProblems,
		Node:         cfg.Node, Version: cfg.Version, Started: time.Now(), NodeID: a.nodeID().String(), World: a.world, Bundle: a.bundles.Load,
		Feed: a.feed, Certs: a.manager, Enroller: a.enroller, Proxy: a.proxy, Observer: a.observer, Capture: a.capture,
	})
	return a, a.registerMetrics()
}

func (a *Agent) nodeID() identity.AgentID {
	id, _ := identity.NodeID(a.cfg.TrustDomain, a.cfg.Node) // checked by identities
	return id
}

// identities sets up who the node is and how it comes by its pods' SVIDs.
func (a *Agent) identities() error {
	node, err := identity.NodeID(a.cfg.TrustDomain, a.cfg.Node)
	if err != nil {
		return fmt.Errorf("--node or --trust-domain: %w", err)
	}
	a.bundleFile = identity.NewRootsFile(a.cfg.TrustBundle, a.cfg.TrustDomain)
	bundle, err := a.bundleFile.Read()
	if err != nil {
		return err
	}
	a.bundles.Swap(bundle)
	cache, err := identity.OpenCache(filepath.Join(a.cfg.StateDir, "svids"), time.Now(), a.cfg.Log)
	if err != nil {
		return err
	}
	s := &signer{cfg: a.cfg, bundle: a.controllerRoots, node: node}
	a.manager, err = identity.NewManager(identity.ManagerConfig{Signer: s, Bundle: a.controllerRoots, Cache: cache, Log: a.cfg.Log})
	if err != nil {
		return err
	}
	s.certs = a.manager
	a.channel, err = dialController(a.cfg.Controller, s.asNode())
	s.channel = a.channel
	a.manager.Want(nodeUID, node)
	return err
}

// dataPath loads the capture and builds what serves captured connections.
func (a *Agent) dataPath() error {
	root, err := bpf.CgroupRoot(a.cfg.CgroupRoot)
	if err != nil {
		return err
	}
	capture, err := bpf.Open(bpf.Config{PinDir: a.cfg.PinDir, CgroupRoot: root, Log: a.cfg.Log})
	if err != nil {
		return err
	}
	a.capture = capture
	a.logOthers()
	if a.direct, err = direct.New(capture, a.cfg.Log); err != nil {
		return err
	}
	certs := certs{a.manager, a.bundles}
	a.observer = observe.New(a.cfg.Node, a.cfg.Log, a.reg)
	a.proxy = ztunnel.New(ztunnel.Config{
		Node: a.cfg.Node, World: a.world, Certs: certs, Log: a.cfg.Log, Sink: a.observer.Sink,
		MaxConns: maxConns(), EncryptSameNode: a.cfg.EncryptSameNode,
		Kernel: a.kernel(),
	})
	a.enroller, err = enroll.New(enroll.Config{
		Node: a.cfg.Node, StateDir: a.cfg.StateDir, World: a.world, Capture: capture, Thread: a.thread,
		Proxy: a.proxy, Certs: certs, Log: a.cfg.Log,
		Followed: func() bool { return a.feed.Status().Connected }, Finder: finder(a.cfg.ProcDir),
	})
	return err
}

// kernel returns what may connect pods of this node by itself, or nil. What nobody could end must not begin.
func (a *Agent) kernel() ztunnel.Kernel {
	if a.cfg.CarrySameNode {
		return nil
	}
	if err := podnet.CheckAbort(); err != nil {
		a.cfg.Log.Warn("connections between pods of this node are carried: the kernel's own could not be ended when a policy forbids them", "err", err)
		return nil
	}
	return a.direct
}

// finder looks for running pods where container runtimes keep them, or nowhere without a /proc.
func finder(proc string) enroll.Finder {
	if proc == "" {
		return nil
	}
	return procpods.Finder{Proc: proc, NetnsDirs: []string{"/run/netns", "/var/run/netns"}}
}

func worldOf(s *feed.State) *ztunnel.World { return &ztunnel.World{Mesh: s.Mesh, Policies: s.Policies} }

// takeBundle puts the controller's trust bundle in force, if it sent one that is another.
func (a *Agent) takeBundle(s *feed.State) {
	if s.Bundle != nil && len(s.Bundle.TrustDomains()) > 0 && !sameRoots(s.Bundle, a.bundles.Load()) {
		a.bundles.Swap(s.Bundle)
	}
}

// enforce makes a state the one that is decided by. When it returns, no open connection is there that the state
// forbids: only then is the version acknowledged.
func (a *Agent) enforce(_ context.Context, s *feed.State) error {
	a.takeBundle(s)
	a.vouched.by(a.controllerRoots(), a.manager.BundleChanged)
	a.world.Swap(worldOf(s))
	a.proxy.Redecide()
	return nil
}

// Run serves until ctx ends, and on until the connections that are open then have ended, at most for the drain
// timeout. Pods stay captured, and what they dial waits for the next agent.
func (a *Agent) Run(ctx context.Context) error {
	socket, err := admin.Listen(a.cfg.Socket)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, gctx := errgroup.WithContext(serving)
	tctx, stopThread := context.WithCancel(context.WithoutCancel(ctx))
	threadDone := make(chan error, 1)
	go func() { threadDone <- a.thread.Run(tctx) }()

	group.Go(func() error { return a.manager.Run(gctx) })
	group.Go(func() error { return a.feed.Run(gctx) })
	group.Go(func() error { return a.observer.Run(gctx) })
	group.Go(func() error { return a.enroller.Run(gctx) })
	group.Go(func() error { return admin.Serve(gctx, socket, a.admin) })
	group.Go(func() error { return a.serveMetrics(gctx) })
	group.Go(func() error { return a.keepChain(gctx) })
	group.Go(func() error { return a.reportPods(gctx) })
	group.Go(func() error { return a.keepNode(gctx) })
	group.Go(func() error { return a.followKubelet(gctx) })
	group.Go(func() error { return a.direct.Run(gctx, a.proxy) })
	group.Go(func() error {
		return relay.New(relay.Config{Client: adminv1.NewRelayClient(a.channel), Admin: a.admin, Log: a.cfg.Log}).Run(gctx)
	})
	go func() {
		a.linger(ctx, gctx)
		a.hold()
		stop()
	}()
	a.cfg.Log.Info("agent serves", "node", a.cfg.Node, "version", a.cfg.Version, "socket", a.cfg.Socket, "controller", a.cfg.Controller)
	err = group.Wait()
	a.proxy.Close(lastGrace)
	stopThread()
	<-threadDone
	a.channel.Close()
	err = errors.Join(err, a.capture.Close())
	if a.leaving() {
		a.cfg.Log.Info("the mesh leaves: nothing stays on this node")
		err = errors.Join(err, clearNode(a.cfg))
	}
	if ctx.Err() != nil {
		return nil // asked to stop: what ended because of that is no failure
	}
	return err
}
