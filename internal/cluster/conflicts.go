package cluster

import (
	"context"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Conflicts is what else may take hold of pods' connections, as far as the API server tells. It judges nothing.
type Conflicts struct {
	Cilium []Cilium
	// Calico is its configuration: of nodes in general, then of those that have one of their own.
	Calico     []Settings
	DaemonSets []DaemonSet
	// Injectors are the names of all MutatingWebhookConfigurations.
	Injectors  []string
	Namespaces []Namespace
}

// DaemonSet is one, with its pods' labels.
type DaemonSet struct {
	Object
	Labels map[string]string
}

// Namespace is one, with what puts its pods into meshes.
type Namespace struct {
	Name                string
	Labels, Annotations map[string]string
}

// Object says which object a setting is in.
type Object struct{ Kind, Namespace, Name string }

func (o Object) String() string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

// Setting is one value of another project's configuration, and where it stands.
type Setting struct {
	Value string
	In    Object
	// Field is what the value is called there.
	Field string
}

func (s Setting) String() string { return fmt.Sprintf("%s: %s is %s", s.In, s.Field, s.Value) }

// Settings are by the project's own name for each.
type Settings map[string]Setting

// under returns the settings with those of higher rank in place of them.
func (s Settings) under(higher Settings) Settings {
	all := maps.Clone(s)
	maps.Copy(all, higher)
	return all
}

// Conflicts reads them. What could not be read is told as sentences.
func (c *Cluster) Conflicts(ctx context.Context) (f Conflicts, unread []string) {
	note := func(err error) {
		if err != nil {
			unread = append(unread, err.Error())
		}
	}
	sets, err := c.Client.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		note(fmt.Errorf("list DaemonSets: %w", err))
		sets = &appsv1.DaemonSetList{}
	}
	for _, s := range sets.Items {
		f.DaemonSets = append(f.DaemonSets, DaemonSet{setObject(&s), s.Spec.Template.Labels})
	}
	f.Cilium, err = c.cilium(ctx, sets.Items)
	note(err)
	f.Calico, err = c.calico(ctx, sets.Items)
	note(err)
	note(c.lookMeshes(ctx, &f))
	return f, unread
}

func setObject(s *appsv1.DaemonSet) Object { return Object{"DaemonSet", s.Namespace, s.Name} }

func (c *Cluster) lookMeshes(ctx context.Context, f *Conflicts) error {
	injectors, err := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list MutatingWebhookConfigurations: %w", err)
	}
	for _, i := range injectors.Items {
		f.Injectors = append(f.Injectors, i.Name)
	}
	namespaces, err := c.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, n := range namespaces.Items {
		f.Namespaces = append(f.Namespaces, Namespace{n.Name, n.Labels, n.Annotations})
	}
	return nil
}

// listAny lists a kind that the cluster may not have, by the first of its versions that is served.
func (c *Cluster) listAny(ctx context.Context, kinds ...schema.GroupVersionResource) ([]unstructured.Unstructured, error) {
	for _, k := range kinds {
		list, err := c.Dynamic.Resource(k).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s.%s: %w", k.Resource, k.Group, err)
		}
		return list.Items, nil
	}
	return nil, nil
}
