package enroll

import (
	"net/netip"

	"github.com/warren-mesh/warren/agent/podnet"
	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/ztunnel"
)

// direct is a pod's direct way in ztunnel's words.
type direct struct{ *podnet.Pod }

func (d direct) Permit(dst netip.AddrPort, to ztunnel.Neighbour, generation uint64) error {
	return d.Pod.Permit(dst, bpf.Neighbour(to), generation)
}
