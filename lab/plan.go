package lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Annotations of a Pod that the lab reads.
const (
	// addressesAnnotation lists further addresses of the pod, separated by commas.
	addressesAnnotation = "warren.dev/lab-addresses"
	// ipv6Annotation set to "disabled" makes a pod whose kernel knows no IPv6, ::1 included.
	ipv6Annotation = "warren.dev/lab-ipv6"

	zoneLabel = "topology.kubernetes.io/zone"
)

// plan is what a lab is made of, with every address decided. It is a value: planning touches nothing.
type plan struct {
	Nodes    []*Node
	Pods     []*Pod
	Services []*Service
}

// Node is one machine of the lab: a network namespace on its fabric.
type Node struct {
	Name     string
	Zone     string
	Index    int          // from 1; the last part of its addresses
	Addrs    []netip.Addr // IPv4, IPv6
	PodCIDRs []netip.Prefix
}

// Pod is one network namespace behind a node, and the processes in it.
type Pod struct {
	Namespace      string
	Name           string
	UID            string
	Node           string
	ServiceAccount string
	Labels         map[string]string
	Addrs          []netip.Addr // the primary ones come first
	Number         int          // host part of the primary addresses; 0 on the host network
	NoIPv6         bool
	HostNetwork    bool
	Containers     []Container
	Manifest       json.RawMessage
}

// FullName is "<namespace>/<name>".
func (p *Pod) FullName() string { return p.Namespace + "/" + p.Name }

// id names the pod's namespace, cgroup and files.
func (p *Pod) id() string { return p.Namespace + "_" + p.Name }

// netns names the namespace that the pod's processes run in.
func (p *Pod) netns() string {
	if p.HostNetwork {
		return nodeNS(p.Node)
	}
	return p.id()
}

// Kubernetes' names: RFC 1123 subdomains, and labels where the name becomes a DNS label.
var (
	dnsLabel     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
)

// kindsWithPods make pods in a cluster. Nothing here would, so they are refused rather than ignored.
var kindsWithPods = []string{"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicationController"}

// makePlan decides everything that the objects leave open. What prev decided about an object that is still there
// stays as it is; prev may be nil. Returns an error that wraps ErrManifest if the objects make no lab.
func makePlan(objects []*object, prev *plan) (*plan, error) {
	if prev == nil {
		prev = &plan{}
	}
	sorted, err := sortObjects(objects)
	if err != nil {
		return nil, err
	}
	p := &plan{}
	if err := p.planNodes(sorted["Node"]); err != nil {
		return nil, err
	}
	if err := checkNamespaces(sorted); err != nil {
		return nil, err
	}
	if err := p.planPods(sorted["Pod"], prev); err != nil {
		return nil, err
	}
	if err := p.planServices(sorted["Service"], prev); err != nil {
		return nil, err
	}
	return p, p.checkAddresses()
}

// sortObjects groups by kind, fills in the default namespace and refuses duplicates.
func sortObjects(objects []*object) (map[string][]*object, error) {
	byKind := map[string][]*object{}
	seen := map[string]*object{}
	for _, o := range objects {
		if slices.Contains(kindsWithPods, o.Kind) {
			return nil, o.bad("kind", "a lab has no controller for it; write its Pods instead")
		}
		namespaced := o.Kind == "Pod" || o.Kind == "Service" || o.Kind == "ServiceAccount"
		if namespaced && o.Metadata.Namespace == "" {
			o.Metadata.Namespace = "default"
		}
		if !namespaced && o.Kind != "Node" && o.Kind != "Namespace" {
			continue
		}
		name := dnsLabel
		if o.Kind == "Pod" || o.Kind == "Node" || o.Kind == "ServiceAccount" {
			name = dnsSubdomain
		}
		if !name.MatchString(o.Metadata.Name) {
			return nil, o.bad("metadata.name", "%q is not a valid name", o.Metadata.Name)
		}
		key := o.Kind + " " + o.Metadata.Namespace + "/" + o.Metadata.Name
		if first := seen[key]; first != nil {
			return nil, o.bad("metadata.name", "already defined at %s", first.where)
		}
		seen[key] = o
		byKind[o.Kind] = append(byKind[o.Kind], o)
	}
	return byKind, nil
}

