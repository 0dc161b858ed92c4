package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Part is the controller or the agents: how many of them are up, and why the others are not.
type Part struct {
	Name        string
	Ready, Want int
	// Version is the image's tag that is wanted.
	Version string
	// Waiting says for each that is not ready where it is and why, sorted.
	Waiting []string
	done    bool
}

// Done says whether every one is ready and of the wanted version.
func (p Part) Done() bool { return p.done }

// Rollout tells how far an installation or an upgrade is.
func (c *Cluster) Rollout(ctx context.Context) ([]Part, error) {
	d, err := c.Client.AppsV1().Deployments(c.Namespace).Get(ctx, Controller, metav1.GetOptions{})
	if err != nil {
		return nil, c.notThere("the controller", err)
	}
	ds, err := c.Client.AppsV1().DaemonSets(c.Namespace).Get(ctx, Agent, metav1.GetOptions{})
	if err != nil {
		return nil, c.notThere("the agents", err)
	}
	pods, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: appLabel + " in (" + Agent + "," + Controller + ")"})
	if err != nil {
		return nil, fmt.Errorf("list the pods in namespace %s: %w", c.Namespace, err)
	}
	events, err := c.Client.CoreV1().Events(c.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning", Limit: 1000})
	if err != nil {
		events = &corev1.EventList{} // they only explain
	}
	warned := newestWarnings(events.Items)
	return []Part{controllerPart(d, pods.Items, warned), agentPart(ds, pods.Items, warned)}, nil
}

func (c *Cluster) notThere(what string, err error) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("the mesh is %w in namespace %s of %s", ErrNotInstalled, c.Namespace, c)
	}
	return fmt.Errorf("read how %s are doing in namespace %s: %w", what, c.Namespace, err)
}

// newestWarnings is the newest warning about each object, by "Kind/name".
func newestWarnings(events []corev1.Event) map[string]string {
	slices.SortStableFunc(events, func(a, b corev1.Event) int { return eventTime(a).Compare(eventTime(b).Time) })
	out := make(map[string]string)
	for _, e := range events {
		out[e.InvolvedObject.Kind+"/"+e.InvolvedObject.Name] = e.Reason + ": " + oneLine(e.Message)
	}
	return out
}

func eventTime(e corev1.Event) metav1.Time {
	if !e.LastTimestamp.IsZero() {
		return e.LastTimestamp
	}
	return metav1.Time{Time: e.EventTime.Time}
}

func controllerPart(d *appsv1.Deployment, pods []corev1.Pod, warned map[string]string) Part {
	p := Part{Name: "controller", Ready: int(min(d.Status.ReadyReplicas, d.Status.UpdatedReplicas)), Want: 1, Version: tag(d.Spec.Template)}
	if d.Spec.Replicas != nil {
		p.Want = int(*d.Spec.Replicas)
	}
	p.done = d.Status.ObservedGeneration >= d.Generation && int(d.Status.UpdatedReplicas) == p.Want &&
		int(d.Status.AvailableReplicas) == p.Want && int(d.Status.Replicas) == p.Want
	p.Waiting = waiting(Controller, pods, warned)
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			p.Waiting = append(p.Waiting, "no node: "+oneLine(c.Message))
		}
	}
	return p
}

func agentPart(ds *appsv1.DaemonSet, pods []corev1.Pod, warned map[string]string) Part {
	s := ds.Status
	p := Part{Name: "agents", Ready: int(min(s.NumberReady, s.UpdatedNumberScheduled)), Want: int(s.DesiredNumberScheduled), Version: tag(ds.Spec.Template)}
	seen := s.ObservedGeneration >= ds.Generation
	p.done = seen && s.UpdatedNumberScheduled == s.DesiredNumberScheduled && s.NumberAvailable == s.DesiredNumberScheduled
	p.Waiting = waiting(Agent, pods, warned)
	// Pods that may not even be made show up nowhere else.
	if text := warned["DaemonSet/"+Agent]; text != "" && int(s.CurrentNumberScheduled) < p.Want {
		p.Waiting = append(p.Waiting, "no node: "+text)
	}
	return p
}

func tag(t corev1.PodTemplateSpec) string {
	if len(t.Spec.Containers) == 0 {
		return ""
	}
	image := t.Spec.Containers[0].Image
	_, tag, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return tag
}

func waiting(app string, pods []corev1.Pod, warned map[string]string) (out []string) {
	for i := range pods {
		if p := &pods[i]; p.Labels[appLabel] == app {
			if why := notReady(p, warned["Pod/"+p.Name]); why != "" {
				out = append(out, cmp.Or(p.Spec.NodeName, "no node")+": "+why)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// notReady says why a pod is not ready; empty means that it is. warning is the newest event about it.
func notReady(p *corev1.Pod, warning string) string {
	if p.DeletionTimestamp != nil {
		return "the old one is stopping"
	}
	for _, c := range p.Status.ContainerStatuses {
		if c.Ready {
			return ""
		}
		if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			return withText(w.Reason, lastEnd(c, w.Message))
		}
		if c.State.Running != nil && c.RestartCount > 0 {
			return fmt.Sprintf("not ready, restarted %d times: %s", c.RestartCount, lastEnd(c, ""))
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return withText(c.Reason, c.Message)
		}
	}
	if warning != "" && p.Status.Phase == corev1.PodPending {
		return warning
	}
	if p.Status.Phase == corev1.PodRunning {
		return "it runs and is not ready yet"
	}
	return "starting"
}

// lastEnd is how a container ended last, if it did.
func lastEnd(c corev1.ContainerStatus, text string) string {
	if t := c.LastTerminationState.Terminated; t != nil {
		return withText(fmt.Sprintf("exit code %d", t.ExitCode), t.Message)
	}
	return text
}

func withText(reason, text string) string {
	if text = oneLine(text); text != "" {
		return reason + ": " + text
	}
	return reason
}

// maxLine bounds a foreign text in one line.
const maxLine = 300

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > maxLine {
		return string(r[:maxLine]) + "…"
	}
	return s
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}
