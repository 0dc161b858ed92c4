// Package manifest reads Kubernetes manifests from files and folders, and keeps watching them.
//
// It owns strictness: kinds of the group warren.dev are checked field by field, core kinds are read into the small
// subset that the mesh needs. A bad document rejects its whole file, whose last good content stays in force; every
// rejection says file, line, object, field and reason. What the objects mean is controller/compile's business.
package manifest

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/warren-mesh/warren/api/v1alpha1"
)

// Kinds that are read. Every other kind is listed as ignored.
const (
	KindNamespace             = "Namespace"
	KindPod                   = "Pod"
	KindService               = "Service"
	KindEndpointSlice         = "EndpointSlice"
	KindServiceAccount        = "ServiceAccount"
	KindNode                  = "Node"
	KindAuthorizationPolicy   = v1alpha1.KindAuthorizationPolicy
	KindPeerAuthentication    = v1alpha1.KindPeerAuthentication
	KindRequestAuthentication = v1alpha1.KindRequestAuthentication
	KindTrafficPolicy         = v1alpha1.KindTrafficPolicy
)

// Key names one object.
type Key struct {
	Kind      string
	Namespace string // empty for Namespace and Node
	Name      string
}

// String returns "Kind ns/name".
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// CompareKeys orders by kind, namespace and name.
func CompareKeys(a, b Key) int {
	if a.Kind != b.Kind {
		return cmp.Compare(a.Kind, b.Kind)
	}
	if a.Namespace != b.Namespace {
		return cmp.Compare(a.Namespace, b.Namespace)
	}
	return cmp.Compare(a.Name, b.Name)
}

// Origin is where an object was read.
type Origin struct {
	File string
	Line int
}

// String returns "file:line", or the file alone if there are no lines in it: an API server has none.
func (o Origin) String() string {
	if o.Line == 0 {
		return o.File
	}
	return fmt.Sprintf("%s:%d", o.File, o.Line)
}

// Object is one manifest. Objects are immutable once they left the package.
type Object struct {
	Key
	Origin Origin
	Meta   Meta
	// Spec is *Pod, *Service, *EndpointSlice, *Node, *GatewaySpec, *GatewayClassSpec, *Route for every kind of route,
	// *ReferenceGrantSpec, the spec of one of package v1alpha1's kinds, or nil for a Namespace and a ServiceAccount.
	Spec any
}

// Meta is the part of metadata that the mesh needs.
type Meta struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	UID               string            `json:"uid"`
	Generation        int64             `json:"generation"`
	Labels            map[string]string `json:"labels"`
	Annotations       map[string]string `json:"annotations"`
	CreationTimestamp string            `json:"creationTimestamp"`
	DeletionTimestamp string            `json:"deletionTimestamp"`
	OwnerReferences   []OwnerReference  `json:"ownerReferences"`
}

// OwnerReference names an object's owner.
type OwnerReference struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Controller bool   `json:"controller"`
}

// Pod is a pod's spec and status.
type Pod struct {
	Spec   PodSpec   `json:"spec"`
	Status PodStatus `json:"status"`
}

// PodSpec is the part of a pod's spec that the mesh needs.
type PodSpec struct {
	NodeName           string      `json:"nodeName"`
	ServiceAccountName string      `json:"serviceAccountName"`
	HostNetwork        bool        `json:"hostNetwork"`
	Hostname           string      `json:"hostname"`
	Subdomain          string      `json:"subdomain"`
	Containers         []Container `json:"containers"`
	InitContainers     []Container `json:"initContainers"`
}

// Container names the ports that services can refer to.
type Container struct {
	Name          string          `json:"name"`
	RestartPolicy string          `json:"restartPolicy"`
	Ports         []ContainerPort `json:"ports"`
}

