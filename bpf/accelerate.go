package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
)

const (
	accelerateProgram = "accelerate"
	overtakeProgram   = "overtake"
	unreadProgram     = "unread"
)

// oldestFast is the first kernel that does it well. Since 6.13 it tells how much waits for the reader of what was handed to it
// ("tcp_bpf: Charge receive socket buffer in bpf_tcp_ingress()"), else that could not be bounded; since 6.18 servers whose
// listeners speak MPTCP, as Go's do, bear it ("mptcp: Fix proto fallback detection with BPF").
const oldestFast = 6<<16 | 18<<8

// ErrTooOld is returned by Accelerates.
var ErrTooOld = errors.New("acceleration needs Linux 6.18")

// Accelerates tells whether connections of pods that ask for it go past TCP on this node, or why not.
func (c *Capture) Accelerates() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.accelerates()
}

// accelerates is Accelerates. The caller holds mu.
func (c *Capture) accelerates() error {
	if c.unaccelerated != nil {
		return c.unaccelerated
	}
	code, err := features.LinuxVersionCode()
	switch {
	case err != nil:
		return fmt.Errorf("read the kernel's version: %w", err)
	case code < oldestFast:
		return ErrTooOld
	}
	return nil
}

// accelerate has the programs there that connections of two pods that want it take, or returns why that cannot be, which is
// not tried again. The caller holds mu.
func (c *Capture) accelerate() error {
	if err := c.accelerates(); err != nil || c.accelerating {
		return err
	}
	c.unaccelerated = c.attachAcceleration()
	c.accelerating = c.unaccelerated == nil
	return c.unaccelerated
}

func (c *Capture) attachAcceleration() error {
	spec := c.only(accelerateProgram, overtakeProgram)
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: c.shared})
	if err != nil {
		return fmt.Errorf("load acceleration: %w", err)
	}
	defer coll.Close()
	// It stays as long as the map does. Sockets that are in the map keep the one of when they came.
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: c.maps.Fast.FD(), Program: coll.Programs[overtakeProgram], Attach: ebpf.AttachSkMsgVerdict,
	})
	if err != nil {
		return fmt.Errorf("attach %s: %w", overtakeProgram, err)
	}
	return c.attachAccelerate(coll.Programs[accelerateProgram])
}

// attachAccelerate puts the program in place of an earlier agent's, if there is one.
func (c *Capture) attachAccelerate(prog *ebpf.Program) error {
	l, err := link.LoadPinnedLink(c.acceleratePin(), nil)
	if err == nil {
		defer l.Close()
		if err := l.Update(prog); err != nil {
			return fmt.Errorf("replace program %s: %w", accelerateProgram, err)
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("take over link %s: %w", accelerateProgram, err)
	}
	l, err = link.AttachCgroup(link.CgroupOptions{Path: c.cgroup, Attach: ebpf.AttachCGroupSockOps, Program: prog})
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", accelerateProgram, c.cgroup, besideWhom(c.cgroup, err))
	}
	defer l.Close()
	if err := l.Pin(c.acceleratePin()); err != nil {
		return fmt.Errorf("pin link %s: %w", accelerateProgram, err)
	}
	return nil
}

// setAccelerate is about connections that are made from now on. A pod that cannot be accelerated is captured all the same.
func (s *Slot) setAccelerate(on bool) error {
	if on && s.c.accelerate() == nil {
		s.value.Accelerate = 1
		return nil
	}
	was := s.value.Accelerate != 0
	s.value.Accelerate = 0
	if was {
		return s.c.decelerate()
	}
	return nil
}

// decelerate takes the program away that looks at each connection of the node, if no pod wants it any more. The caller holds
// mu. Connections that are accelerated stay so.
func (c *Capture) decelerate() error {
	for _, s := range c.slots {
		if s.value.Accelerate != 0 {
			return nil
		}
	}
	c.accelerating = false
	l, err := link.LoadPinnedLink(c.acceleratePin(), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end acceleration: %w", err)
	}
	defer l.Close()
	if err := errors.Join(l.Detach(), l.Unpin()); err != nil {
		return fmt.Errorf("end acceleration: %w", err)
	}
	return nil
}

