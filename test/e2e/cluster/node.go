package cluster

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
)

//go:embed files
var files embed.FS

// Node is a machine of the cluster. It keeps its disk and its network when it is killed, as after a loss of power.
type Node struct {
	Name string
	c    *Cluster
	lan  []netip.Prefix
	pods []netip.Prefix
}

func nodeName(i int) string { return "node-" + string(rune('a'+i)) }

func newNode(c *Cluster, i int) *Node {
	return &Node{Name: nodeName(i), c: c, lan: lanAddrs(11 + i), pods: podRanges(i)}
}

// Netns is the path of the node's network namespace, which lives as long as the cluster.
func (n *Node) Netns() string { return n.c.netns(n.Name) }

// Addrs are the node's addresses, IPv4 first.
func (n *Node) Addrs() []netip.Addr { return addrsOf(n.lan) }

// PodRanges are what its pods get their addresses from, IPv4 first.
func (n *Node) PodRanges() []netip.Prefix { return slices.Clone(n.pods) }

// Dir is where the node's disk is, seen from outside.
func (n *Node) Dir() string { return n.c.path("nodes", n.Name) }

// Start boots a node that was killed. It returns when its services run; see [Cluster.AwaitNodes] for when it is Ready.
func (n *Node) Start(ctx context.Context) error {
	if err := n.boot(ctx); err != nil {
		return err
	}
	return n.joinCluster()
}

// Kill ends every process on the node at once, without warning to anybody.
func (n *Node) Kill(ctx context.Context) error {
	n.endFirstProcess(ctx)
	if err := n.c.cgroups.kill(ctx, n.Name); err != nil {
		return err
	}
	return n.c.cgroups.remove(ctx, n.Name)
}

