package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrGone is returned by Permit if the pod, or one that it would be permitted to reach, is no longer captured.
var ErrGone = errors.New("pod is not captured any more")

// Neighbour is a pod of this node and the port of its that is dialled.
type Neighbour struct {
	Addr  netip.AddrPort
	Netns uint64 // cookie of its network namespace
}

// Generation returns the one whose permits count now. A permit follows from what was true after this was read.
func (c *Capture) Generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

// Advance makes `generation` the one that counts, and all permits of others void. It does nothing if that is not newer
// than the one in force.
func (c *Capture) Advance(generation uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation <= c.generation {
		return nil
	}
	return c.setGeneration(generation)
}

// advance begins the next generation. The caller holds mu.
func (c *Capture) advance() error { return c.setGeneration(c.generation + 1) }

func (c *Capture) setGeneration(generation uint64) error {
	c.generation = generation // also if it is not written: then nothing is permitted that is not in force
	if err := c.maps.Generation.Put(uint32(0), generation); err != nil {
		return fmt.Errorf("begin generation %d of permits: %w", generation, err)
	}
	return nil
}

// adoptGeneration voids what an earlier agent permitted.
func (c *Capture) adoptGeneration() error {
	var generation uint64
	var zero uint32
	if err := c.maps.Generation.Lookup(&zero, &generation); err != nil {
		return fmt.Errorf("read generation of permits: %w", err)
	}
	if err := c.setGeneration(generation + 1); err != nil {
		return err
	}
	return c.forgetPermits(func(capturePermitKey, capturePermit) bool { return true })
}

// forgetPermits deletes those for which gone returns true.
func (c *Capture) forgetPermits(gone func(capturePermitKey, capturePermit) bool) error {
	var keys []capturePermitKey
	var key capturePermitKey
	var value capturePermit
	for it := c.maps.Permits.Iterate(); it.Next(&key, &value); {
		if gone(key, value) {
			keys = append(keys, key)
		}
	}
	for _, k := range keys {
		if err := c.maps.Permits.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget permit: %w", err)
		}
	}
	return nil
}

// Permit lets connections of the pod to dst go to another pod of this node without ztunnel while the generation counts. It
// may be written before Advance.
//
// Returns an error that wraps ErrGone if one of the pods is not captured any more.
func (s *Slot) Permit(dst netip.AddrPort, to Neighbour, generation uint64) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	other := s.c.slots[to.Netns]
	if s.c.slots[s.cookie] != s || other == nil {
		return fmt.Errorf("permit %s to %s: %w", dst, to.Addr, ErrGone)
	}
	value := capturePermit{Generation: generation, To: captureNeighbour{Addr: endOf(to.Addr), Slot: other.index, Netns: to.Netns}}
	key := capturePermitKey{Slot: s.index, Dst: endOf(dst)}
	if err := s.c.maps.Permits.Put(&key, &value); err != nil {
		return fmt.Errorf("permit %s: %w", dst, err)
	}
	return nil
}

// Forbid takes a permit back. The connections that were made by it go on.
func (s *Slot) Forbid(dst netip.AddrPort) error {
	err := s.c.maps.Permits.Delete(capturePermitKey{Slot: s.index, Dst: endOf(dst)})
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("take permit for %s back: %w", dst, err)
	}
	return nil
}

// Ends are the two ends of a connection between pods of this node.
type Ends struct{ Client, Server netip.AddrPort }

// Direct is a connection between two pods of this node that goes without ztunnel.
type Direct struct {
	Ends
	// The cookies of both pods' network namespaces. They are the kernel's word for who is at either end.
	ClientNetns, ServerNetns uint64
	Dialled                  netip.AddrPort
	At                       time.Time     // when it was dialled
	Connect                  time.Duration // how long it took to be established; 0 if it is not
}

// DirectEnd is how one ended.
type DirectEnd struct {
	At time.Time
	// In is what the client sent and the server took, Out what came from the server, bytes of payload.
	In, Out uint64
	// Err is what the client's socket met: syscall.ECONNREFUSED, ECONNRESET and so on, 0 if nothing.
	Err unix.Errno
	// Aborted tells that the client's socket was closed without a FIN of its own having been taken, or before it was
	// connected.
	Aborted bool
	// Accelerated tells that part of it went past TCP.
	Accelerated bool
	RTT         time.Duration // smoothed
	Retransmits int           // of the client
}

// Directs returns those that are open.
func (c *Capture) Directs() ([]Direct, error) {
	var out []Direct
	var ends captureEnds
	var value captureDirect
	clock, err := newClock()
	if err != nil {
		return nil, err
	}
	it := c.maps.Directs.Iterate()
	for it.Next(&ends, &value) {
		out = append(out, directOf(ends, value, clock))
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("list direct connections: %w", err)
	}
	return out, nil
}

// IsDirect tells whether the kernel knows of a direct connection still, and whether it was established.
func (c *Capture) IsDirect(e Ends) (open, established bool) {
	var value captureDirect
	key := captureEnds{Client: endOf(e.Client), Server: endOf(e.Server)}
	err := c.maps.Directs.Lookup(&key, &value)
	return err == nil, err == nil && value.Established != 0
}

func directOf(ends captureEnds, d captureDirect, clock clock) Direct {
	out := Direct{
		Ends:        Ends{addrPortOf(ends.Client), addrPortOf(ends.Server)},
		ClientNetns: d.Client, ServerNetns: d.Server, Dialled: addrPortOf(d.Dialled), At: clock.time(d.At),
	}
	if d.Established > d.At {
		out.Connect = time.Duration(d.Established - d.At)
	}
	return out
}

// clock turns the kernel's monotonic time into ours.
type clock struct {
	now  time.Time
	mono int64
}

func newClock() (clock, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return clock{}, fmt.Errorf("read clock: %w", err)
	}
	return clock{time.Now(), ts.Nano()}, nil
}

func (c clock) time(mono uint64) time.Time { return c.now.Add(time.Duration(int64(mono) - c.mono)) }
