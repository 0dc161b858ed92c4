package manifest

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/warren-mesh/warren/api/v1alpha1"
)

// kind says how objects of one kind are read.
type kind struct {
	apiVersion string
	namespaced bool
	strict     bool
	// foreign is true if its schema is somebody else's: an API server has applied that, and may know newer fields.
	foreign bool
	read    func(d *decoder, n *yaml.Node, o *Object) error
}

// kindOf returns how to read a document, or nil if it is to be ignored. A policy in another group's or version's
// form is an error: to ignore it would be to open what it closes.
func kindOf(env envelope) (*kind, error) {
	group, _, _ := strings.Cut(env.APIVersion, "/")
	k, named := kindNamed(env.Kind)
	ours := named && k.apiVersion == v1alpha1.APIVersion
	switch {
	case ours && group == "security.istio.io":
		return nil, fmt.Errorf("apiVersion: %s is Istio's: write %s", env.APIVersion, v1alpha1.APIVersion)
	case group == v1alpha1.Group && env.APIVersion != v1alpha1.APIVersion:
		return nil, fmt.Errorf("apiVersion: unknown version %s: write %s", env.APIVersion, v1alpha1.APIVersion)
	case group == v1alpha1.Group && !ours:
		return nil, fmt.Errorf("kind: %s has no kind %q", v1alpha1.APIVersion, env.Kind)
	}
	if named && k.apiVersion == env.APIVersion {
		return &k, nil
	}
	if k, ok := gatewayKind(env.Kind, env.APIVersion); ok {
		return &k, nil
	}
	return nil, nil
}

func kindNamed(name string) (kind, bool) {
	nothing := func(*decoder, *yaml.Node, *Object) error { return nil }
	switch name {
	case KindNamespace:
		return kind{apiVersion: "v1", read: nothing}, true
	case KindNode:
		return kind{apiVersion: "v1", read: readNode}, true
	case KindServiceAccount:
		return kind{apiVersion: "v1", namespaced: true, read: nothing}, true
	case KindPod:
		return kind{apiVersion: "v1", namespaced: true, read: readPod}, true
	case KindService:
		return kind{apiVersion: "v1", namespaced: true, read: readService}, true
	case KindEndpointSlice:
		return kind{apiVersion: "discovery.k8s.io/v1", namespaced: true, read: readEndpointSlice}, true
	case KindAuthorizationPolicy:
		return kind{apiVersion: v1alpha1.APIVersion, namespaced: true, strict: true, read: readAuthorizationPolicy}, true
	case KindPeerAuthentication:
		return kind{apiVersion: v1alpha1.APIVersion, namespaced: true, strict: true, read: readPeerAuthentication}, true
	case KindRequestAuthentication:
		return kind{apiVersion: v1alpha1.APIVersion, namespaced: true, strict: true, read: readRequestAuthentication}, true
	case KindTrafficPolicy:
		return kind{apiVersion: v1alpha1.APIVersion, namespaced: true, strict: true, read: readTrafficPolicy}, true
	}
	return kind{}, false
}

func readNode(d *decoder, n *yaml.Node, o *Object) error {
	node := new(Node)
	o.Spec = node
	return d.decode(n, reflect.ValueOf(node).Elem(), "", 0)
}

func readPod(d *decoder, n *yaml.Node, o *Object) error {
	pod := new(Pod)
	o.Spec = pod
	if err := d.decode(n, reflect.ValueOf(pod).Elem(), "", 0); err != nil {
		return err
	}
	return checkPod(d, pod)
}

// serviceStatus is what a load balancer's controller writes.
type serviceStatus struct {
	LoadBalancer struct {
		Ingress []struct {
			IP     string `json:"ip"`
			IPMode string `json:"ipMode"`
		} `json:"ingress"`
	} `json:"loadBalancer"`
}

func readService(d *decoder, n *yaml.Node, o *Object) error {
	var doc struct {
		Spec   Service       `json:"spec"`
		Status serviceStatus `json:"status"`
	}
	o.Spec = &doc.Spec
	if err := d.decode(n, reflect.ValueOf(&doc).Elem(), "", 0); err != nil {
		return err
	}
	for i, in := range doc.Status.LoadBalancer.Ingress {
		if in.IP == "" || in.IPMode == "Proxy" {
			continue // the load balancer itself is to see the connection
		}
		if err := checkAddr(d, fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i), in.IP); err != nil {
			return err
		}
		doc.Spec.LoadBalancerIPs = append(doc.Spec.LoadBalancerIPs, in.IP)
	}
	return checkService(d, &doc.Spec)
}

func readEndpointSlice(d *decoder, n *yaml.Node, o *Object) error {
	slice := new(EndpointSlice)
	o.Spec = slice
	if err := d.decode(n, reflect.ValueOf(slice).Elem(), "", 0); err != nil {
		return err
	}
	return checkEndpointSlice(d, slice)
}

func readAuthorizationPolicy(d *decoder, n *yaml.Node, o *Object) error {
	spec := new(v1alpha1.AuthorizationPolicySpec)
	o.Spec = spec
	if err := readSpec(d, n, reflect.ValueOf(spec).Elem()); err != nil {
		return err
	}
	return checkAuthorizationPolicy(d, spec)
}

func readPeerAuthentication(d *decoder, n *yaml.Node, o *Object) error {
	spec := new(v1alpha1.PeerAuthenticationSpec)
	o.Spec = spec
	if err := readSpec(d, n, reflect.ValueOf(spec).Elem()); err != nil {
		return err
	}
	return checkPeerAuthentication(d, spec)
}

func readTrafficPolicy(d *decoder, n *yaml.Node, o *Object) error {
	spec := new(v1alpha1.TrafficPolicySpec)
	o.Spec = spec
	if err := readSpec(d, n, reflect.ValueOf(spec).Elem()); err != nil {
		return err
	}
	return checkTrafficPolicy(d, spec)
}

func readRequestAuthentication(d *decoder, n *yaml.Node, o *Object) error {
	spec := new(v1alpha1.RequestAuthenticationSpec)
	o.Spec = spec
	if err := readSpec(d, n, reflect.ValueOf(spec).Elem()); err != nil {
		return err
	}
	return checkRequestAuthentication(d, spec)
}

// readSpec reads the spec of a kind that has nothing beside it, and if the kind is read strictly no unknown field in it.
func readSpec(d *decoder, n *yaml.Node, spec reflect.Value) error {
	return d.pairs(n, "", func(key string, kn, val *yaml.Node) error {
		switch key {
		case "apiVersion", "kind", "metadata", "status":
			return nil
		case "spec":
			return d.decode(val, spec, "spec", 1)
		}
		if !d.strict {
			return nil
		}
		return d.fail(kn, key, "unknown field")
	})
}
