package kube

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/warren-mesh/warren/controller/manifest"
)

// fromAPI is where every object here comes from, in messages.
const fromAPI = "kubernetes"

// mirrorAnnotation is on the API server's picture of a static pod, and has the uid that its node knows it by: the
// picture's own is another.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// convert returns the part of an API object that the mesh needs.
// Returns an error that wraps manifest.ErrRejected for one of our own kinds that says something impossible.
func convert(obj any) (*manifest.Object, error) {
	switch o := obj.(type) {
	case *corev1.Namespace:
		return object(manifest.KindNamespace, o, nil), nil
	case *corev1.Node:
		return object(manifest.KindNode, o, node(o)), nil
	case *corev1.Pod:
		out := object(manifest.KindPod, o, pod(o))
		if uid := o.Annotations[mirrorAnnotation]; uid != "" {
			out.Meta.UID = uid
		}
		return out, nil
	case *corev1.Service:
		return object(manifest.KindService, o, service(o)), nil
	case *discoveryv1.EndpointSlice:
		return object(manifest.KindEndpointSlice, o, slice(o)), nil
	case *unstructured.Unstructured:
		return custom(o)
	}
	return nil, fmt.Errorf("an object of type %T, which nobody asked for", obj)
}

func object(kind string, o metav1.Object, spec any) *manifest.Object {
	meta := manifest.Meta{
		Name: o.GetName(), Namespace: o.GetNamespace(), UID: string(o.GetUID()), Labels: o.GetLabels(),
		Generation: o.GetGeneration(), CreationTimestamp: stamp(o.GetCreationTimestamp().Time), Annotations: annotations(o.GetAnnotations()),
	}
	if t := o.GetDeletionTimestamp(); t != nil {
		meta.DeletionTimestamp = stamp(t.Time)
	}
	for _, ref := range o.GetOwnerReferences() {
		if ref.Controller != nil && *ref.Controller {
			meta.OwnerReferences = append(meta.OwnerReferences, manifest.OwnerReference{Kind: ref.Kind, Name: ref.Name, Controller: true})
		}
	}
	key := manifest.Key{Kind: kind, Namespace: meta.Namespace, Name: meta.Name}
	return &manifest.Object{Key: key, Origin: manifest.Origin{File: fromAPI}, Meta: meta, Spec: spec}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// annotations keeps those that the mesh reads: others can be large, and change often.
func annotations(all map[string]string) map[string]string {
	var out map[string]string
	for _, key := range manifest.Annotations() {
		if v, ok := all[key]; ok {
			if out == nil {
				out = make(map[string]string)
			}
			out[key] = v
		}
	}
	return out
}

func node(o *corev1.Node) *manifest.Node {
	out := &manifest.Node{}
	for _, a := range o.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			out.Status.Addresses = append(out.Status.Addresses, manifest.NodeAddress{Type: string(a.Type), Address: a.Address})
		}
	}
	return out
}

func pod(o *corev1.Pod) *manifest.Pod {
	out := &manifest.Pod{
		Spec: manifest.PodSpec{
			NodeName: o.Spec.NodeName, ServiceAccountName: o.Spec.ServiceAccountName, HostNetwork: o.Spec.HostNetwork,
			Containers: containers(o.Spec.Containers), InitContainers: containers(o.Spec.InitContainers),
			Hostname: o.Spec.Hostname, Subdomain: o.Spec.Subdomain,
		},
		Status: manifest.PodStatus{Phase: string(o.Status.Phase), PodIP: o.Status.PodIP},
	}
	for _, ip := range o.Status.PodIPs {
		out.Status.PodIPs = append(out.Status.PodIPs, manifest.PodIP{IP: ip.IP})
	}
	for _, c := range o.Status.Conditions {
		switch c.Type {
		case corev1.PodReady:
			out.Status.Conditions = append(out.Status.Conditions, manifest.Condition{Type: string(c.Type), Status: string(c.Status)})
		case InMesh:
			out.Status.Conditions = append(out.Status.Conditions, manifest.Condition{
				Type: string(c.Type), Status: string(c.Status), Reason: c.Reason, Message: c.Message,
			})
		}
	}
	return out
}

