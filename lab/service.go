package lab

import (
	"cmp"
	"encoding/json"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
)

// The networks that services' virtual addresses come from.
var (
	serviceCIDR4 = netip.MustParsePrefix("10.96.0.0/16")
	serviceCIDR6 = netip.MustParsePrefix("fd00:96::/112")
)

const maxServices = 50_000

// Service is a name, virtual addresses and the pods that its selector finds.
type Service struct {
	Namespace string
	Name      string
	VIPs      []netip.Addr // none if it is headless
	Selector  map[string]string
	Ports     []ServicePort
}

// ServicePort is one port of a service. TargetName is the container port that it leads to if that has a name;
// otherwise Target is its number.
type ServicePort struct {
	Name       string
	Protocol   string // tcp or udp
	Port       uint16
	Target     uint16
	TargetName string
}

// FullName is "<namespace>/<name>".
func (s *Service) FullName() string { return s.Namespace + "/" + s.Name }

func (p *plan) planServices(objects []*object, prev *plan) error {
	if len(objects) > maxServices {
		return objects[maxServices].bad("kind", "a lab has at most %d services", maxServices)
	}
	var open []*Service
	for _, o := range objects {
		s, families, err := decodeService(o)
		if err != nil {
			return err
		}
		p.Services = append(p.Services, s)
		if families == 0 {
			continue
		}
		if old := prev.service(s.FullName()); old != nil && len(old.VIPs) > 0 {
			s.VIPs = old.VIPs
			continue
		}
		s.VIPs = placeholders(families)
		open = append(open, s)
	}
	p.allocateVIPs(open)
	return nil
}

func (p *plan) service(fullName string) *Service {
	for _, s := range p.Services {
		if s.FullName() == fullName {
			return s
		}
	}
	return nil
}

// families is a set of address families that still need an address.
type families uint8

const (
	family4 families = 1 << iota
	family6
)

// decodeService returns a service and the families for which an address must still be found.
func decodeService(o *object) (*Service, families, error) {
	var spec serviceSpec
	if err := o.decodeSpec(&spec); err != nil {
		return nil, 0, err
	}
	s := &Service{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, Selector: spec.Selector}
	for i, sp := range spec.Ports {
		port, err := decodePort(sp)
		if err != "" {
			return nil, 0, o.bad("spec.ports", "[%d]: %s", i, err)
		}
		s.Ports = append(s.Ports, port)
	}
	if spec.Type == "ExternalName" {
		return nil, 0, o.bad("spec.type", "ExternalName does not exist in a lab")
	}
	given := spec.ClusterIPs
	if len(given) == 0 && spec.ClusterIP != "" {
		given = []string{spec.ClusterIP}
	}
	if slices.Equal(given, []string{"None"}) {
		return s, 0, nil
	}
	for _, text := range given {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" || addr.Is4In6() || !addr.IsGlobalUnicast() {
			return nil, 0, o.bad("spec.clusterIPs", "%q is neither None nor an address", text)
		}
		s.VIPs = append(s.VIPs, addr)
	}
	if len(s.VIPs) > 0 {
		return s, 0, nil
	}
	want, err := decodeFamilies(o, spec.IPFamilies)
	return s, want, err
}

func decodeFamilies(o *object, names []string) (families, error) {
	if len(names) == 0 {
		return family4 | family6, nil
	}
	var f families
	for _, name := range names {
		switch name {
		case "IPv4":
			f |= family4
		case "IPv6":
			f |= family6
		default:
			return 0, o.bad("spec.ipFamilies", "%q is neither IPv4 nor IPv6", name)
		}
	}
	return f, nil
}

// decodePort returns what is wrong as a string, empty if nothing is.
func decodePort(sp servicePort) (ServicePort, string) {
	port := ServicePort{Name: sp.Name, Protocol: strings.ToLower(cmp.Or(sp.Protocol, "TCP")), Port: sp.Port, Target: sp.Port}
	if port.Port == 0 {
		return port, "port: missing"
	}
	if port.Protocol != "tcp" && port.Protocol != "udp" {
		return port, "protocol: " + sp.Protocol + " is neither TCP nor UDP"
	}
	if len(sp.TargetPort) == 0 {
		return port, ""
	}
	if json.Unmarshal(sp.TargetPort, &port.TargetName) == nil {
		port.Target = 0
		return port, ""
	}
	if err := json.Unmarshal(sp.TargetPort, &port.Target); err != nil || port.Target == 0 {
		return port, "targetPort: " + string(sp.TargetPort) + " is neither a port nor the name of one"
	}
	return port, ""
}

// placeholders marks the families wanted with the networks' own addresses, which no service can have.
func placeholders(f families) []netip.Addr {
	var addrs []netip.Addr
	if f&family4 != 0 {
		addrs = append(addrs, serviceCIDR4.Addr())
	}
	if f&family6 != 0 {
		addrs = append(addrs, serviceCIDR6.Addr())
	}
	return addrs
}

// allocateVIPs gives each service the same host number in both families: a hash of its name, so that a service has
// the same address in every lab, then the next free one.
func (p *plan) allocateVIPs(open []*Service) {
	used := map[netip.Addr]bool{}
	for _, s := range p.Services {
		for _, a := range s.VIPs {
			used[a] = true
		}
	}
	for _, s := range open {
		h := fnv.New32a()
		_, _ = h.Write([]byte(s.FullName()))
		const first, span = 256, 65_000
		for n := h.Sum32() % span; ; n = (n + 1) % span {
			v4, _ := nthAddr(serviceCIDR4, int(n)+first)
			v6, _ := nthAddr(serviceCIDR6, int(n)+first)
			if used[v4] || used[v6] {
				continue
			}
			used[v4], used[v6] = true, true
			for i, a := range s.VIPs {
				s.VIPs[i] = v4
				if a.Is6() {
					s.VIPs[i] = v6
				}
			}
			break
		}
	}
}

// backends are the pods that the service's selector finds. An empty selector finds none, as in Kubernetes.
func (p *plan) backends(s *Service) []*Pod {
	var pods []*Pod
	for _, pod := range p.Pods {
		if len(s.Selector) > 0 && pod.Namespace == s.Namespace && selects(s.Selector, pod.Labels) {
			pods = append(pods, pod)
		}
	}
	return pods
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// targetOf is the port of a pod that a service's port leads to; 0 if the pod has no port of that name.
func targetOf(port ServicePort, pod *Pod) uint16 {
	if port.TargetName == "" {
		return port.Target
	}
	for _, c := range pod.Containers {
		for _, cp := range c.Ports {
			if cp.Name == port.TargetName {
				return cp.ContainerPort
			}
		}
	}
	return 0
}
