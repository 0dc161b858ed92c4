package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Kubeconfig is the path of an administrator's kubeconfig. Its server is to be reached in the control plane's network
// namespace and on nodes.
func (c *Cluster) Kubeconfig() string { return c.path("pki", "admin.kubeconfig") }

// RestConfig is [Cluster.Kubeconfig] for clients in this process, without limits to their speed: it dials from inside
// the control plane's network namespace.
func (c *Cluster) RestConfig() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1
	cfg.Proxy = nil
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialIn(ctx, c.cp.Netns(), network, address)
	}
	return cfg, nil
}

// Client is a client of the API server.
func (c *Cluster) Client() (kubernetes.Interface, error) {
	cfg, err := c.RestConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// Command prepares a command in the control plane's network namespace, with KUBECONFIG and kubectl in its environment:
// what a person on the control plane would run.
func (p *ControlPlane) Command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + p.Netns(), "--"}, argv...)...)
	cmd.Env = cleanEnv()
	cmd.Env[0] += ":" + p.c.cfg.BinDir
	cmd.Env = append(cmd.Env, "HOME="+p.c.cfg.Dir, "KUBECONFIG="+p.c.Kubeconfig())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// KubectlCommand prepares a kubectl command, for callers that need its standard input or let it run.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	return c.cp.Command(ctx, append([]string{filepath.Join(c.cfg.BinDir, "kubectl")}, args...)...)
}

// Kubectl runs kubectl and returns its output; an error has what it said on standard error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return output(c.KubectlCommand(ctx, args...), "kubectl "+strings.Join(args, " "))
}

// Apply applies manifests, server-side, so that it may be repeated by anybody.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	cmd := c.KubectlCommand(ctx, "apply", "--server-side", "--force-conflicts", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	_, err := output(cmd, "kubectl apply")
	return err
}

func output(cmd *exec.Cmd, what string) (string, error) {
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(stderr.String()))
	}
	return out.String(), nil
}

// AwaitAPIServer returns when the API server says that it is ready.
func (p *ControlPlane) AwaitAPIServer(ctx context.Context) error {
	client, err := p.c.Client()
	if err != nil {
		return err
	}
	for {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil {
			return nil
		}
		if !p.c.cgroups.populated(p.cgroup(APIServer)) {
			return errors.New("the API server died; see logs/cp-kube-apiserver.log")
		}
		if pause(ctx) != nil {
			return fmt.Errorf("the API server does not get ready: %w", err)
		}
	}
}

// createNodes makes the Node objects before the kubelets look for theirs: their ranges are known, and nobody waits for
// a controller to give them some. Each node is a zone.
func (c *Cluster) createNodes(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	for _, n := range c.nodes {
		node := &corev1.Node{Spec: corev1.NodeSpec{PodCIDR: n.pods[0].String()}}
		node.Name = n.Name
		node.Labels = map[string]string{corev1.LabelTopologyZone: strings.Replace(n.Name, "node", "zone", 1)}
		for _, p := range n.pods {
			node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, p.String())
		}
		if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	binding := &rbacv1.ClusterRoleBinding{
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-proxier"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "system:kube-proxy"}},
	}
	binding.Name = "kube-proxy"
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	return err
}

// AwaitNodes returns when every node that runs is Ready, and every other is not.
func (c *Cluster) AwaitNodes(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	for {
		waiting, err := c.unsettled(ctx, client)
		if waiting == "" && err == nil {
			return nil
		}
		if pause(ctx) != nil {
			return errors.Join(fmt.Errorf("node %s is not as it should be: %w", waiting, ctx.Err()), err)
		}
	}
}

// unsettled names a node whose condition is not yet what it does.
func (c *Cluster) unsettled(ctx context.Context, client kubernetes.Interface) (string, error) {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	ready := map[string]bool{}
	for _, n := range list.Items {
		ready[n.Name] = isReady(n)
	}
	for _, n := range c.nodes {
		if ready[n.Name] != n.Running() {
			return n.Name, nil
		}
	}
	return "", nil
}

// Running tells whether the node is switched on.
func (n *Node) Running() bool { return n.c.cgroups.populated(n.Name) }

// startDNS starts CoreDNS and waits until it serves.
func (c *Cluster) startDNS(ctx context.Context) error {
	t, err := template.ParseFS(files, "files/coredns.yaml")
	if err != nil {
		return err
	}
	var manifests strings.Builder
	values := map[string]any{"Image": DNSImage, "Addrs": []string{dnsService4, dnsService6}, "Replicas": min(2, c.cfg.Nodes)}
	if err := t.Execute(&manifests, values); err != nil {
		return err
	}
	if err := c.Apply(ctx, manifests.String()); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "rollout", "status", "--namespace=kube-system", "deployment/coredns", "--timeout=60s")
	return err
}
