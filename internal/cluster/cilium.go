package cluster

import (
	"context"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Cilium is one installation of it.
type Cilium struct {
	Config Object
	// Agent is its DaemonSet; without a name if none was found.
	Agent Object
	// Version is the agent's image's, such as v1.20.0; "" if it says none.
	Version string
	// Settings are what nodes have in general, then what those have that a CiliumNodeConfig selects.
	Settings []Settings
}

const (
	ciliumConfig    = "cilium-config"
	ciliumContainer = "cilium-agent"
)

// cilium reads every installation: its ConfigMap, wherever it is, and what has precedence over that. An installation that
// is not upstream's has the same: GKE's DaemonSet is called anetd.
func (c *Cluster) cilium(ctx context.Context, sets []appsv1.DaemonSet) ([]Cilium, error) {
	maps, err := c.Client.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + ciliumConfig})
	if err != nil {
		return nil, fmt.Errorf("look for ConfigMaps %s: %w", ciliumConfig, err)
	}
	var found []Cilium
	for _, m := range maps.Items {
		if m.Name != ciliumConfig {
			continue
		}
		one := Cilium{Config: Object{"ConfigMap", m.Namespace, m.Name}, Agent: Object{Kind: "DaemonSet", Namespace: m.Namespace}}
		general, flags := Settings{}, Settings{}
		for k, v := range m.Data {
			general[k] = Setting{v, one.Config, k}
		}
		for _, s := range sets {
			if ct := container(&s, ciliumContainer); ct != nil && s.Namespace == m.Namespace {
				one.Agent, one.Version = setObject(&s), imageTag(ct.Image)
				flags = ciliumFlags(one.Agent, ct)
			}
		}
		nodes, err := c.ciliumNodes(ctx, m.Namespace)
		if err != nil {
			return nil, err
		}
		one.Settings = append(one.Settings, general.under(flags))
		for _, n := range nodes {
			one.Settings = append(one.Settings, general.under(n).under(flags))
		}
		found = append(found, one)
	}
	return found, nil
}

// ciliumNodes are the CiliumNodeConfigs in a namespace.
func (c *Cluster) ciliumNodes(ctx context.Context, namespace string) (all []Settings, err error) {
	configs := func(version string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Group: "cilium.io", Version: version, Resource: "ciliumnodeconfigs"}
	}
	list, err := c.listAny(ctx, configs("v2"), configs("v2alpha1"))
	if err != nil {
		return nil, err
	}
	for _, o := range list {
		values, _ := dig(o.Object, "spec", "defaults").(map[string]any)
		if o.GetNamespace() != namespace || len(values) == 0 {
			continue
		}
		in := Object{"CiliumNodeConfig", namespace, o.GetName()}
		one := Settings{}
		for k, v := range values {
			one[k] = Setting{fmt.Sprint(v), in, "spec.defaults." + k}
		}
		all = append(all, one)
	}
	return all, nil
}

// ciliumFlags are the settings that a container has by its environment (CILIUM_CNI_EXCLUSIVE), by its arguments
// (--cni-exclusive=false), and by those of what runs when it has started: Cilium up to 1.13 installs its CNI plug-in so.
func ciliumFlags(in Object, ct *corev1.Container) Settings {
	found := Settings{}
	for _, e := range ct.Env {
		if name, ok := strings.CutPrefix(e.Name, "CILIUM_"); ok && e.ValueFrom == nil {
			found[strings.ToLower(strings.ReplaceAll(name, "_", "-"))] = Setting{e.Value, in, "env " + e.Name}
		}
	}
	args := append(append([]string{}, ct.Command...), ct.Args...)
	if l := ct.Lifecycle; l != nil && l.PostStart != nil && l.PostStart.Exec != nil {
		args = append(args, strings.Fields(strings.Join(l.PostStart.Exec.Command, " "))...) // it may be a line of shell
	}
	for _, a := range args {
		if flag, ok := strings.CutPrefix(a, "--"); ok {
			name, value, has := strings.Cut(flag, "=")
			if !has {
				value = "true"
			}
			found[name] = Setting{value, in, "--" + name}
		}
	}
	return found
}

func container(s *appsv1.DaemonSet, name string) *corev1.Container {
	for i, ct := range s.Spec.Template.Spec.Containers {
		if ct.Name == name {
			return &s.Spec.Template.Spec.Containers[i]
		}
	}
	return nil
}

// imageTag is an image's, without a digest.
func imageTag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		return image[i+1:]
	}
	return ""
}
