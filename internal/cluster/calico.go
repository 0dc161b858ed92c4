package cluster

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// CalicoBPF and CalicoBalancing are the settings of Calico that matter.
const (
	CalicoBPF       = "bpfEnabled"
	CalicoBalancing = "bpfConnectTimeLoadBalancing"
)

// calico reads what Felix, Calico's agent, goes by. The DaemonSet's environment outranks FelixConfigurations, of which a
// node's own outrank the one called default; Tigera's operator sets the last by its Installation, once the nodes are ready
// for it.
func (c *Cluster) calico(ctx context.Context, sets []appsv1.DaemonSet) ([]Settings, error) {
	felix := func(group, version string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Group: group, Version: version, Resource: "felixconfigurations"}
	}
	configs, err := c.listAny(ctx, felix("crd.projectcalico.org", "v1"), felix("projectcalico.org", "v3"))
	if err != nil {
		return nil, err
	}
	general, nodes := Settings{}, []Settings(nil)
	for _, o := range configs {
		one := Settings{}
		group := o.GroupVersionKind().Group
		for _, field := range []string{CalicoBPF, CalicoBalancing} {
			if v := dig(o.Object, "spec", field); v != nil {
				one[field] = Setting{fmt.Sprint(v), Object{Kind: "felixconfigurations." + group, Name: o.GetName()}, "spec." + field}
			}
		}
		if o.GetName() == "default" {
			general = one
		} else if len(one) > 0 {
			nodes = append(nodes, one)
		}
	}
	if err := c.calicoOperator(ctx, general); err != nil {
		return nil, err
	}
	env := calicoEnv(sets)
	all := []Settings{general.under(env)}
	for _, n := range nodes {
		all = append(all, general.under(n).under(env))
	}
	return all, nil
}

// calicoOperator adds what the operator is going to set.
func (c *Cluster) calicoOperator(ctx context.Context, general Settings) error {
	list, err := c.listAny(ctx, schema.GroupVersionResource{Group: "operator.tigera.io", Version: "v1", Resource: "installations"})
	for _, o := range list {
		if dig(o.Object, "spec", "calicoNetwork", "linuxDataplane") == "BPF" && general[CalicoBPF].Value != "true" {
			general[CalicoBPF] = Setting{"BPF", Object{Kind: "Installation", Name: o.GetName()}, "spec.calicoNetwork.linuxDataplane"}
		}
	}
	return err
}

func calicoEnv(sets []appsv1.DaemonSet) Settings {
	names := map[string]string{"FELIX_BPFENABLED": CalicoBPF, "FELIX_BPFCONNECTTIMELOADBALANCING": CalicoBalancing}
	found := Settings{}
	for _, s := range sets {
		ct := container(&s, "calico-node")
		if ct == nil {
			continue
		}
		for _, e := range ct.Env {
			if field := names[e.Name]; field != "" && e.ValueFrom == nil {
				found[field] = Setting{e.Value, setObject(&s), "env " + e.Name}
			}
		}
	}
	return found
}
