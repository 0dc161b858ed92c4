package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const (
	// probesAtOnce bounds how many nodes are looked at at a time.
	probesAtOnce = 20
	// probeTime bounds one node, the pull of the image included.
	probeTime = 2 * time.Minute
	// probeEvery is how often a pod is looked at.
	probeEvery = 500 * time.Millisecond
	// probeApp is the name that the pods have.
	probeApp = "warren-check"
	// maxOutput bounds what is read of a pod's output, bytes.
	maxOutput = 1 << 20
)

// Probed is what a pod on one node said, or why it said nothing.
type Probed struct {
	Node, Output string
	Err          error
}

// Probe runs command on every Linux node in a pod that has what the agent of the manifests has: image, mounts,
// capabilities. So it finds what an agent would find, being refused included. The pods are deleted, and the namespace
// too if it was made for them.
func (c *Cluster) Probe(ctx context.Context, manifests string, command []string) ([]Probed, error) {
	spec, err := agentSpec(manifests)
	if err != nil {
		return nil, err
	}
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/os=linux"})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	before := c.hasNamespace(ctx)
	if err := c.EnsureNamespace(ctx); err != nil {
		return nil, err
	}
	if !before {
		defer c.dropNamespace(ctx)
	}
	out := make([]Probed, len(nodes.Items))
	var g errgroup.Group
	g.SetLimit(probesAtOnce)
	for i, n := range nodes.Items {
		g.Go(func() error {
			pod := probePod(*spec, n.Name, c.Namespace, command)
			text, err := c.probe(ctx, pod)
			out[i] = Probed{n.Name, text, err}
			return nil
		})
	}
	_ = g.Wait() // every error is in its place
	slices.SortFunc(out, func(a, b Probed) int { return strings.Compare(a.Node, b.Node) })
	return out, nil
}

func (c *Cluster) hasNamespace(ctx context.Context) bool {
	_, err := c.Client.CoreV1().Namespaces().Get(ctx, c.Namespace, metav1.GetOptions{})
	return err == nil
}

// dropNamespace deletes the namespace, also if ctx has ended, and waits until it is gone: an installation may be next.
func (c *Cluster) dropNamespace(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		// Pods that are still stopping keep it for a moment; one that stays empty is no harm.
		if gone, _, err := c.SweepNamespace(ctx); gone || err != nil {
			return
		}
		time.Sleep(probeEvery)
	}
}

// agentSpec finds the agent's pod in rendered manifests.
func agentSpec(manifests string) (*corev1.PodSpec, error) {
	for doc := range strings.SplitSeq(manifests, "\n---\n") {
		var ds appsv1.DaemonSet
		if yaml.Unmarshal([]byte(doc), &ds) == nil && ds.Kind == "DaemonSet" && ds.Name == Agent {
			return &ds.Spec.Template.Spec, nil
		}
	}
	return nil, errors.New("the chart renders no DaemonSet " + Agent)
}

// probePod is the agent's pod with another command, and without what only exists once Warren is installed.
func probePod(spec corev1.PodSpec, node, namespace string, command []string) *corev1.Pod {
	spec = *spec.DeepCopy()
	absent := []string{"roots", "token"}
	spec.Volumes = slices.DeleteFunc(spec.Volumes, func(v corev1.Volume) bool { return slices.Contains(absent, v.Name) })
	ct := &spec.Containers[0]
	ct.VolumeMounts = slices.DeleteFunc(ct.VolumeMounts, func(m corev1.VolumeMount) bool { return slices.Contains(absent, m.Name) })
	ct.Command, ct.Args, ct.Ports = command, nil, nil
	ct.StartupProbe, ct.ReadinessProbe, ct.LivenessProbe = nil, nil, nil
	spec.ServiceAccountName, spec.RestartPolicy, spec.NodeName = "", corev1.RestartPolicyNever, node
	grace := int64(1)
	spec.TerminationGracePeriodSeconds = &grace
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: probeApp + "-", Namespace: namespace,
			Labels: map[string]string{appLabel: probeApp, "warren.dev/mesh": "disabled"}},
		Spec: spec,
	}
}

func (c *Cluster) probe(ctx context.Context, pod *corev1.Pod) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	api := c.Client.CoreV1().Pods(c.Namespace)
	made, err := api.Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("the pod is refused: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = api.Delete(ctx, made.Name, metav1.DeleteOptions{}) // it ends by itself in any case
	}()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		p, err := api.Get(ctx, made.Name, metav1.GetOptions{})
		if err == nil && (p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed) {
			return c.output(ctx, p)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if p == nil {
				p = made
			}
			return "", fmt.Errorf("the pod did not run within %s: %s", probeTime, notReady(p, ""))
		}
	}
}

// output reads what a pod that has ended printed. One that never ran says why in its status.
func (c *Cluster) output(ctx context.Context, p *corev1.Pod) (string, error) {
	r, err := c.Client.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{}).Stream(ctx)
	if err != nil {
		return "", fmt.Errorf("read the output of pod %s: %w (%s)", p.Name, err, p.Status.Message)
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxOutput))
	if err != nil {
		return "", fmt.Errorf("read the output of pod %s: %w", p.Name, err)
	}
	if len(raw) == 0 {
		return "", fmt.Errorf("the pod said nothing: %s", ended(p))
	}
	return string(raw), nil
}

func ended(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil {
			return withText(fmt.Sprintf("%s, exit code %d", t.Reason, t.ExitCode), t.Message)
		}
	}
	return withText(string(p.Status.Phase), p.Status.Message)
}
