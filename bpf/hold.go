package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

const holdProgram = "hold"

// Hold takes this agent's listeners out of the way and has what captured pods dial wait for the next agent's: for so long,
// then it is refused as without an agent. What was accepted before is still to be served. Where the next agent listens it
// holds nothing; that one calls [Capture.Unhold] all the same, for what it costs each packet to be looked at.
func (c *Capture) Hold(d time.Duration) error {
	now, err := newClock()
	if err != nil {
		return err
	}
	coll, err := c.loadAlone(holdProgram, "hold_until", uint64(now.mono+d.Nanoseconds()))
	if err != nil {
		return err
	}
	defer coll.Close()
	if err := c.Unhold(); err != nil { // an earlier agent's, whose time has come or not
		return err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: c.cgroup, Attach: ebpf.AttachCGroupInetEgress, Program: coll.Programs[holdProgram]})
	if err != nil {
		return fmt.Errorf("attach hold to %s: %w", c.cgroup, besideWhom(c.cgroup, err))
	}
	defer l.Close()
	if err := l.Pin(c.holdPin()); err != nil {
		return fmt.Errorf("pin hold: %w", err)
	}
	return c.deafen()
}

// deafen has no listener get a connection any more.
func (c *Capture) deafen() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, s := range c.slots {
		errs = append(errs, s.dropListeners())
	}
	return errors.Join(errs...)
}

// Unhold ends what an earlier agent's Hold began. It is no error if none did.
func (c *Capture) Unhold() error {
	l, err := link.LoadPinnedLink(c.holdPin(), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end hold: %w", err)
	}
	defer l.Close()
	// A link that nobody holds any more ends too, though not at once.
	if err := errors.Join(l.Detach(), l.Unpin()); err != nil {
		return fmt.Errorf("end hold: %w", err)
	}
	return nil
}

func (c *Capture) holdPin() string { return filepath.Join(c.dir, holdProgram) }
