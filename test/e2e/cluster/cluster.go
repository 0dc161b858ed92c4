// Package cluster brings up a real Kubernetes on this machine: etcd, API server, controller manager and scheduler in
// one network namespace, and nodes with kubelet, containerd and kube-proxy in namespaces of their own. Nothing is
// simulated but the machines: a node has its own network, processes, mounts, cgroup root, bpffs and disk, and shares
// the kernel with the others, so that BPF object ids are seen across nodes.
//
// All that a cluster makes carries its name, so that several coexist: cgroups we2e-<name> in every hierarchy, and a
// directory with its files and network namespaces. [Cluster.Down] leaves nothing, and [Up] first sweeps away
// what a predecessor of the same name left that died without it.
//
// It needs root, cgroup v2 (alone, or beside v1 at /sys/fs/cgroup/unified), and Debian's containerd, runc and
// containernetworking-plugins. Only tests and test/e2e/cmd use it.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// What a Config may choose from.
const (
	ProxyIPTables = "iptables"
	ProxyNFTables = "nftables"

	CNIPointToPoint = "ptp"    // each pod on a link of its own, routed
	CNIBridge       = "bridge" // a node's pods on one bridge
)

// Config says what cluster to make. Only Name, BinDir and Images are needed.
type Config struct {
	// Name is what all the cluster's objects are named after: at most 20 of a-z, 0-9 and "-".
	Name string
	// Nodes is how many, 2 if 0, at most 9: node-a, node-b, …
	Nodes int
	// Dir holds its state, /tmp/we2e-<name> if empty. It must not be below /etc, /opt, /var or /run, which nodes
	// have on their own, and takes about 500 MB.
	Dir string
	// BinDir has the binaries, see [Binaries].
	BinDir string
	// Images are archives that every node imports before it is ready: [PauseImage] and [DNSImage] must be among
	// them, see package images.
	Images []string
	// ProxyMode is kube-proxy's: ProxyNFTables if empty.
	ProxyMode string
	// CNI is the plug-in that connects pods: CNIPointToPoint if empty.
	CNI string
	// NodeGrace is how long a node may be silent until its pods count as not ready: 20 s if 0, half of Kubernetes' default.
	// Simulated nodes of a machine that is busy starting thousands of pods are silent longer, and nobody makes their pods
	// ready again.
	NodeGrace time.Duration
	// Keep lets the cluster outlive the process that made it.
	Keep bool
	// Log gets a line for each step; nil is silence.
	Log *slog.Logger `json:"-"`
}

// Images that a cluster itself runs.
const (
	PauseImage = "localhost/pause:1"
	DNSImage   = "localhost/coredns:1"
)

// Cluster is a running Kubernetes. Its methods may be called concurrently, but for Kill and Start of one node and Down.
type Cluster struct {
	cfg     Config
	cgroups cgroups
	cp      *ControlPlane
	nodes   []*Node
	lock    *os.File
	reaping sync.WaitGroup // of processes that this one started
}

// Up makes a cluster and returns when its nodes are Ready and its DNS answers. A cluster of that name that a living
// process holds, or that was made to be kept and runs, is an error; a dead one is removed first. If it fails, what it
// made is gone again, but for the logs in Dir.
func Up(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("cluster %q: %w", cfg.Name, err)
	}
	c, err := assemble(cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Name, err)
	}
	if err := c.acquire(); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Name, err)
	}
	if err := c.up(ctx); err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = fmt.Errorf("cluster %s: %w\n%s", cfg.Name, err, c.LogTails(15))
		err = errors.Join(err, c.removeAll(cleanup))
		c.release()
		return nil, err
	}
	if cfg.Keep {
		c.release()
	}
	return c, nil
}

// Open returns the kept cluster of that name, wherever it was made.
func Open(name string) (*Cluster, error) {
	cfg := Config{Name: name, Dir: defaultDir(name)}
	raw, err := os.ReadFile(filepath.Join(cfg.Dir, stateFile))
	if err != nil {
		return nil, fmt.Errorf("cluster %s is not up: %w", name, err)
	}
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return nil, fmt.Errorf("cluster %s: %s: %w", name, stateFile, err)
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	return assemble(cfg)
}

func assemble(cfg Config) (*Cluster, error) {
	hierarchies, err := findCgroups("we2e-" + cfg.Name)
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, cgroups: hierarchies}
	c.cp = &ControlPlane{c: c}
	for i := range cfg.Nodes {
		c.nodes = append(c.nodes, newNode(c, i))
	}
	return c, nil
}

