package podnet

import (
	"net/netip"

	"github.com/warren-mesh/warren/bpf"
)

// Permit has the kernel connect what the pod dials at dst to another pod, without ztunnel: see bpf.Slot.
func (p *Pod) Permit(dst netip.AddrPort, to bpf.Neighbour, generation uint64) error {
	return p.slot.Permit(dst, to, generation)
}

// Forbid takes a permit back.
func (p *Pod) Forbid(dst netip.AddrPort) error { return p.slot.Forbid(dst) }

// Abort ends the pod's own socket between two addresses; both ends of the connection get a reset.
// Returns an error that wraps unix.ENOENT if there is none.
func (p *Pod) Abort(local, remote netip.AddrPort) error { return p.diag.destroy(local, remote) }

// Traffic returns how many bytes the pod's own socket, a client's, between two addresses has sent and received.
func (p *Pod) Traffic(local, remote netip.AddrPort) (sent, received uint64, err error) {
	sent, received, err = p.diag.traffic(local, remote)
	up, down := p.capture.Handed(bpf.Ends{Client: local, Server: remote})
	return sent + up, received + down, err
}