// boot starts the node's first process and containerd, and returns when the images are there.
func (n *Node) boot(ctx context.Context) error {
	if n.c.cgroups.populated(n.Name) {
		return fmt.Errorf("start %s: it runs", n.Name)
	}
	if err := n.c.cgroups.makeNode(n.Name); err != nil {
		return fmt.Errorf("cgroups of %s: %w", n.Name, err)
	}
	for _, mark := range []string{"join", "booted", kubeletOff} {
		_ = os.Remove(n.path(mark))
	}
	ns, err := netns.GetFromPath(n.Netns())
	if err != nil {
		return err
	}
	defer ns.Close()
	err = inNetns(ns, func() error {
		return n.c.detach([]string{"/bin/bash", n.path("launch.sh")}, n.Name, n.Name, n.environment())
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	for !exists(n.path("booted")) {
		if err := pause(ctx); err != nil {
			return fmt.Errorf("%s does not boot: %w", n.Name, err)
		}
		if !n.c.cgroups.populated(n.Name) {
			return fmt.Errorf("%s died while booting; see %s", n.Name, n.c.path("logs", n.Name+".log"))
		}
	}
	return nil
}

// joinCluster lets the kubelet start, once the API server has its Node object.
func (n *Node) joinCluster() error { return os.WriteFile(n.path("join"), nil, 0o644) }

// environment is what the node's scripts work with.
func (n *Node) environment() []string {
	var joined, mounts []string
	for _, h := range n.c.cgroups.all {
		joined = append(joined, n.c.cgroups.path(h, n.Name))
		if h.v1 != "" {
			mounts = append(mounts, filepath.Base(h.dir)+"="+h.v1)
		}
	}
	unified := ""
	if n.c.cgroups.unified() {
		unified = "yes"
	}
	return []string{
		"NODE=" + n.Name, "N=" + n.Dir(), "BIN=" + n.c.cfg.BinDir, "LOGS=" + n.c.path("logs"), "PKI=" + n.c.path("pki"),
		"NODE_IPS=" + join(n.Addrs()), "CNI_PLUGINS=" + cniPluginDir,
		"CGROUPS=" + strings.Join(joined, " "), "CGROUP2=" + n.c.cgroups.path(n.c.cgroups.v2, n.Name),
		"CGROUP_V1=" + strings.Join(mounts, " "), "UNIFIED=" + unified,
	}
}

// writeFiles writes the node's scripts and configuration, and lays out its disk.
func (n *Node) writeFiles() error {
	for _, dir := range []string{"etc-cni/net.d", "opt-cni/bin", "images"} {
		if err := os.MkdirAll(n.path(dir), 0o755); err != nil {
			return err
		}
	}
	values := map[string]any{
		"Node": n, "Addrs": n.Addrs(), "Pods": n.pods, "PKI": n.c.path("pki"), "Config": n.c.cfg, "PauseImage": PauseImage,
		"PodCIDR": podCIDR, "DNS": dnsService4, "PluginDir": cniPluginDir,
	}
	for source, target := range map[string]string{
		"launch.sh": "launch.sh", "init.sh": "init.sh", "containerd.toml": "containerd.toml", "kubelet.yaml": "kubelet.yaml",
		"kube-proxy.yaml": "kube-proxy.yaml", "pods.conflist": "etc-cni/net.d/10-pods.conflist",
		"interface.sh": "interface.sh",
	} {
		if err := writeTemplate(source, n.path(target), values); err != nil {
			return err
		}
	}
	for i, archive := range n.c.cfg.Images {
		if err := os.Symlink(archive, n.path("images", fmt.Sprintf("%02d.tar", i))); err != nil {
			return err
		}
	}
	return nil
}

func writeTemplate(source, target string, values any) error {
	t, err := template.ParseFS(files, "files/"+source)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, values); err != nil {
		return err
	}
	return os.WriteFile(target, b.Bytes(), 0o644)
}

func (n *Node) path(elem ...string) string {
	return filepath.Join(append([]string{n.Dir()}, elem...)...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Command prepares a command on the node, in all of its namespaces and in its cgroup: a process of the host's, as a
// person would start it there.
func (n *Node) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	pid, err := n.firstProcess()
	if err != nil {
		return nil, err
	}
	enter := []string{"-t", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--wd=/", "--"}
	script := `echo 0 > "$0/cgroup.procs" && exec nsenter "$@"`
	args := append([]string{"-c", script, n.c.cgroups.path(n.c.cgroups.v2, filepath.Join(n.Name, "init"))}, enter...)
	cmd := exec.CommandContext(ctx, "/bin/sh", append(args, argv...)...)
	cmd.Env = append(cleanEnv(), "HOME=/root")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd, nil
}

// Exec runs a command on the node and returns its output; an error has what it said on standard error.
func (n *Node) Exec(ctx context.Context, argv ...string) (string, error) {
	cmd, err := n.Command(ctx, argv...)
	if err != nil {
		return "", err
	}
	return output(cmd, strings.Join(argv, " ")+" on "+n.Name)
}

// firstProcess is the node's pid 1, as this process sees it.
func (n *Node) firstProcess() (int, error) {
	raw, err := os.ReadFile(filepath.Join(n.c.cgroups.path(n.c.cgroups.v2, filepath.Join(n.Name, "init")), "cgroup.procs"))
	if err != nil {
		return 0, fmt.Errorf("%s does not run: %w", n.Name, err)
	}
	for pid := range strings.FieldsSeq(string(raw)) {
		status, _ := os.ReadFile(filepath.Join("/proc", pid, "status"))
		_, after, _ := strings.Cut(string(status), "\nNSpid:")
		line, _, _ := strings.Cut(after, "\n")
		ids := strings.Fields(line)
		if len(ids) > 1 && ids[len(ids)-1] == "1" && ids[len(ids)-2] == pid {
			return strconv.Atoi(pid)
		}
	}
	return 0, fmt.Errorf("%s does not run", n.Name)
}

// endFirstProcess ends the node's pid namespace, and returns when the process that made it has collected what is left:
// killed with the rest, it would leave that to the machine's own first process, which may take its time.
func (n *Node) endFirstProcess(ctx context.Context) {
	pid, err := n.firstProcess()
	if err != nil {
		return // it does not run
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for exists(filepath.Join("/proc", strconv.Itoa(pid))) {
		if pause(ctx) != nil {
			return // the cgroup's kill is next
		}
	}
}

// LoadImage imports image archives (of docker save, or OCI) on all nodes.
func (c *Cluster) LoadImage(ctx context.Context, archives ...string) error {
	all, ctx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		all.Go(func() error {
			for _, archive := range archives {
				if err := n.loadImage(ctx, archive); err != nil {
					return fmt.Errorf("load %s on %s: %w", archive, n.Name, err)
				}
			}
			return nil
		})
	}
	return all.Wait()
}

func (n *Node) loadImage(ctx context.Context, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd, err := n.Command(ctx, "ctr", "--namespace", "k8s.io", "images", "import", "-")
	if err != nil {
		return err
	}
	cmd.Stdin = f
	_, err = output(cmd, "ctr images import")
	return err
}
