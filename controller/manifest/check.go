package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Labels and annotations that the mesh reads.
const (
	// LabelMesh on a namespace enrols its pods; on a pod it overrides the namespace.
	LabelMesh    = "warren.dev/mesh"
	MeshEnabled  = "enabled"
	MeshDisabled = "disabled"
	// AnnotationAgentAbsent on a namespace says what happens to its enrolled pods' connections while their node's
	// agent is absent.
	AnnotationAgentAbsent = "warren.dev/agent-absent"
	AgentAbsentOpen       = "open"
	AgentAbsentClosed     = "closed"
	// AnnotationAccelerate on a pod, or else its namespace, has connections with other such pods of its node go past TCP.
	AnnotationAccelerate = "warren.dev/accelerate"
	AccelerateOn         = "true"
	AccelerateOff        = "false"
	// AnnotationTrafficDistribution on a service is how Istio's users wrote spec.trafficDistribution before it was.
	AnnotationTrafficDistribution = "networking.istio.io/traffic-distribution"
)

// Annotations returns every annotation that the mesh reads.
func Annotations() []string {
	return []string{AnnotationAgentAbsent, AnnotationAccelerate, AnnotationTrafficDistribution}
}

// at makes an error about a field that was decoded.
func (d *decoder) at(path, format string, args ...any) error {
	line := d.lines[path]
	for p := path; line == 0 && p != ""; line = d.lines[p] {
		p = p[:max(strings.LastIndexAny(p, ".["), 0)]
	}
	return &fieldError{line: line, path: path, reason: fmt.Sprintf(format, args...)}
}

func checkMeta(d *decoder, o *Object) error {
	if !isSubdomain(o.Name) {
		return d.at("metadata.name", "want a name of lower-case letters, digits, '-' and '.', got %q", o.Name)
	}
	if o.Namespace != "" && (!isSubdomain(o.Namespace) || strings.Contains(o.Namespace, ".")) {
		return d.at("metadata.namespace", "want a name of lower-case letters, digits and '-', got %q", o.Namespace)
	}
	if len(o.Meta.UID) > 253 || strings.ContainsAny(o.Meta.UID, "/\x00\n ") {
		return d.at("metadata.uid", "want at most 253 characters without spaces and slashes")
	}
	if v, ok := o.Meta.Labels[LabelMesh]; ok && (o.Kind == KindNamespace || o.Kind == KindPod) {
		if v != MeshEnabled && v != MeshDisabled {
			return d.at("metadata.labels."+LabelMesh, "want %q or %q, got %q", MeshEnabled, MeshDisabled, v)
		}
	}
	if v, ok := o.Meta.Annotations[AnnotationAgentAbsent]; ok && o.Kind == KindNamespace {
		if v != AgentAbsentOpen && v != AgentAbsentClosed {
			return d.at("metadata.annotations."+AnnotationAgentAbsent, "want %q or %q, got %q", AgentAbsentOpen, AgentAbsentClosed, v)
		}
	}
	return nil
}

// IsName tells whether s can be an object's name.
func IsName(s string) bool { return isSubdomain(s) }

// isSubdomain tells whether s is a DNS subdomain (RFC 1123) of at most 253 bytes.
func isSubdomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || len(part) > 63 && !strings.Contains(s, ".") || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for _, c := range []byte(part) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}

func checkAddr(d *decoder, path, s string) error {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return d.at(path, "want an IP address, got %q", s)
	}
	if a = a.Unmap(); a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return d.at(path, "%s is not an address that a peer can have", a)
	}
	return nil
}

func checkPod(d *decoder, pod *Pod) error {
	for i, ip := range pod.Status.PodIPs {
		if err := checkAddr(d, fmt.Sprintf("status.podIPs[%d].ip", i), ip.IP); err != nil {
			return err
		}
	}
	if ip := pod.Status.PodIP; ip != "" {
		if err := checkAddr(d, "status.podIP", ip); err != nil {
			return err
		}
	}
	if sa := pod.Spec.ServiceAccountName; sa != "" && !isSubdomain(sa) {
		return d.at("spec.serviceAccountName", "want a service account's name, got %q", sa)
	}
	phases := []string{"", "Pending", "Running", "Succeeded", "Failed", "Unknown"}
	if !slices.Contains(phases, pod.Status.Phase) {
		return d.at("status.phase", "want one of%s, got %q", strings.Join(phases, " "), pod.Status.Phase)
	}
	return nil
}

func checkService(d *decoder, svc *Service) error {
	if svc.ClusterIP != "" && svc.ClusterIP != "None" {
		if err := checkAddr(d, "spec.clusterIP", svc.ClusterIP); err != nil {
			return err
		}
	}
	for i, ip := range svc.ClusterIPs {
		if ip == "None" {
			continue
		}
		if err := checkAddr(d, "spec.clusterIPs["+strconv.Itoa(i)+"]", ip); err != nil {
			return err
		}
	}
	for i, ip := range svc.ExternalIPs {
		if err := checkAddr(d, "spec.externalIPs["+strconv.Itoa(i)+"]", ip); err != nil {
			return err
		}
	}
	if err := checkServiceWords(d, svc); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for i, port := range svc.Ports {
		path := "spec.ports[" + strconv.Itoa(i) + "]"
		if port.Port == 0 {
			return d.at(path+".port", "want a port from 1 to 65535")
		}
		if err := checkProtocol(d, path+".protocol", port.Protocol); err != nil {
			return err
		}
		id := port.Protocol + "/" + strconv.Itoa(int(port.Port))
		if seen[id] {
			return d.at(path+".port", "port %d occurs twice", port.Port)
		}
		seen[id] = true
	}
	return nil
}

// checkServiceWords checks fields that take one of a few words: another one would be taken for the default.
func checkServiceWords(d *decoder, svc *Service) error {
	switch svc.InternalTrafficPolicy {
	case "", "Cluster", "Local":
	default:
		return d.at("spec.internalTrafficPolicy", "want Cluster or Local, got %q", svc.InternalTrafficPolicy)
	}
	switch svc.SessionAffinity {
	case "", "None", "ClientIP":
	default:
		return d.at("spec.sessionAffinity", "want None or ClientIP, got %q", svc.SessionAffinity)
	}
	if s := svc.SessionAffinityConfig.ClientIP.TimeoutSeconds; s < 0 || s > 86_400 {
		return d.at("spec.sessionAffinityConfig.clientIP.timeoutSeconds", "want seconds from 1 to 86400, got %d", s)
	}
	return nil
}

func checkEndpointSlice(d *decoder, slice *EndpointSlice) error {
	if slice.AddressType == "FQDN" {
		return nil // its addresses are names, which nobody reads
	}
	for i, ep := range slice.Endpoints {
		for j, ip := range ep.Addresses {
			if err := checkAddr(d, fmt.Sprintf("endpoints[%d].addresses[%d]", i, j), ip); err != nil {
				return err
			}
		}
	}
	for i, port := range slice.Ports {
		if err := checkProtocol(d, fmt.Sprintf("ports[%d].protocol", i), port.Protocol); err != nil {
			return err
		}
	}
	return nil
}

func checkProtocol(d *decoder, path, protocol string) error {
	switch protocol {
	case "", "TCP", "UDP", "SCTP":
		return nil
	}
	return d.at(path, "want TCP, UDP or SCTP, got %q", protocol)
}
