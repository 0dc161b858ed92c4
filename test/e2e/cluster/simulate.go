package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Kwok is the component that simulates nodes, once [Cluster.Simulate] has started it.
const Kwok = "kwok"

// Simulated is the label and the taint of simulated nodes: a pod must tolerate it to be placed on one, and should
// select it to be placed nowhere else.
const Simulated = "warren.dev/simulated"

// Simulate adds nodes sim-0, sim-1, … that exist in the API only: their pods are Running and Ready at once, have
// addresses that nobody answers on, and cost next to nothing. It returns when all are Ready. It works once a cluster.
func (c *Cluster) Simulate(ctx context.Context, nodes int) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	stages, err := files.ReadFile("files/kwok.yaml")
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path("kwok.yaml"), stages, 0o644); err != nil {
		return err
	}
	if err := c.cp.Start(Kwok); err != nil {
		return err
	}
	creating, cctx := errgroup.WithContext(ctx)
	creating.SetLimit(16)
	for i := range nodes {
		creating.Go(func() error {
			_, err := client.CoreV1().Nodes().Create(cctx, simulatedNode(i), metav1.CreateOptions{})
			return err
		})
	}
	if err := creating.Wait(); err != nil {
		return fmt.Errorf("create simulated nodes: %w", err)
	}
	return c.awaitSimulated(ctx, client, nodes)
}

func simulatedNode(i int) *corev1.Node {
	node := &corev1.Node{}
	node.Name = fmt.Sprintf("sim-%d", i)
	node.Labels = map[string]string{Simulated: "", corev1.LabelHostname: node.Name}
	node.Spec.Taints = []corev1.Taint{{Key: Simulated, Effect: corev1.TaintEffectNoSchedule}}
	return node
}

func (c *Cluster) awaitSimulated(ctx context.Context, client kubernetes.Interface, want int) error {
	for {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: Simulated, ResourceVersion: "0"})
		if err != nil {
			return err
		}
		ready := 0
		for _, n := range list.Items {
			if isReady(n) {
				ready++
			}
		}
		if ready == want {
			return nil
		}
		if !c.cgroups.populated(c.cp.cgroup(Kwok)) {
			return errors.New("kwok died; see logs/cp-kwok.log")
		}
		if pause(ctx) != nil {
			return fmt.Errorf("%d of %d simulated nodes are Ready: %w", ready, want, ctx.Err())
		}
	}
}

func isReady(n corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (p *ControlPlane) kwokArguments() []string {
	return []string{
		"--kubeconfig=" + p.c.Kubeconfig(), "--config=" + p.c.path("kwok.yaml"), "--manage-all-nodes=false",
		"--manage-nodes-with-label-selector=" + Simulated, "--cidr=10.200.0.0/14", "--node-ip=" + p.Addrs()[0].String(),
		"--node-lease-duration-seconds=40", // renewed every 10 s, of the 20 s that the controller manager grants
	}
}
