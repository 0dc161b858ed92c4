package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// MaxPods is how many pods one node can capture (MAX_PODS in capture.c).
const MaxPods = 1024

// ErrFull is returned by Reserve if every slot is taken.
var ErrFull = errors.New("every capture slot of this node is taken")

// Pod is what the kernel is told of a pod.
type Pod struct {
	// Cookie is its network namespace's, SO_NETNS_COOKIE of any socket in it. Never used again until reboot.
	Cookie uint64
	// Netns is an open file of the namespace; needed only during the call.
	Netns int
	// Addrs are all the pod's addresses; the first of each family is shown as a connection's own.
	Addrs []netip.Addr
	// FailOpen lets connections pass uncaptured while no agent listens.
	FailOpen bool
	// Running pods go on as without a mesh until Enroll; one that starts is refused until then.
	Running bool
	// Accelerate lets direct connections between it and others like it go past TCP: [Capture.Accelerates].
	Accelerate bool
}

// Slot is one pod's place in the kernel.
type Slot struct {
	c      *Capture
	index  uint32
	cookie uint64
	addrs  map[netip.Addr]bool
	value  captureSlot
}

// Role is which of a pod's connections a listener serves.
type Role uint32

// The roles of ztunnel's listeners in a pod.
const (
	Outbound  = Role(captureListenerRoleROLE_OUTBOUND)
	Plaintext = Role(captureListenerRoleROLE_PLAINTEXT)
	Tunnel    = Role(captureListenerRoleROLE_TUNNEL)
)

// Reserve captures a pod: from its return on, the pod's new connections are refused until [Slot.Enroll], unless it is
// running: those of a running pod pass until then.
// A pod that an earlier agent enrolled is taken over as it is, and is refused or passes as its listeners are.
func (c *Capture) Reserve(pod Pod) (*Slot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, known := c.slots[pod.Cookie]
	if !known {
		index, ok := c.freeIndex()
		if !ok {
			return nil, ErrFull
		}
		s = &Slot{c: c, index: index, cookie: pod.Cookie, addrs: map[netip.Addr]bool{}}
		s.value.State = uint32(capturePodStatePOD_PENDING)
		if pod.Running {
			s.value.State = uint32(capturePodStatePOD_UNMANAGED)
		}
	}
	if err := s.reserve(pod); err != nil {
		if !known {
			s.clear()
		}
		return nil, err
	}
	c.slots[pod.Cookie] = s
	c.used[s.index] = true
	return s, nil
}

func (c *Capture) freeIndex() (uint32, bool) {
	for i := range uint32(MaxPods) {
		if !c.used[i] {
			return i, true
		}
	}
	return 0, false
}

func (s *Slot) reserve(pod Pod) error {
	s.value.FailOpen = 0
	if pod.FailOpen {
		s.value.FailOpen = 1
	}
	if err := s.setAccelerate(pod.Accelerate); err != nil {
		return err
	}
	if err := s.setAddrs(pod.Addrs); err != nil {
		return err
	}
	if err := s.write(); err != nil {
		return err
	}
	if err := s.c.maps.Pods.Put(s.cookie, s.index); err != nil {
		return fmt.Errorf("note pod: %w", err)
	}
	return s.steer(pod.Netns)
}

// setAddrs adds the new addresses before it removes the old, so that no connection of the pod to itself is
// taken for one from outside.
func (s *Slot) setAddrs(addrs []netip.Addr) error {
	s.value.Src4, s.value.Src6 = [4]uint32{}, [4]uint32{}
	want := map[netip.Addr]bool{}
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		want[a] = true
		if err := s.c.maps.OwnAddrs.Put(captureOwnAddr{Slot: s.index, Ip: words(a)}, uint32(1)); err != nil {
			return fmt.Errorf("note address %s: %w", a, err)
		}
		switch {
		case a.Is4() && s.value.Src4 == [4]uint32{}:
			s.value.Src4 = words(a)
		case a.Is6() && !a.IsLinkLocalUnicast() && s.value.Src6 == [4]uint32{}:
			s.value.Src6 = words(a)
		}
	}
	for a := range s.addrs {
		if !want[a] {
			_ = s.c.maps.OwnAddrs.Delete(captureOwnAddr{Slot: s.index, Ip: words(a)})
		}
	}
	s.addrs = want
	return nil
}

func (s *Slot) write() error {
	if err := s.c.maps.Slots.Put(s.index, s.value); err != nil {
		return fmt.Errorf("write capture slot: %w", err)
	}
	return nil
}

// steer attaches this slot's copy of the sk_lookup program to the namespace, or replaces the pinned one.
func (s *Slot) steer(netns int) error {
	coll, err := s.c.loadAlone(steerProgram, "steer_slot", s.index)
	if err != nil {
		return err
	}
	defer coll.Close()
	prog := coll.Programs[steerProgram]
	if old, err := link.LoadPinnedLink(s.linkPath(), nil); err == nil {
		defer old.Close()
		if err := old.Update(prog); err == nil {
			return nil
		}
		_ = old.Unpin() // of a namespace that is gone
	}
	l, err := link.AttachNetNs(netns, prog)
	if err != nil {
		return fmt.Errorf("attach steer: %w", err)
	}
	defer l.Close()
	if err := l.Pin(s.linkPath()); err != nil {
		return fmt.Errorf("pin steer: %w", err)
	}
	return nil
}