// ContainerPort is one named or numbered port.
type ContainerPort struct {
	Name          string `json:"name"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
}

// PodStatus is what a kubelet writes about a pod.
type PodStatus struct {
	Phase      string      `json:"phase"`
	PodIP      string      `json:"podIP"`
	PodIPs     []PodIP     `json:"podIPs"`
	Conditions []Condition `json:"conditions"`
}

// PodIP wraps one address, as Kubernetes does.
type PodIP struct {
	IP string `json:"ip"`
}

// IPs returns every address of the pod: podIPs, or podIP alone if that list is absent.
func (s *PodStatus) IPs() []string {
	if len(s.PodIPs) == 0 && s.PodIP != "" {
		return []string{s.PodIP}
	}
	ips := make([]string, 0, len(s.PodIPs))
	for _, p := range s.PodIPs {
		ips = append(ips, p.IP)
	}
	return ips
}

// Condition is one of a pod's conditions.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Service is a service's spec.
type Service struct {
	ClusterIP                string            `json:"clusterIP"`
	ClusterIPs               []string          `json:"clusterIPs"`
	Type                     string            `json:"type"`
	Selector                 map[string]string `json:"selector"`
	Ports                    []ServicePort     `json:"ports"`
	ExternalIPs              []string          `json:"externalIPs"`
	PublishNotReadyAddresses bool              `json:"publishNotReadyAddresses"`
	TrafficDistribution      string            `json:"trafficDistribution"`
	InternalTrafficPolicy    string            `json:"internalTrafficPolicy"`
	SessionAffinity          string            `json:"sessionAffinity"`
	SessionAffinityConfig    struct {
		ClientIP struct {
			TimeoutSeconds int32 `json:"timeoutSeconds"`
		} `json:"clientIP"`
	} `json:"sessionAffinityConfig"`
	// LoadBalancerIPs are what the cluster's load balancer gave it, as its status says.
	LoadBalancerIPs []string `json:"-"`
}

// ClusterAddrs returns the virtual addresses as written: clusterIPs, or clusterIP alone. "None" is left out.
func (s *Service) ClusterAddrs() []string {
	ips := s.ClusterIPs
	if len(ips) == 0 && s.ClusterIP != "" {
		ips = []string{s.ClusterIP}
	}
	var out []string
	for _, ip := range ips {
		if ip != "" && !strings.EqualFold(ip, "None") {
			out = append(out, ip)
		}
	}
	return out
}

// ServicePort is one port of a service.
type ServicePort struct {
	Name       string     `json:"name"`
	Port       uint16     `json:"port"`
	TargetPort TargetPort `json:"targetPort"`
	// AppProtocol is what is spoken there.
	AppProtocol string `json:"appProtocol"`
	NodePort    uint16 `json:"nodePort"`
	Protocol    string `json:"protocol"`
}

// EndpointSlice lists endpoints of the service that its label names. A slice of type FQDN has none that are addresses.
type EndpointSlice struct {
	AddressType string              `json:"addressType"`
	Endpoints   []SliceEndpoint     `json:"endpoints"`
	Ports       []EndpointSlicePort `json:"ports"`
}

// SliceEndpoint is one endpoint of a slice.
type SliceEndpoint struct {
	Addresses  []string        `json:"addresses"`
	Conditions SliceConditions `json:"conditions"`
	TargetRef  TargetRef       `json:"targetRef"`
	NodeName   string          `json:"nodeName"`
	Zone       string          `json:"zone"`
}

// TargetRef names the pod behind an endpoint.
type TargetRef struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// SliceConditions holds an endpoint's readiness. An absent Ready means ready, an absent Serving serving.
type SliceConditions struct {
	Ready       *bool `json:"ready"`
	Serving     *bool `json:"serving"`
	Terminating *bool `json:"terminating"`
}

// EndpointSlicePort is one port of every endpoint of a slice.
type EndpointSlicePort struct {
	Name     string `json:"name"`
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
}

// Node is the part of a node's status that the mesh needs.
type Node struct {
	Status NodeStatus `json:"status"`
}

// NodeStatus has a node's addresses.
type NodeStatus struct {
	Addresses []NodeAddress `json:"addresses"`
}

// NodeAddress is one address of a node; Type is InternalIP, ExternalIP, or one that the mesh has no use for.
type NodeAddress struct {
	Type    string `json:"type"`
	Address string `json:"address"`
}