func checkNamespaces(byKind map[string][]*object) error {
	known := map[string]bool{"default": true}
	for _, o := range byKind["Namespace"] {
		known[o.Metadata.Name] = true
	}
	for _, kind := range []string{"ServiceAccount", "Pod", "Service"} {
		for _, o := range byKind[kind] {
			if !known[o.Metadata.Namespace] {
				return o.bad("metadata.namespace", "there is no Namespace %q in the manifests", o.Metadata.Namespace)
			}
		}
	}
	return nil
}

func (p *plan) node(name string) *Node {
	for _, n := range p.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func (p *plan) pod(fullName string) *Pod {
	for _, pod := range p.Pods {
		if pod.FullName() == fullName {
			return pod
		}
	}
	return nil
}

// planPods places pods. Those without a nodeName go to the node that has the fewest, in order of index.
func (p *plan) planPods(objects []*object, prev *plan) error {
	already := len(p.Pods)
	for _, o := range objects {
		pod, err := p.decodePod(o)
		if err != nil {
			return err
		}
		old := prev.pod(pod.FullName())
		if old != nil && (o.Metadata.UID == "" || o.Metadata.UID == old.UID) {
			pod.UID = old.UID
		}
		if old != nil && pod.Node == "" {
			pod.Node = old.Node
		}
		if pod.Node == "" {
			pod.Node = p.emptiestNode()
		}
		if old != nil && old.Node == pod.Node {
			pod.Number = old.Number
		}
		p.Pods = append(p.Pods, pod)
	}
	for i, o := range objects {
		if err := p.addressPod(p.Pods[already+i], o); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) emptiestNode() string {
	count := map[string]int{}
	for _, pod := range p.Pods {
		count[pod.Node]++
	}
	least := slices.MinFunc(p.Nodes, func(a, b *Node) int { return cmp.Compare(count[a.Name], count[b.Name]) })
	return least.Name
}

func (p *plan) decodePod(o *object) (*Pod, error) {
	var spec podSpec
	if err := o.decodeSpec(&spec); err != nil {
		return nil, err
	}
	pod := &Pod{
		Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, UID: o.Metadata.UID, Labels: o.Metadata.Labels,
		Node: spec.NodeName, ServiceAccount: cmp.Or(spec.ServiceAccountName, "default"),
		HostNetwork: spec.HostNetwork, Containers: spec.Containers, Manifest: o.raw,
	}
	if pod.Node != "" && p.node(pod.Node) == nil {
		return nil, o.bad("spec.nodeName", "there is no Node %q", pod.Node)
	}
	switch v := o.Metadata.Annotations[ipv6Annotation]; v {
	case "", "enabled":
	case "disabled":
		pod.NoIPv6 = !pod.HostNetwork
	default:
		return nil, o.bad("metadata.annotations["+ipv6Annotation+"]", "%q is neither enabled nor disabled", v)
	}
	if pod.UID == "" {
		pod.UID = newUID()
	}
	return pod, checkContainers(o, spec.Containers)
}

func checkContainers(o *object, containers []Container) error {
	if len(containers) == 0 {
		return o.bad("spec.containers", "want at least one")
	}
	seen := map[string]bool{}
	for i, c := range containers {
		field := fmt.Sprintf("spec.containers[%d]", i)
		if c.Name == "" || seen[c.Name] {
			return o.bad(field+".name", "%q is empty or taken", c.Name)
		}
		seen[c.Name] = true
		if len(c.Command) == 0 && !isSample(c.Image) && !isWaypoint(c.Image) {
			return o.bad(field+".command", "missing: a lab pulls no image, so %q needs the command of this machine to run", c.Image)
		}
		for j, e := range c.Env {
			if e.Name == "" || strings.ContainsAny(e.Name, "=\x00") {
				return o.bad(fmt.Sprintf("%s.env[%d].name", field, j), "%q is not a valid name", e.Name)
			}
		}
	}
	return nil
}

// isSample says whether an image, whatever its tag, is the sample app that ships with Warren.
func isSample(image string) bool {
	return image == sampleImage || strings.HasPrefix(image, sampleImage+":")
}

const sampleImage = "warren.dev/sample"
