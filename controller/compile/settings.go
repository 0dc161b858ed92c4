package compile

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/controller/manifest"
)

// maxNodeAddrs is how many internal addresses of one node are taken: its kubelet writes them, and may write anything.
const maxNodeAddrs = 8

// addSettings tells nodes about namespaces before they hear of a pod in them, where node ports are answered, and
// whether the mesh is to go.
func (c *compiler) addSettings(out *Output) {
	for name := range c.namespaces {
		add(out, resource.Namespace(&meshv1.Namespace{Name: name, Enrolled: c.labelled(name)}))
	}
	settings := &meshv1.Settings{Leaving: c.opts.Leaving}
	if c.nodePortsUsed {
		settings.NodeAddresses = c.nodeAddrs()
	}
	if settings.GetLeaving() || len(settings.GetNodeAddresses()) > 0 {
		add(out, resource.Settings(settings))
	}
}

// nodeAddrs are every node's internal addresses: external ones are made into others on their way.
func (c *compiler) nodeAddrs() [][]byte {
	var all []netip.Addr
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		node, ok := c.nodes[name].Spec.(*manifest.Node)
		if !ok {
			continue
		}
		taken := 0
		for _, na := range node.Status.Addresses {
			a, err := netip.ParseAddr(na.Address)
			if na.Type != "InternalIP" || err != nil || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
				continue
			}
			if taken++; taken <= maxNodeAddrs {
				all = append(all, a.Unmap().WithZone(""))
			}
		}
	}
	if len(all) > resource.MaxNodeAddrs {
		c.problems = append(c.problems, "Service node ports: not every node answers them: there are too many nodes")
		all = all[:resource.MaxNodeAddrs]
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return wireAddrs(slices.Compact(all))
}
