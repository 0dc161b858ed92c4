package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrNotCaptured is returned by OriginalDst for a connection that no capture program turned.
var ErrNotCaptured = errors.New("connection was not captured")

// Keys and values of what happens for each connection are passed by pointer: the library takes their memory as it is, and
// encodes values by reflection.

// Own marks a socket as ztunnel's: it is never captured. Sockets accepted from it inherit the mark.
func (c *Capture) Own(fd int) error {
	key, yes := uint32(fd), uint32(1)
	if err := c.maps.OwnSockets.Put(&key, &yes); err != nil {
		return fmt.Errorf("mark own socket: %w", err)
	}
	return nil
}

// maxWait is how long a captured connection may wait to be accepted. An older record is of an earlier connection.
const maxWait = 2 * time.Minute

// OriginalDst returns where the captured connection whose client end is `client` wanted to go, and how long ago
// it was captured.
//
// Records are never deleted, only replaced or evicted: the client may have used its port again by the time that somebody
// notices the end of the connection before, and a deletion would take the new one's record.
func (s *Slot) OriginalDst(client netip.AddrPort) (netip.AddrPort, time.Duration, error) {
	var o captureOrigin
	key := captureOriginKey{Netns: s.cookie, Local: endOf(client)}
	err := s.c.maps.Origins.Lookup(&key, &o)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return netip.AddrPort{}, 0, ErrNotCaptured
	}
	if err != nil {
		return netip.AddrPort{}, 0, fmt.Errorf("look up original destination: %w", err)
	}
	age, err := ageOf(o.At)
	if err == nil && age > maxWait {
		return netip.AddrPort{}, 0, ErrNotCaptured
	}
	return addrPortOf(o.Dst), age, err
}

// ageOf is how long ago something was, by the kernel's clock.
func ageOf(at uint64) (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return time.Duration(now.Nano() - int64(at)), nil
}

// Source returns the captured connection's source as its app sees it. A socket that the app bound to a port only comes
// to the listener from loopback.
func (s *Slot) Source(client netip.AddrPort) netip.AddrPort {
	if !client.Addr().IsLoopback() {
		return client
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	src := s.value.Src6
	if client.Addr().Unmap().Is4() {
		src = s.value.Src4
	}
	return netip.AddrPortFrom(addrOf(src), client.Port())
}

// ShowPeer makes the app's end of the connection remote→local answer `client` when asked for its peer. `local`
// is the app's address, `remote` the one ztunnel dials from. Call it before dialling, HidePeer when done.
func (s *Slot) ShowPeer(local, remote, client netip.AddrPort) error {
	key, value := capturePeerKey{Netns: s.cookie, Local: endOf(local), Remote: endOf(remote)}, endOf(client)
	if err := s.c.maps.Peers.Put(&key, &value); err != nil {
		return fmt.Errorf("note true peer %s: %w", client, err)
	}
	return nil
}

// HidePeer drops what ShowPeer noted.
func (s *Slot) HidePeer(local, remote netip.AddrPort) {
	key := capturePeerKey{Netns: s.cookie, Local: endOf(local), Remote: endOf(remote)}
	_ = s.c.maps.Peers.Delete(&key)
}
