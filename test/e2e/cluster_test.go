// Package e2e tests the product on a real Kubernetes of several nodes, which package cluster brings up on this
// machine. `make e2e` runs it.
package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/internal/sample"
	"github.com/warren-mesh/warren/test/e2e/cluster"
	"github.com/warren-mesh/warren/test/e2e/images"
)

// echoes is one pod of the sample app on each node, and a Service of both families.
const echoes = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {matchLabels: {app: echo}}
      containers:
      - name: echo
        image: localhost/sample:1
        imagePullPolicy: Never
        args: [http]
        readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: echo}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
`

// TestClusterComesUp is about the cluster, not the product: what later tests take for granted is so.
func TestClusterComesUp(t *testing.T) {
	for _, mode := range []struct{ proxy, cni string }{
		{cluster.ProxyNFTables, cluster.CNIPointToPoint},
		{cluster.ProxyIPTables, cluster.CNIBridge},
	} {
		t.Run(mode.proxy+" "+mode.cni, func(t *testing.T) {
			k := up(t, "comesup", func(c *cluster.Config) { c.ProxyMode, c.CNI = mode.proxy, mode.cni })
			k.apply(echoes)
			k.kubectl("rollout", "status", "deployment/echo", "--timeout=60s")
			for _, sub := range []struct {
				name string
				test func(*kube)
			}{
				{"pods across nodes", testPods}, {"service address", testService}, {"node port", testNodePort},
				{"names", testNames}, {"logs", testLogs}, {"port-forward", testPortForward}, {"wiretap", testTap},
				{"images", testImages}, {"bpffs and cgroups", testKernelObjects},
				{"API server away and back", testAPIServer}, {"node off and on", testNode},
			} {
				t.Run(sub.name, func(t *testing.T) { sub.test(k.with(t)) })
			}
		})
	}
}

// pair returns the sample pod on each node, ready, in the order of the nodes.
func (k *kube) pair() (pods [2]corev1.Pod) {
	k.tb.Helper()
	await(k.tb, "a ready pod on each node", 60*time.Second, func() error {
		list, err := k.client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{LabelSelector: "app=echo"})
		if err != nil {
			return err
		}
		found := map[string]corev1.Pod{}
		for _, p := range list.Items {
			if ready(p) {
				found[p.Spec.NodeName] = p
			}
		}
		if len(found) != 2 {
			return fmt.Errorf("ready pods are on %d nodes", len(found))
		}
		pods = [2]corev1.Pod{found["node-a"], found["node-b"]}
		return nil
	})
	return pods
}

func ready(p corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil && len(p.Status.PodIPs) == 2
		}
	}
	return false
}

// testPods: both families, both directions, and each sees the other's true address.
func testPods(k *kube) {
	pods := k.pair()
	for i, from := range pods {
		to := pods[1-i]
		for family := range 2 {
			echo, err := k.get(from.Name, "http://"+net.JoinHostPort(to.Status.PodIPs[family].IP, "8080")+"/")
			if err != nil {
				k.tb.Fatal(err)
			}
			peer := netip.MustParseAddrPort(echo.RemoteAddr).Addr().Unmap()
			if echo.Host != to.Name || peer.String() != from.Status.PodIPs[family].IP {
				k.tb.Errorf("%s asked %s at %s: %s answered and saw %s", from.Name, to.Name, to.Status.PodIPs[family].IP, echo.Host, peer)
			}
		}
	}
}

// testService: each of the service's addresses leads to both pods, from either node.
func testService(k *kube) {
	service, err := k.client.CoreV1().Services("default").Get(context.Background(), "echo", metav1.GetOptions{})
	if err != nil {
		k.tb.Fatal(err)
	}
	for _, from := range k.pair() {
		for _, ip := range service.Spec.ClusterIPs {
			k.reachesBoth(func() (sample.Echo, error) { return k.get(from.Name, "http://"+net.JoinHostPort(ip, "80")+"/") })
		}
	}
}

// reachesBoth fails unless both pods are found within 40 attempts, all of which succeed.
func (k *kube) reachesBoth(ask func() (sample.Echo, error)) {
	k.tb.Helper()
	seen := map[string]bool{}
	for range 40 {
		echo, err := ask()
		if err != nil {
			k.tb.Fatal(err)
		}
		seen[echo.Host] = true
		if len(seen) == 2 {
			return
		}
	}
	k.tb.Errorf("of two pods only %v answered", seen)
}

// testNodePort asks every node from outside.
func testNodePort(k *kube) {
	for _, n := range k.Nodes() {
		for _, a := range n.Addrs() {
			k.reachesBoth(func() (echo sample.Echo, err error) {
				url := "http://" + net.JoinHostPort(a.String(), "30080") + "/"
				out, err := k.ControlPlane().Command(context.Background(), "curl", "-sS", "-m", "3", url).Output()
				if err != nil {
					return echo, fmt.Errorf("%s: %w", url, err)
				}
				return echo, json.Unmarshal(out, &echo)
			})
		}
	}
}

// testNames: the cluster's DNS knows a Service as soon as it exists, by its short name and its full one.
func testNames(k *kube) {
	pods := k.pair()
	k.apply(strings.NewReplacer("name: echo", "name: fresh", "nodePort: 30080", "nodePort: 30081").Replace(echoes[strings.Index(echoes, "---"):]))
	for _, pod := range pods {
		for _, name := range []string{"fresh", "fresh.default", "fresh.default.svc.cluster.local"} {
			await(k.tb, name+" from "+pod.Name, 3*time.Second, func() error {
				_, err := k.get(pod.Name, "http://"+name+"/")
				return err
			})
		}
	}
}

func testLogs(k *kube) {
	for _, pod := range k.pair() {
		if out := k.kubectl("logs", pod.Name); !strings.Contains(out, "http on ") {
			k.tb.Errorf("log of %s: %q", pod.Name, out)
		}
	}
}

func testPortForward(k *kube) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pod := k.pair()[1].Name
	cmd := k.KubectlCommand(ctx, "port-forward", "pod/"+pod, ":8080")
	out, err := cmd.StdoutPipe()
	if err != nil {
		k.tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		k.tb.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n') // Forwarding from 127.0.0.1:NNNNN -> 8080
	words := strings.Fields(line)
	if err != nil || len(words) < 3 {
		k.tb.Fatalf("port-forward said %q: %v", line, err)
	}
	answer, err := k.ControlPlane().Command(ctx, "curl", "-sS", "-m", "5", "http://"+words[2]+"/").Output()
	if err != nil || !strings.Contains(string(answer), pod) {
		k.tb.Errorf("through the forwarded port: %v %s", err, answer)
	}
}

// testTap: what one node sends another in the clear is heard, and what stays on a node is not.
func testTap(k *kube) {
	pods := k.pair()
	heard, unheard := k.tap("canary-between"), k.tap("canary-inside")
	if _, err := k.get(pods[0].Name, "http://"+pods[1].Status.PodIP+":8080/canary-between"); err != nil {
		k.tb.Fatal(err)
	}
	inside := "http://" + pods[0].Status.PodIP + ":8080/canary-inside"
	if _, err := k.Node("node-a").Exec(context.Background(), "curl", "-sS", "-m", "3", inside); err != nil {
		k.tb.Fatal(err)
	}
	await(k.tb, "the canary on the wire", 5*time.Second, func() error {
		if heard.Readable.Load() == 0 {
			return errors.New("nothing heard")
		}
		return nil
	})
	if n := unheard.Readable.Load(); n != 0 {
		k.tb.Errorf("%d packets between nodes carried what was sent inside one", n)
	}
}

// testImages: an image that is loaded later can be run on both nodes.
func testImages(k *kube) {
	archive := filepath.Join(k.tb.TempDir(), "late.tar")
	dir := filepath.Dir(artifacts.images[0])
	err := images.Write(archive, images.Image{
		Ref: "localhost/late:1", Files: map[string]string{"/bin/late": filepath.Join(dir, "sample")}, Entrypoint: []string{"/bin/late"},
	})
	if err != nil {
		k.tb.Fatal(err)
	}
	if err := k.LoadImage(context.Background(), archive); err != nil {
		k.tb.Fatal(err)
	}
	for _, n := range k.Nodes() {
		out, err := n.Exec(context.Background(), "ctr", "-n", "k8s.io", "images", "ls", "-q")
		if err != nil || !strings.Contains(out, "localhost/late:1\n") {
			k.tb.Errorf("images on %s: %v %s", n.Name, err, out)
		}
	}
	k.kubectl("run", "late", "--image=localhost/late:1", "--image-pull-policy=Never", "--", "http")
	k.kubectl("wait", "pod/late", "--for=condition=Ready", "--timeout=20s")
	k.kubectl("delete", "pod/late", "--grace-period=1")
}

// testKernelObjects: a node has a bpffs and a root of cgroups of its own, in which its pods are.
func testKernelObjects(k *kube) {
	ctx := context.Background()
	a, b := k.Node("node-a"), k.Node("node-b")
	if _, err := a.Exec(ctx, "mkdir", "/sys/fs/bpf/mine"); err != nil {
		k.tb.Fatal(err)
	}
	if _, err := b.Exec(ctx, "stat", "/sys/fs/bpf/mine"); err == nil {
		k.tb.Error("both nodes have the same bpffs")
	}
	for i, n := range []*cluster.Node{a, b} {
		out, err := n.Exec(ctx, "sh", "-c", `d=$(awk '$3=="cgroup2"{print $2}' /proc/mounts | head -1); find $d/kubepods -name '*pod*' -type d; cat /proc/self/cgroup`)
		if err != nil {
			k.tb.Fatal(err)
		}
		if uid := string(k.pair()[i].UID); !strings.Contains(out, uid) {
			k.tb.Errorf("%s: the pod %s is not in the node's cgroup v2:\n%s", n.Name, uid, out)
		}
		if !strings.Contains(out, "0::/init\n") {
			k.tb.Errorf("%s: a host process is not in the node's cgroup v2:\n%s", n.Name, out)
		}
	}
}

// testAPIServer: without it everything that runs goes on; with it back, it obeys again.
func testAPIServer(k *kube) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pod := k.pair()[0]
	if err := k.ControlPlane().StopAPIServer(ctx); err != nil {
		k.tb.Fatal(err)
	}
	if out, err := k.tryKubectl("get", "nodes", "--request-timeout=2s"); err == nil {
		k.tb.Errorf("the API server was stopped, and answers: %s", out)
	}
	if out, err := k.Node("node-a").Exec(ctx, "curl", "-sS", "-m", "3", "http://"+pod.Status.PodIP+":8080/healthz"); err != nil {
		k.tb.Errorf("pod without an API server: %v %s", err, out)
	}
	if err := k.ControlPlane().StartAPIServer(ctx); err != nil {
		k.tb.Fatal(err)
	}
	if err := k.AwaitNodes(ctx); err != nil {
		k.tb.Error(err)
	}
}

// testNode: a node that loses its power is noticed, and comes back with its disk.
func testNode(k *kube) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	before := k.pair()
	b := k.Node("node-b")
	if _, err := b.Exec(ctx, "touch", "/etc/cni/net.d/kept", "/run/lost"); err != nil {
		k.tb.Fatal(err)
	}
	if err := b.Kill(ctx); err != nil {
		k.tb.Fatal(err)
	}
	if _, err := b.Exec(ctx, "true"); err == nil {
		k.tb.Error("a command ran on a dead node")
	}
	k.settle(ctx, "NotReady")
	if _, err := k.get(before[0].Name, "http://"+before[0].Status.PodIP+":8080/"); err != nil {
		k.tb.Errorf("the other node suffers: %v", err)
	}
	if err := b.Start(ctx); err != nil {
		k.tb.Fatal(err)
	}
	k.settle(ctx, "Ready again")
	if _, err := b.Exec(ctx, "stat", "/etc/cni/net.d/kept"); err != nil {
		k.tb.Errorf("the node's disk: %v", err)
	}
	if _, err := b.Exec(ctx, "stat", "/run/lost"); err == nil {
		k.tb.Error("/run outlived the node")
	}
	await(k.tb, "traffic with the pod that was restarted", 30*time.Second, func() error {
		_, err := k.get(before[0].Name, "http://"+k.pair()[1].Status.PodIP+":8080/")
		return err
	})
}

func (k *kube) settle(ctx context.Context, what string) {
	k.tb.Helper()
	start := time.Now()
	if err := k.AwaitNodes(ctx); err != nil {
		k.tb.Fatal(err)
	}
	k.tb.Logf("%s after %s", what, time.Since(start).Round(100*time.Millisecond))
}