func (c *Cluster) up(ctx context.Context) error {
	start := time.Now()
	step := func(what string) {
		c.cfg.Log.Info(what, "cluster", c.cfg.Name, "after", time.Since(start).Round(10*time.Millisecond))
	}
	if err := c.prepare(); err != nil {
		return err
	}
	step("namespaces, certificates")
	all, actx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		all.Go(func() error { return n.boot(actx) })
	}
	all.Go(func() error {
		if err := c.cp.start(actx); err != nil {
			return err
		}
		step("API server ready")
		return nil
	})
	if err := all.Wait(); err != nil {
		return err
	}
	step("images imported")
	for _, n := range c.nodes {
		if err := n.joinCluster(); err != nil {
			return err
		}
	}
	if err := c.AwaitNodes(ctx); err != nil {
		return err
	}
	step("nodes Ready")
	if err := c.startDNS(ctx); err != nil {
		return err
	}
	step("DNS answers")
	return nil
}

// prepare makes everything that does not run yet.
func (c *Cluster) prepare() error {
	if err := os.MkdirAll(c.path("logs"), 0o755); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(c.cfg, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path(stateFile), raw, 0o644); err != nil {
		return err
	}
	if err := c.writePKI(); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	if err := c.makeNetwork(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	for _, n := range c.nodes {
		if err := n.writeFiles(); err != nil {
			return fmt.Errorf("files of %s: %w", n.Name, err)
		}
	}
	return nil
}

// Down removes the cluster: its processes, namespaces, cgroups and files.
func (c *Cluster) Down(ctx context.Context) error {
	if err := c.takeLock(); err != nil {
		return fmt.Errorf("remove cluster %s: %w", c.cfg.Name, err)
	}
	defer c.release()
	if err := errors.Join(c.removeAll(ctx), c.removeDir()); err != nil {
		return fmt.Errorf("remove cluster %s: %w", c.cfg.Name, err)
	}
	return nil
}

func (c *Cluster) removeAll(ctx context.Context) error {
	for _, n := range c.nodes {
		n.endFirstProcess(ctx)
	}
	if err := c.cgroups.kill(ctx, "."); err != nil {
		return err // what runs would hold the rest
	}
	c.reaping.Wait()
	return errors.Join(c.cgroups.remove(ctx, "."), c.removeNetwork())
}

// removeDir removes the directory only if a cluster made it.
func (c *Cluster) removeDir() error {
	if _, err := os.Stat(c.path(stateFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.RemoveAll(c.cfg.Dir)
}

// ControlPlane returns the machine that Kubernetes' own components run on.
func (c *Cluster) ControlPlane() *ControlPlane { return c.cp }

// Nodes returns the nodes in the order of their names.
func (c *Cluster) Nodes() []*Node { return slices.Clone(c.nodes) }

// Node returns the node of that name; it panics if there is none.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.nodes {
		if n.Name == name {
			return n
		}
	}
	panic(fmt.Sprintf("cluster %s has no node %s", c.cfg.Name, name))
}

// Dir is where the cluster's state and logs are.
func (c *Cluster) Dir() string { return c.cfg.Dir }

func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.cfg.Dir}, elem...)...)
}

// netns is the path of one of the cluster's network namespaces.
func (c *Cluster) netns(machine string) string {
	return c.path("netns", machine)
}

func (cfg *Config) complete() error {
	if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$`).MatchString(cfg.Name) {
		return errors.New("a cluster's name is at most 20 of a-z, 0-9 and, inside, -")
	}
	if cfg.Nodes == 0 {
		cfg.Nodes = 2
	}
	if cfg.Dir == "" {
		cfg.Dir = defaultDir(cfg.Name)
	}
	if cfg.ProxyMode == "" {
		cfg.ProxyMode = ProxyNFTables
	}
	if cfg.CNI == "" {
		cfg.CNI = CNIPointToPoint
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Nodes < 1 || cfg.Nodes > 9:
		return fmt.Errorf("%d nodes: it can have 1 to 9", cfg.Nodes)
	case cfg.ProxyMode != ProxyNFTables && cfg.ProxyMode != ProxyIPTables:
		return fmt.Errorf("proxy mode %q: it can be %s or %s", cfg.ProxyMode, ProxyNFTables, ProxyIPTables)
	case cfg.CNI != CNIPointToPoint && cfg.CNI != CNIBridge:
		return fmt.Errorf("CNI %q: it can be %s or %s", cfg.CNI, CNIPointToPoint, CNIBridge)
	}
	return cfg.checkMachine()
}

func defaultDir(name string) string { return filepath.Join("/tmp", "we2e-"+name) }