func (c *Capture) acceleratePin() string { return filepath.Join(c.dir, accelerateProgram) }

// Handed returns how much of a connection went past TCP, from the client and to it; 0 if it is not accelerated.
func (c *Capture) Handed(e Ends) (up, down uint64) {
	var lane captureLane
	key := captureEnds{Client: endOf(e.Client), Server: endOf(e.Server)}
	if err := c.maps.Lanes.Lookup(&key, &lane); err != nil {
		return 0, 0
	}
	return lane.Up, lane.Down
}

// slowDown has the pod's accelerated connections go by TCP from now on. The caller holds mu.
func (s *Slot) slowDown() error {
	return slowDown(s.c.maps.Lanes, func(e captureEnds) bool { return s.addrs[addrOf(e.Client.Ip)] || s.addrs[addrOf(e.Server.Ip)] })
}

func slowDown(lanes *ebpf.Map, those func(captureEnds) bool) error {
	found := map[captureEnds]captureLane{}
	var ends captureEnds
	var lane captureLane
	for it := lanes.Iterate(); it.Next(&ends, &lane); {
		if those(ends) {
			found[ends] = lane
		}
	}
	for ends, lane := range found {
		lane.ClientSk, lane.ServerSk = 0, 0
		if err := lanes.Update(&ends, &lane, ebpf.UpdateExist); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("end acceleration of a connection: %w", err)
		}
	}
	return nil
}

// ErrUnread is returned by Remove.
var ErrUnread = errors.New("connections have bytes that went past TCP and are not read yet")

const (
	readPatience = 5 * time.Second
	readLook     = 50 * time.Millisecond
)

// letRead waits until apps have read what was handed to them, which goes with the maps that are pinned below dir. Returns
// ErrUnread if one does not.
func letRead(dir string) error {
	lanes, err := ebpf.LoadPinnedMap(mapPin(dir, captureMapLanes), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end acceleration: %w", err)
	}
	defer lanes.Close()
	fast, err := ebpf.LoadPinnedMap(mapPin(dir, captureMapFast), nil)
	if err != nil {
		return fmt.Errorf("end acceleration: %w", err)
	}
	defer fast.Close()
	var first captureLaneKey
	if errors.Is(fast.NextKey(nil, &first), ebpf.ErrKeyNotExist) {
		return nil // nothing ever was, or all has ended
	}
	if err := slowDown(lanes, func(captureEnds) bool { return true }); err != nil {
		return err
	}
	for until := time.Now().Add(readPatience); ; {
		time.Sleep(readLook) // also for what is being handed over right now
		n, err := unread(fast)
		switch {
		case err != nil:
			return err
		case n == 0:
			return nil
		case time.Now().After(until):
			return fmt.Errorf("%d %w: end these pods, or remove again", n, ErrUnread)
		}
	}
}

// unread returns how many sockets have something that was handed to them and is not read.
func unread(fast *ebpf.Map) (int, error) {
	spec, err := loadCapture()
	if err != nil {
		return 0, fmt.Errorf("read embedded programs: %w", err)
	}
	prog, err := ebpf.NewProgram(spec.Programs[unreadProgram])
	if err != nil {
		return 0, fmt.Errorf("load %s: %w", unreadProgram, err)
	}
	defer prog.Close()
	it, err := link.AttachIter(link.IterOptions{Program: prog, Map: fast})
	if err != nil {
		return 0, fmt.Errorf("look for what is not read: %w", err)
	}
	defer it.Close()
	r, err := it.Open()
	if err != nil {
		return 0, fmt.Errorf("look for what is not read: %w", err)
	}
	defer r.Close()
	found, err := io.ReadAll(r)
	if err != nil {
		return 0, fmt.Errorf("look for what is not read: %w", err)
	}
	return len(found), nil
}