func (s *Slot) linkPath() string {
	return filepath.Join(s.c.dir, "steer", strconv.FormatUint(uint64(s.index), 10))
}

// Cookie returns the pod's network namespace cookie.
func (s *Slot) Cookie() uint64 { return s.cookie }

// Listen makes the listening socket fd serve role for connections of its family.
func (s *Slot) Listen(role Role, fd int, v6 bool) error {
	if err := s.c.Own(fd); err != nil {
		return err
	}
	if err := s.c.maps.Listeners.Put(s.listenerKey(role, v6), uint64(fd)); err != nil {
		return fmt.Errorf("steer to listener: %w", err)
	}
	return nil
}

func (s *Slot) listenerKey(role Role, v6 bool) uint32 {
	key := s.index*uint32(captureListenerRoleROLE_STRIDE) + uint32(role)*2
	if v6 {
		key++
	}
	return key
}

// OutPorts returns where the pod's connections are turned to, IPv4 and IPv6, 0 if nowhere: of a pod that is taken over, the
// ports of the earlier agent's listeners, to which connections may be on their way.
func (s *Slot) OutPorts() (v4, v6 uint16) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.value.OutPort4, s.value.OutPort6
}

// Enroll opens the way, both directions at once: it is the last write. The ports are those of the outbound
// listeners, on 127.0.0.1 and on ::, 0 if there is none of the family.
func (s *Slot) Enroll(outPort4, outPort6 uint16) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.value.OutPort4, s.value.OutPort6 = outPort4, outPort6
	s.value.State = uint32(capturePodStatePOD_ENROLLED)
	return s.write()
}

// Suspend refuses the pod's new connections until Enroll.
func (s *Slot) Suspend() error { return s.setState(capturePodStatePOD_PENDING) }

// Leave lets the pod's new connections pass as if there were no mesh, while peers' tunnels still reach it.
func (s *Slot) Leave() error {
	err := s.setState(capturePodStatePOD_LEAVING)
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return errors.Join(err, s.slowDown())
}

func (s *Slot) setState(state capturePodState) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.value.State = uint32(state)
	return errors.Join(s.write(), s.c.advance())
}

// Withdraw lets the pod go: its next connection is as if there were no mesh.
func (s *Slot) Withdraw() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.c.slots[s.cookie] != s {
		return nil
	}
	err := s.clear()
	delete(s.c.slots, s.cookie)
	delete(s.c.used, s.index)
	return err
}

func (s *Slot) clear() error {
	s.value.State = uint32(capturePodStatePOD_UNMANAGED)
	err := errors.Join(s.write(), s.c.advance()) // the slot's next pod is another
	if l, lerr := link.LoadPinnedLink(s.linkPath(), nil); lerr == nil {
		_ = l.Unpin()
		l.Close()
	}
	gone := func(e error) {
		if e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, e)
		}
	}
	gone(s.c.maps.Pods.Delete(s.cookie))
	for a := range s.addrs {
		gone(s.c.maps.OwnAddrs.Delete(captureOwnAddr{Slot: s.index, Ip: words(a)}))
	}
	gone(s.dropListeners())
	gone(s.setAccelerate(false))
	gone(s.slowDown())
	if err != nil {
		return fmt.Errorf("release capture slot %d: %w", s.index, err)
	}
	return nil
}

// dropListeners has the slot's listeners get no connection any more. It is no error if there are none.
func (s *Slot) dropListeners() error {
	var errs []error
	for _, role := range []Role{Outbound, Plaintext, Tunnel} {
		for _, v6 := range []bool{false, true} {
			err := s.c.maps.Listeners.Delete(s.listenerKey(role, v6))
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, ebpf.ErrKeyNotExist) { // a sockmap says EINVAL
				errs = append(errs, fmt.Errorf("drop listener: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// adoptSlots finds what an earlier agent left.
func (c *Capture) adoptSlots() error {
	var cookie uint64
	var index uint32
	for it := c.maps.Pods.Iterate(); it.Next(&cookie, &index); {
		s := &Slot{c: c, index: index, cookie: cookie, addrs: map[netip.Addr]bool{}}
		if err := c.maps.Slots.Lookup(index, &s.value); err != nil {
			return fmt.Errorf("read capture slot %d: %w", index, err)
		}
		c.slots[cookie], c.used[index] = s, true
	}
	var own captureOwnAddr
	var one uint32
	for it := c.maps.OwnAddrs.Iterate(); it.Next(&own, &one); {
		for _, s := range c.slots {
			if s.index == own.Slot {
				s.addrs[addrOf(own.Ip)] = true
			}
		}
	}
	return errors.Join(c.forgetPeers(), c.forgetProbes())
}

// forgetPeers drops what an earlier agent noted about connections that ended with it.
func (c *Capture) forgetPeers() error {
	var keys []capturePeerKey
	var key capturePeerKey
	var value captureAddr
	for it := c.maps.Peers.Iterate(); it.Next(&key, &value); {
		keys = append(keys, key)
	}
	for _, k := range keys {
		if err := c.maps.Peers.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget peer: %w", err)
		}
	}
	return nil
}

// Retain withdraws every pod whose cookie is not among `keep`: those whose namespaces are gone.
func (c *Capture) Retain(keep map[uint64]bool) error {
	c.mu.Lock()
	var stale []*Slot
	for cookie, s := range c.slots {
		if !keep[cookie] {
			stale = append(stale, s)
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, s := range stale {
		errs = append(errs, s.Withdraw())
	}
	return errors.Join(errs...)
}
