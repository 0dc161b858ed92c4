package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrKubeletUnreadable is returned by SetKubelet if the kernel does not let programs read which process connects: then
// nobody is taken for the kubelet.
var ErrKubeletUnreadable = errors.New("the kernel does not let BPF programs read which process connects, as with " +
	"lockdown=confidentiality, so the kubelet's probes are connections like any: refused under STRICT")

// Kubelet is the process whose connections from the node's network namespace reach the apps of this node's pods without
// ztunnel. The numbers are as /proc shows them.
type Kubelet struct {
	Netns uint64 // cookie of the node's network namespace
	PidNS uint32 // inode of the process's own pid namespace
	Pid   uint32 // its number in that namespace
	Start uint64 // field 22 of /proc/<pid>/stat: clock ticks since boot
}

// SetKubelet makes `k` the one process whose connections pass. It holds until the next SetKubelet or ForgetKubelet, also
// while no agent runs; once the process has ended it is nobody's, whoever gets its pid.
//
// Returns an error that wraps ErrKubeletUnreadable where the kernel cannot tell processes apart.
func (c *Capture) SetKubelet(k Kubelet) error {
	if c.unreadable != nil {
		return fmt.Errorf("%w: %w", ErrKubeletUnreadable, c.unreadable)
	}
	if err := c.forgetKubelets(k.Netns); err != nil {
		return err
	}
	if err := c.maps.Kubelets.Put(k.Netns, captureKubelet{Start: k.Start, Pidns: k.PidNS, Pid: k.Pid}); err != nil {
		return fmt.Errorf("note kubelet: %w", err)
	}
	return nil
}

// ForgetKubelet lets nobody's new connections pass. Those that are open go on.
func (c *Capture) ForgetKubelet() error { return c.forgetKubelets(0) }

// forgetKubelets drops the kubelets of all network namespaces but one.
func (c *Capture) forgetKubelets(but uint64) error {
	var gone []uint64
	var netns uint64
	var value captureKubelet
	for it := c.maps.Kubelets.Iterate(); it.Next(&netns, &value); {
		if netns != but {
			gone = append(gone, netns)
		}
	}
	for _, netns := range gone {
		if err := c.maps.Kubelets.Delete(netns); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget kubelet: %w", err)
		}
	}
	return nil
}

// forgetProbes drops notes that count for nothing: of connections that are open still, or whose end nobody noticed
// because the programs were not attached then.
func (c *Capture) forgetProbes() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read clock: %w", err)
	}
	var old []captureEnds
	var key captureEnds
	var until uint64
	for it := c.maps.Probes.Iterate(); it.Next(&key, &until); {
		if until < uint64(now.Nano()) {
			old = append(old, key)
		}
	}
	for _, k := range old {
		if err := c.maps.Probes.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget probe: %w", err)
		}
	}
	return nil
}
