package mesh

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/internal/nettest"
)

// Tap is a wiretap between the nodes that can say who was heard.
type Tap struct {
	*nettest.Wiretap

	mu    sync.Mutex
	heard []string
}

// maxHeard bounds what is kept for a message, and of each packet.
const (
	maxHeard   = 4
	maxExcerpt = 120
)

func (t *Tap) keep(frame []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.heard) < maxHeard {
		t.heard = append(t.heard, describe(frame))
	}
}

// String is the first packets that were heard.
func (t *Tap) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.heard, "; ")
}

// onLoopback tells whether a frame never left the control plane: on its loopback interface there are no addresses.
func onLoopback(frame []byte) bool {
	const addresses = 12
	return len(frame) >= addresses && [addresses]byte(frame) == [addresses]byte{}
}

// describe says from whom to whom an Ethernet frame goes, and how its payload begins. Only TCP without IP options is
// taken apart.
func describe(frame []byte) string {
	const ethernet = 14
	if len(frame) < ethernet+40+20 {
		return fmt.Sprintf("%q", frame)
	}
	packet := frame[ethernet:]
	var src, dst netip.Addr
	var segment []byte
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		src, dst, segment = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20])), packet[20:]
	case unix.ETH_P_IPV6:
		src, dst, segment = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40])), packet[40:]
	default:
		return fmt.Sprintf("%.*q", maxExcerpt, frame)
	}
	payload := segment[min(len(segment), int(segment[12]>>4)*4):]
	return fmt.Sprintf("%s to %s: %.*q", netip.AddrPortFrom(src, binary.BigEndian.Uint16(segment)),
		netip.AddrPortFrom(dst, binary.BigEndian.Uint16(segment[2:])), maxExcerpt, payload)
}
