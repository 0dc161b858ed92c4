package compile

import (
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/controller/manifest"
)

// selectedEndpoints are the pods that the service's selector selects: what an endpoint controller would have written,
// where there is none.
func (c *compiler) selectedEndpoints(o *manifest.Object, svc *manifest.Service) []*meshv1.Endpoint {
	var out []*meshv1.Endpoint
	for _, p := range c.podsIn[o.Namespace] {
		if len(p.addrs) == 0 || !matches(svc.Selector, p.object.Meta.Labels) {
			continue
		}
		targets := c.targetPorts(o, svc, p)
		if len(targets) == 0 {
			continue
		}
		out = append(out, &meshv1.Endpoint{
			WorkloadUid: p.workload.GetUid(), Addresses: wireAddrs(p.addrs), TargetPorts: targets,
			Ready:   svc.PublishNotReadyAddresses || serving(p) && going(p) == 0,
			Serving: serving(p), Terminating: going(p) == 1,
		})
	}
	slices.SortFunc(out, byAddress)
	return out
}

func (c *compiler) targetPorts(o *manifest.Object, svc *manifest.Service, p *pod) map[uint32]uint32 {
	targets := make(map[uint32]uint32)
	for _, port := range tcpPorts(svc) {
		switch {
		case port.TargetPort.Name != "":
			n := containerPort(p.spec, port.TargetPort.Name)
			if n == 0 {
				c.problem(o, "port %d: targetPort %q is no TCP port of a container of %s (%s)", port.Port, port.TargetPort.Name, p.object.Key, p.object.Origin)
				continue
			}
			targets[uint32(port.Port)] = uint32(n)
		case port.TargetPort.Number != 0:
			targets[uint32(port.Port)] = uint32(port.TargetPort.Number)
		default:
			targets[uint32(port.Port)] = uint32(port.Port)
		}
	}
	return targets
}

// containerPort returns the number of a named TCP port, 0 if no container has it. Of the init containers only
// sidecars run beside the app.
func containerPort(spec *manifest.Pod, name string) uint16 {
	containers := slices.Clone(spec.Spec.Containers)
	for _, init := range spec.Spec.InitContainers {
		if init.RestartPolicy == "Always" {
			containers = append(containers, init)
		}
	}
	for _, container := range containers {
		for _, port := range container.Ports {
			if port.Name == name && isTCP(port.Protocol) {
				return port.ContainerPort
			}
		}
	}
	return 0
}

// serving tells whether a pod takes connections: its Ready condition says so, or its phase if there is no condition.
func serving(p *pod) bool {
	for _, cond := range p.spec.Status.Conditions {
		if cond.Type == "Ready" {
			return cond.Status == "True"
		}
	}
	return p.spec.Status.Phase == "" || p.spec.Status.Phase == "Running"
}
