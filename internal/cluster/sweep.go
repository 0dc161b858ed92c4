package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// NamespaceLabels are what Warren's namespace needs: agents use the host's network and directories, which Pod Security
// Admission forbids elsewhere, and what the mesh runs on cannot be in the mesh.
func NamespaceLabels() map[string]string {
	return map[string]string{
		managedBy:                            managedByUs,
		"warren.dev/mesh":                    "disabled",
		"pod-security.kubernetes.io/enforce": "privileged",
		"pod-security.kubernetes.io/audit":   "privileged",
		"pod-security.kubernetes.io/warn":    "privileged",
	}
}

// EnsureNamespace makes the namespace if it is not there. An existing one is left as it is.
func (c *Cluster) EnsureNamespace(ctx context.Context) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.Namespace, Labels: NamespaceLabels()}}
	_, err := c.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", c.Namespace, err)
	}
	return nil
}

// leftover is one object that no release owns.
type leftover struct {
	what string
	run  func() error
}

// leftovers are what the controller makes, and the leave hook if it was given up.
func (c *Cluster) leftovers(ctx context.Context) []leftover {
	core, rbac, ns := c.Client.CoreV1(), c.Client.RbacV1(), c.Namespace
	background := metav1.DeletePropagationBackground
	opts := metav1.DeleteOptions{PropagationPolicy: &background}
	return []leftover{
		{"Secret " + caSecret, func() error { return core.Secrets(ns).Delete(ctx, caSecret, opts) }},
		{"ConfigMap " + rootsConfigMap, func() error { return core.ConfigMaps(ns).Delete(ctx, rootsConfigMap, opts) }},
		{"ConfigMap " + meshConfigMap, func() error { return core.ConfigMaps(ns).Delete(ctx, meshConfigMap, opts) }},
		{"Lease " + Lease, func() error { return c.Client.CoordinationV1().Leases(ns).Delete(ctx, Lease, opts) }},
		{"EndpointSlice " + leaderSlice, func() error { return c.Client.DiscoveryV1().EndpointSlices(ns).Delete(ctx, leaderSlice, opts) }},
		{"EndpointSlice " + leaderSlice + "-v6", func() error {
			return c.Client.DiscoveryV1().EndpointSlices(ns).Delete(ctx, leaderSlice+"-v6", opts)
		}},
		{"Job " + leaveHook, func() error { return c.Client.BatchV1().Jobs(ns).Delete(ctx, leaveHook, opts) }},
		{"RoleBinding " + leaveHook, func() error { return rbac.RoleBindings(ns).Delete(ctx, leaveHook, opts) }},
		{"Role " + leaveHook, func() error { return rbac.Roles(ns).Delete(ctx, leaveHook, opts) }},
		{"ServiceAccount " + leaveHook, func() error { return core.ServiceAccounts(ns).Delete(ctx, leaveHook, opts) }},
	}
}

// Sweep deletes what belongs to Warren and no release owns. It returns what was there.
func (c *Cluster) Sweep(ctx context.Context) (deleted []string, err error) {
	for _, one := range c.leftovers(ctx) {
		switch err := one.run(); {
		case err == nil:
			deleted = append(deleted, one.what)
		case !apierrors.IsNotFound(err):
			return deleted, fmt.Errorf("delete %s in namespace %s: %w", one.what, c.Namespace, err)
		}
	}
	return deleted, nil
}

// SweepNamespace deletes the namespace if agentctl made it and nobody else's pods are in it, and waits until it is
// gone. It says whether it was deleted, and if not, why.
func (c *Cluster) SweepNamespace(ctx context.Context) (deleted bool, why string, err error) {
	api := c.Client.CoreV1().Namespaces()
	ns, err := api.Get(ctx, c.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, "it is not there", nil
	}
	if err != nil {
		return false, "", fmt.Errorf("read namespace %s: %w", c.Namespace, err)
	}
	if ns.Labels[managedBy] != managedByUs {
		return false, "agentctl did not make it", nil
	}
	if pod, err := c.lastPods(ctx); err != nil || pod != "" {
		return false, "it still has pods, such as " + pod, err
	}
	if err := api.Delete(ctx, c.Namespace, metav1.DeleteOptions{}); err != nil {
		return false, "", fmt.Errorf("delete namespace %s: %w", c.Namespace, err)
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := api.Get(ctx, c.Namespace, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return true, "", nil
		}
		select {
		case <-ctx.Done():
			return false, "", fmt.Errorf("namespace %s is still being deleted: %w", c.Namespace, ctx.Err())
		case <-tick.C:
		}
	}
}

// podsGo is how long Warren's own pods may take to end: agents drain.
const podsGo = time.Minute

// lastPods waits until Warren's own pods have ended, and returns one that is there still, "" if none is.
func (c *Cluster) lastPods(ctx context.Context) (string, error) {
	over := time.After(podsGo)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		pods, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", fmt.Errorf("list the pods in namespace %s: %w", c.Namespace, err)
		}
		if len(pods.Items) == 0 {
			return "", nil
		}
		for _, p := range pods.Items {
			if !slices.Contains([]string{Agent, Controller, leaveHook}, p.Labels[appLabel]) {
				return p.Name, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("the pods in namespace %s have not ended: %w", c.Namespace, ctx.Err())
		case <-over:
			return pods.Items[0].Name, nil
		case <-tick.C:
		}
	}
}

func crdResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
}

// DeleteCRDs deletes the CRDs of warren.dev, and with them every policy.
func (c *Cluster) DeleteCRDs(ctx context.Context) (deleted []string, err error) {
	crds, err := c.CRDs(ctx)
	if err != nil {
		return nil, err
	}
	for _, crd := range crds {
		err := c.Dynamic.Resource(crdResource()).Delete(ctx, crd.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return deleted, fmt.Errorf("delete CRD %s: %w", crd.Name, err)
		}
		deleted = append(deleted, "CRD "+crd.Name)
	}
	return deleted, nil
}

// CRD is one CRD of warren.dev as it is in the cluster.
type CRD struct {
	Name, Revision string
	// Objects is how many there are of it.
	Objects int
}

// CRDs lists those of warren.dev.
func (c *Cluster) CRDs(ctx context.Context) ([]CRD, error) {
	list, err := c.Dynamic.Resource(crdResource()).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list CRDs: %w", err)
	}
	var out []CRD
	for _, o := range list.Items {
		spec, _ := o.Object["spec"].(map[string]any)
		if spec["group"] != "warren.dev" {
			continue
		}
		crd := CRD{Name: o.GetName(), Revision: o.GetAnnotations()["warren.dev/crd-revision"]}
		names, _ := spec["names"].(map[string]any)
		plural, _ := names["plural"].(string)
		gvr := schema.GroupVersionResource{Group: "warren.dev", Version: "v1alpha1", Resource: plural}
		if objects, err := c.Dynamic.Resource(gvr).List(ctx, metav1.ListOptions{}); err == nil {
			crd.Objects = len(objects.Items)
		}
		out = append(out, crd)
	}
	return out, nil
}
