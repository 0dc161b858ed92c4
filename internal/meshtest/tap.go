package meshtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/warren-mesh/warren/internal/nettest"
	"github.com/warren-mesh/warren/ztunnel"
)

// Canary is what tests send at the beginning of what crosses nodes: every mesh listens for it.
const Canary = "canary-7f3"

// preface is how every HTTP/2 connection begins (RFC 9113, 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// tap reads what passes between pods of the mesh on different nodes. Pods outside the mesh may be spoken to in
// plaintext, and play the attackers: what they send and get is not looked at.
type tap struct {
	nodes map[netip.Addr]string // of the pods in the mesh
	first atomic.Pointer[string]
}

// watch fails the test if anything readable passed between the mesh's nodes while it ran.
func (m *Mesh) watch(hub *nettest.NS) {
	m.tb.Helper()
	if _, measured := m.tb.(*testing.B); measured {
		return // it would measure the tap
	}
	t := &tap{nodes: map[netip.Addr]string{}}
	for _, p := range m.pods {
		if p.Spec.Plain {
			continue
		}
		for _, a := range p.Addrs {
			t.nodes[a] = p.Spec.Node
		}
	}
	m.tb.Cleanup(func() { // after the tap's own, so that it has heard everything
		if what := t.first.Load(); what != nil {
			m.tb.Errorf("readable between nodes: %s", *what)
		}
	})
	nettest.Listen(m.tb, hub.Path, t.readable)
}

// readable finds in a frame what no one between two nodes may read: bytes of a connection that is no tunnel, and in a
// tunnel the canary or HTTP/2 itself.
func (t *tap) readable(frame []byte) bool {
	src, dst, payload := tcpOf(frame)
	if len(payload) == 0 {
		return false
	}
	from, to := t.nodes[src.Addr()], t.nodes[dst.Addr()]
	if from == "" || to == "" || from == to {
		return false
	}
	tunnel := src.Port() == ztunnel.TunnelPort || dst.Port() == ztunnel.TunnelPort
	if tunnel && !bytes.Contains(payload, []byte(Canary)) && !bytes.Contains(payload, []byte(preface)) {
		return false
	}
	what := fmt.Sprintf("%s on %s to %s on %s: %.60q", src, from, dst, to, payload)
	t.first.CompareAndSwap(nil, &what)
	return true
}

const (
	etherLen, tcpMin   = 14, 20
	etherIPv4, etherV6 = 0x0800, 0x86dd
	protocolTCP        = 6
)

// tcpOf takes an Ethernet frame apart; its payload is empty if it is not TCP. Extension headers do not occur here.
func tcpOf(frame []byte) (src, dst netip.AddrPort, payload []byte) {
	if len(frame) < etherLen {
		return
	}
	var from, to netip.Addr
	segment := frame[etherLen:]
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == etherIPv4 && len(segment) >= 20 && segment[9] == protocolTCP:
		from, to = netip.AddrFrom4([4]byte(segment[12:16])), netip.AddrFrom4([4]byte(segment[16:20]))
		header, total := int(segment[0]&15)*4, int(binary.BigEndian.Uint16(segment[2:]))
		if total < header || total > len(segment) {
			total = len(segment)
		}
		segment = segment[min(header, total):total] // without the padding of short frames
	case kind == etherV6 && len(segment) >= 40 && segment[6] == protocolTCP:
		from, to = netip.AddrFrom16([16]byte(segment[8:24])), netip.AddrFrom16([16]byte(segment[24:40]))
		segment = segment[40:]
	default:
		return
	}
	if len(segment) < tcpMin {
		return
	}
	src = netip.AddrPortFrom(from, binary.BigEndian.Uint16(segment))
	dst = netip.AddrPortFrom(to, binary.BigEndian.Uint16(segment[2:]))
	return src, dst, segment[min(int(segment[12]>>4)*4, len(segment)):]
}
