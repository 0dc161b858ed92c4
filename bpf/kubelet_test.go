package bpf

import (
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// TestOneKubeletANode: the next one takes the place of the one before, of whatever namespace.
func TestOneKubeletANode(t *testing.T) {
	c := open(t, pinDir(t))
	var one captureKubelet
	for _, k := range []Kubelet{{Netns: 1, PidNS: 2, Pid: 3, Start: 4}, {Netns: 1, PidNS: 2, Pid: 5, Start: 6}, {Netns: 7, PidNS: 2, Pid: 5, Start: 6}} {
		if err := c.SetKubelet(k); err != nil {
			t.Fatal(err)
		}
		if err := c.maps.Kubelets.Lookup(k.Netns, &one); err != nil || one != (captureKubelet{Start: k.Start, Pidns: k.PidNS, Pid: k.Pid}) {
			t.Errorf("noted %+v of %+v: %v", one, k, err)
		}
	}
	if err := c.ForgetKubelet(); err != nil {
		t.Fatal(err)
	}
	var netns uint64
	if it := c.maps.Kubelets.Iterate(); it.Next(&netns, &one) {
		t.Errorf("%+v is left", one)
	}
}

// TestANewAgentForgetsProbesThatCountForNothing and keeps those under way.
func TestANewAgentForgetsProbesThatCountForNothing(t *testing.T) {
	dir := pinDir(t)
	c := open(t, dir)
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	old, young := captureEnds{Client: captureAddr{Port: 1}}, captureEnds{Client: captureAddr{Port: 2}}
	for key, until := range map[captureEnds]time.Duration{old: -time.Second, young: time.Minute} {
		if err := c.maps.Probes.Put(key, uint64(now.Nano()+int64(until))); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	c = open(t, dir)
	var key captureEnds
	var until uint64
	var left []captureEnds
	for it := c.maps.Probes.Iterate(); it.Next(&key, &until); {
		left = append(left, key)
	}
	if len(left) != 1 || left[0] != young {
		t.Errorf("notes left: %+v", left)
	}
}

// TestCaptureDoesNotDependOnReadingProcesses: where the kernel forbids it, the programs load without, and say so.
func TestCaptureDoesNotDependOnReadingProcesses(t *testing.T) {
	c := open(t, pinDir(t))
	if c.unreadable != nil {
		t.Fatalf("this kernel forbids it: %v", c.unreadable)
	}
	without, err := c.loadCollection(c.shared, false)
	if err != nil {
		t.Fatal(err)
	}
	defer without.Close()
	if with, less := sizeOf(t, c.progs), sizeOf(t, without); less >= with {
		t.Errorf("the program has %d instructions with and %d without reading processes", with, less)
	}
	c.unreadable = errors.New("operation not permitted")
	if err := c.SetKubelet(Kubelet{Netns: 1}); !errors.Is(err, ErrKubeletUnreadable) {
		t.Errorf("SetKubelet answered %v", err)
	}
}

// sizeOf is how many instructions of `established` the kernel kept.
func sizeOf(t *testing.T, c *ebpf.Collection) int {
	t.Helper()
	info, err := c.Programs["established"].Info()
	if err != nil {
		t.Fatal(err)
	}
	list, err := info.Instructions()
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
