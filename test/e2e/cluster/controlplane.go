package cluster

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// Components of the control plane, by the names under which [ControlPlane.Stop] and [ControlPlane.Start] know them.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
)

// ControlPlane is the machine of Kubernetes' own components. It is no node: no pod runs there.
type ControlPlane struct{ c *Cluster }

// Netns is the path of its network namespace, which has the bridge between all nodes.
func (p *ControlPlane) Netns() string { return p.c.netns("cp") }

// Addrs are its addresses on the network between nodes, IPv4 first.
func (p *ControlPlane) Addrs() []netip.Addr { return addrsOf(lanAddrs(1)) }

// start starts everything and returns when the API server is ready and knows the nodes.
func (p *ControlPlane) start(ctx context.Context) error {
	for _, component := range []string{Etcd, APIServer} {
		if err := p.Start(component); err != nil {
			return err
		}
	}
	if err := p.AwaitAPIServer(ctx); err != nil {
		return err
	}
	if err := p.startControllers(); err != nil {
		return err
	}
	return p.c.createNodes(ctx)
}

// Stop kills a component and returns when it is gone.
func (p *ControlPlane) Stop(ctx context.Context, component string) error {
	if err := p.c.cgroups.kill(ctx, p.cgroup(component)); err != nil {
		return err
	}
	// Linux kills what is born into a cgroup that was ever killed, if its parent lives in another one.
	return p.c.cgroups.remove(ctx, p.cgroup(component))
}

// Start starts a component, as it was started at first.
func (p *ControlPlane) Start(component string) error {
	if p.c.cgroups.populated(p.cgroup(component)) {
		return fmt.Errorf("start %s: it runs", component)
	}
	ns, err := netns.GetFromPath(p.Netns())
	if err != nil {
		return err
	}
	defer ns.Close()
	argv := append([]string{filepath.Join(p.c.cfg.BinDir, component)}, p.arguments(component)...)
	err = inNetns(ns, func() error { return p.c.detach(argv, p.cgroup(component), "cp-"+component, nil) })
	if err != nil {
		return fmt.Errorf("start %s: %w", component, err)
	}
	return nil
}

// StopAPIServer takes the API away: existing watches end, new requests find nobody. Kubernetes' controllers end with it, as
// they do where one of several is elected: without an API server it can't keep its lease.
func (p *ControlPlane) StopAPIServer(ctx context.Context) error {
	for _, component := range []string{Scheduler, ControllerManager, APIServer} {
		if err := p.Stop(ctx, component); err != nil {
			return err
		}
	}
	return nil
}

// StartAPIServer brings the API back, and returns when it answers. The controllers begin anew: one that had gone on would
// take every node for dead, of which it has heard nothing, until it follows them again.
func (p *ControlPlane) StartAPIServer(ctx context.Context) error {
	if err := p.Start(APIServer); err != nil {
		return err
	}
	if err := p.AwaitAPIServer(ctx); err != nil {
		return err
	}
	return p.startControllers()
}

func (p *ControlPlane) startControllers() error {
	for _, component := range []string{ControllerManager, Scheduler} {
		if err := p.Start(component); err != nil {
			return err
		}
	}
	return nil
}

func (p *ControlPlane) cgroup(component string) string { return filepath.Join("cp", component) }

func (p *ControlPlane) arguments(component string) []string {
	switch component {
	case Etcd:
		return p.etcdArguments()
	case APIServer:
		return p.apiServerArguments()
	case ControllerManager:
		return p.controllerManagerArguments()
	case Kwok:
		return p.kwokArguments()
	default:
		config := p.c.path("pki", "scheduler.kubeconfig")
		return []string{
			"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
			"--leader-elect=false", "--bind-address=127.0.0.1", "--kube-api-qps=1000", "--kube-api-burst=2000", "--v=1",
		}
	}
}

func (p *ControlPlane) etcdArguments() []string {
	return []string{
		"--data-dir=" + p.c.path("etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380",
	}
}

func (p *ControlPlane) apiServerArguments() []string {
	pki := func(name string) string { return p.c.path("pki", name) }
	return []string{
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address=::", "--secure-port=" + strconv.Itoa(apiPort),
		"--advertise-address=" + p.Addrs()[0].String(), "--service-cluster-ip-range=" + serviceCIDR,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--client-ca-file=" + pki("ca.crt"),
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
		"--kubelet-client-certificate=" + pki("kubelet-client.crt"), "--kubelet-client-key=" + pki("kubelet-client.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		// No kube-proxy runs here: service addresses are to be had through endpoints.
		"--enable-aggregator-routing=true", "--profiling=false", "--v=1",
	}
}

func (p *ControlPlane) controllerManagerArguments() []string {
	pki := func(name string) string { return p.c.path("pki", name) }
	return []string{
		"--kubeconfig=" + pki("kcm.kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1",
		"--use-service-account-credentials=true", "--service-account-private-key-file=" + pki("sa.key"),
		"--root-ca-file=" + pki("ca.crt"),
		"--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
		"--allocate-node-cidrs=true", "--cluster-cidr=" + podCIDR, "--service-cluster-ip-range=" + serviceCIDR,
		"--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64",
		// See also the kubelets' lease.
		"--node-monitor-grace-period=" + cmp.Or(p.c.cfg.NodeGrace, 20*time.Second).String(), "--node-monitor-period=1s",
		"--kube-api-qps=1000", "--kube-api-burst=2000", "--v=1",
	}
}

// detach starts a process that outlives this one, in the calling thread's network namespace and a cgroup of its own.
// Its output goes to logs/<log>.log.
func (c *Cluster) detach(argv []string, cgroup, log string, env []string) error {
	group, err := c.cgroups.makeV2(cgroup)
	if err != nil {
		return err
	}
	defer group.Close()
	out, err := os.OpenFile(c.path("logs", log+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, c.cfg.Dir
	cmd.Env = append(append(cleanEnv(), "HOME="+c.cfg.Dir), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.reaping.Go(func() { _ = cmd.Wait() }) // if this process is still there; the cgroup tells whether it lives
	return nil
}

// cleanEnv is what a machine's services start with; nothing of the caller's, proxies above all, may reach them.
func cleanEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
}

func addrsOf(prefixes []netip.Prefix) (addrs []netip.Addr) {
	for _, p := range prefixes {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

func join[T fmt.Stringer](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = v.String()
	}
	return strings.Join(words, ",")
}