// containers keeps named ports: services refer to ports by name, and to numbers without asking.
func containers(all []corev1.Container) []manifest.Container {
	var out []manifest.Container
	for _, c := range all {
		one := manifest.Container{Name: c.Name}
		if c.RestartPolicy != nil {
			one.RestartPolicy = string(*c.RestartPolicy)
		}
		for _, p := range c.Ports {
			if p.Name != "" {
				one.Ports = append(one.Ports, manifest.ContainerPort{Name: p.Name, ContainerPort: uint16(p.ContainerPort), Protocol: string(p.Protocol)})
			}
		}
		if len(one.Ports) > 0 {
			out = append(out, one)
		}
	}
	return out
}

func service(o *corev1.Service) *manifest.Service {
	out := &manifest.Service{
		ClusterIP: o.Spec.ClusterIP, ClusterIPs: o.Spec.ClusterIPs, Type: string(o.Spec.Type), Selector: o.Spec.Selector,
		PublishNotReadyAddresses: o.Spec.PublishNotReadyAddresses, ExternalIPs: o.Spec.ExternalIPs,
		SessionAffinity: string(o.Spec.SessionAffinity),
	}
	if o.Spec.TrafficDistribution != nil {
		out.TrafficDistribution = *o.Spec.TrafficDistribution
	}
	if o.Spec.InternalTrafficPolicy != nil {
		out.InternalTrafficPolicy = string(*o.Spec.InternalTrafficPolicy)
	}
	if a := o.Spec.SessionAffinityConfig; a != nil && a.ClientIP != nil && a.ClientIP.TimeoutSeconds != nil {
		out.SessionAffinityConfig.ClientIP.TimeoutSeconds = *a.ClientIP.TimeoutSeconds
	}
	out.LoadBalancerIPs = loadBalancerIPs(o)
	for _, p := range o.Spec.Ports {
		port := manifest.ServicePort{Name: p.Name, Port: uint16(p.Port), Protocol: string(p.Protocol), NodePort: uint16(p.NodePort)}
		if p.TargetPort.Type == intstr.String {
			port.TargetPort.Name = p.TargetPort.StrVal
		} else {
			port.TargetPort.Number = uint16(p.TargetPort.IntVal)
		}
		if p.AppProtocol != nil {
			port.AppProtocol = *p.AppProtocol
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

// loadBalancerIPs are those that lead from inside the cluster to the service's own endpoints. A balancer that wants to see
// the traffic itself (ipMode Proxy), or that lets in only some, is gone through.
func loadBalancerIPs(o *corev1.Service) (ips []string) {
	if len(o.Spec.LoadBalancerSourceRanges) > 0 {
		return nil
	}
	for _, ingress := range o.Status.LoadBalancer.Ingress {
		if ingress.IP != "" && (ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP) {
			ips = append(ips, ingress.IP)
		}
	}
	return ips
}

func slice(o *discoveryv1.EndpointSlice) *manifest.EndpointSlice {
	out := &manifest.EndpointSlice{AddressType: string(o.AddressType)}
	for _, ep := range o.Endpoints {
		one := manifest.SliceEndpoint{Addresses: ep.Addresses, Conditions: manifest.SliceConditions{
			Ready: ep.Conditions.Ready, Serving: ep.Conditions.Serving, Terminating: ep.Conditions.Terminating,
		}}
		if ref := ep.TargetRef; ref != nil && ref.Kind == manifest.KindPod {
			one.TargetRef = manifest.TargetRef{Kind: ref.Kind, Name: ref.Name, UID: string(ref.UID)}
		}
		if ep.NodeName != nil {
			one.NodeName = *ep.NodeName
		}
		if ep.Zone != nil {
			one.Zone = *ep.Zone
		}
		out.Endpoints = append(out.Endpoints, one)
	}
	for _, p := range o.Ports {
		var port manifest.EndpointSlicePort
		if p.Name != nil {
			port.Name = *p.Name
		}
		if p.Port != nil {
			port.Port = uint16(*p.Port)
		}
		if p.Protocol != nil {
			port.Protocol = string(*p.Protocol)
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

// custom reads one of our own kinds, or of the Gateway API's, as a manifest file would be: the same checks, the same words.
func custom(o *unstructured.Unstructured) (*manifest.Object, error) {
	o.SetManagedFields(nil)
	raw, err := o.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", manifest.ErrRejected, err)
	}
	return manifest.ParseServed(fromAPI, raw)
}
