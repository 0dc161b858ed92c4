// Package mesh installs the product on a cluster of package cluster, and asks it and the pods in it, for tests. It does
// what a person would do: agentctl and kubectl, both in the control plane's network. What fails ends the test; at the
// end of a test that failed, the state of the mesh and its logs are printed.
package mesh

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/warren-mesh/warren/test/e2e/cluster"
)

// Namespace is where the product is.
const Namespace = "warren-system"

// commandTimeout bounds one kubectl or agentctl.
const commandTimeout = 2 * time.Minute

// Mesh is a cluster with the product in it, on behalf of one test.
type Mesh struct {
	*cluster.Cluster
	Client  kubernetes.Interface
	Product Product
	tb      testing.TB
	report  func() // prints the state of the mesh, once
}

// Of is a cluster without the product yet.
func Of(tb testing.TB, c *cluster.Cluster, p Product) *Mesh {
	tb.Helper()
	client, err := c.Client()
	if err != nil {
		tb.Fatal(err)
	}
	return &Mesh{Cluster: c, Client: client, Product: p, tb: tb}
}

// Install loads the product's images and installs it, with further arguments of agentctl install. It returns when the
// controller and every agent are ready.
func (m *Mesh) Install(args ...string) {
	m.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if err := m.LoadImage(ctx, m.Product.Images...); err != nil {
		m.tb.Fatal(err)
	}
	m.tb.Cleanup(func() {
		if m.tb.Failed() {
			m.tb.Log(m.logs())
		}
	})
	start := time.Now()
	m.Agentctl(append(append([]string{"install"}, m.Product.Settings()...), args...)...)
	m.tb.Logf("installed, every agent ready after %s", time.Since(start).Round(10*time.Millisecond))
}

// With is the same mesh on behalf of another test. If that fails, the state of the mesh is printed at its end.
func (m *Mesh) With(tb testing.TB) *Mesh {
	n := *m
	n.tb = tb
	n.report = sync.OnceFunc(func() { tb.Log(n.state()) })
	tb.Cleanup(n.reportIfFailed)
	return &n
}

func (m *Mesh) reportIfFailed() {
	if m.tb.Failed() && m.report != nil {
		m.report()
	}
}

// TB is the test on whose behalf the mesh is asked.
func (m *Mesh) TB() testing.TB { return m.tb }

// Kubectl runs kubectl, which must succeed, and returns its output.
func (m *Mesh) Kubectl(args ...string) string {
	m.tb.Helper()
	out, err := m.TryKubectl(args...)
	if err != nil {
		m.tb.Fatal(err)
	}
	return out
}

// TryKubectl runs kubectl. An error has what it said.
func (m *Mesh) TryKubectl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	return m.Cluster.Kubectl(ctx, args...)
}

// Apply applies manifests to a namespace.
func (m *Mesh) Apply(namespace, manifests string) {
	m.tb.Helper()
	if err := m.TryApply(namespace, manifests); err != nil {
		m.tb.Fatal(err)
	}
}

// TryApply is Apply that may fail.
func (m *Mesh) TryApply(namespace, manifests string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := m.KubectlCommand(ctx, "apply", "--namespace", namespace, "--server-side", "--force-conflicts", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply to %s: %w: %s", namespace, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Namespace makes a namespace with labels, each "key=value", and lets it go when the test ends.
func (m *Mesh) Namespace(name string, labels ...string) {
	m.tb.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		ns.Labels[key] = value
	}
	Await(m.tb, "namespace "+name+" can be made", time.Minute, func() error {
		_, err := m.Client.CoreV1().Namespaces().Create(context.Background(), ns, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			m.tb.Fatal(err)
		}
		return err
	})
	m.tb.Cleanup(func() {
		m.reportIfFailed() // with its pods still there
		now := int64(0)
		err := m.Client.CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: &now})
		if err != nil && !apierrors.IsNotFound(err) {
			m.tb.Errorf("delete namespace %s: %v", name, err)
		}
	})
	Await(m.tb, "the service account of namespace "+name, 10*time.Second, func() error {
		_, err := m.Client.CoreV1().ServiceAccounts(name).Get(context.Background(), "default", metav1.GetOptions{})
		return err
	})
}

// Enabled is the label that puts a namespace or a pod into the mesh.
const Enabled = "warren.dev/mesh=enabled"

// Await waits until f succeeds, at most d.
func Await(tb testing.TB, what string, d time.Duration, f func() error) {
	tb.Helper()
	deadline := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("not within %s: %s: %v", d, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Pods waits until exactly n pods have a label and all are ready, with addresses of both families, and returns them
// sorted by name. It is told of a pod that cannot become so.
func (m *Mesh) Pods(namespace, selector string, n int) []corev1.Pod {
	m.tb.Helper()
	var pods []corev1.Pod
	Await(m.tb, fmt.Sprintf("%d ready pods %s in %s", n, selector, namespace), time.Minute, func() error {
		list, err := m.Client.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		if len(list.Items) != n {
			return fmt.Errorf("there are %d", len(list.Items))
		}
		for _, p := range list.Items {
			if why := unready(p); why != "" {
				return fmt.Errorf("%s: %s", p.Name, why)
			}
		}
		pods = list.Items
		return nil
	})
	return pods
}

// Pod waits until the pod of that name is ready and returns it.
func (m *Mesh) Pod(namespace, name string) corev1.Pod {
	m.tb.Helper()
	var pod *corev1.Pod
	Await(m.tb, "pod "+namespace+"/"+name+" is ready", time.Minute, func() (err error) {
		if pod, err = m.Client.CoreV1().Pods(namespace).Get(context.Background(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		if why := unready(*pod); why != "" {
			return errors.New(why)
		}
		return nil
	})
	return *pod
}

// unready says why a pod is not ready, "" if it is.
func unready(p corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "it is being deleted"
	}
	why := string(p.Status.Phase)
	for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if w := c.State.Waiting; w != nil {
			why = fmt.Sprintf("container %s: %s %s", c.Name, w.Reason, w.Message)
			break
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && len(p.Status.PodIPs) > 0 {
			return ""
		}
	}
	return why
}
