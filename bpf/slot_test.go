package bpf

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/warren-mesh/warren/internal/nettest"
	"golang.org/x/sys/unix"
)

// contents are how many entries each map has that is written when a pod comes and goes.
func contents(t *testing.T, c *Capture) (pods, addrs int) {
	t.Helper()
	var cookie uint64
	var index, one uint32
	var own captureOwnAddr
	for it := c.maps.Pods.Iterate(); it.Next(&cookie, &index); {
		pods++
	}
	for it := c.maps.OwnAddrs.Iterate(); it.Next(&own, &one); {
		addrs++
	}
	return pods, addrs
}

func TestAPodThatIsWithdrawnLeavesNothing(t *testing.T) {
	c := open(t, pinDir(t))
	slots, _ := pods(t, c, 2)
	o := objectsOf(t, c)
	for _, s := range slots {
		if err := s.Withdraw(); err != nil {
			t.Fatal(err)
		}
		if err := s.Withdraw(); err != nil {
			t.Errorf("withdrawn twice: %v", err)
		}
	}
	if p, a := contents(t, c); p != 0 || a != 0 {
		t.Errorf("%d pods and %d addresses are left", p, a)
	}
	steers := objects{programs: map[string]ebpf.ProgramID{}, links: map[string]link.ID{}}
	for _, name := range []string{"steer/0", "steer/1"} {
		steers.programs[name], steers.links[name] = o.programs[name], o.links[name]
	}
	steers.checkGone(t)
}

func TestAPodThatCannotBeReservedLeavesNothing(t *testing.T) {
	c := open(t, pinDir(t))
	file, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := c.Reserve(Pod{Cookie: 1 << 60, Netns: int(file.Fd()), Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}); err == nil {
		t.Fatal("reserved a pod whose namespace is none")
	}
	if p, a := contents(t, c); p != 0 || a != 0 || len(c.slots) != 0 || len(c.used) != 0 {
		t.Errorf("%d pods, %d addresses and %d slots are left", p, a, len(c.slots))
	}
}

func TestMoreThanMaxPodsAreRefused(t *testing.T) {
	c := open(t, pinDir(t))
	slots, _ := pods(t, c, 1)
	for i := range uint32(MaxPods) { // as if there were so many: to make them takes half a minute
		c.used[i] = true
	}
	ns := nettest.New(t)
	one := Pod{Cookie: cookieOf(t, ns), Netns: int(ns.File.Fd())}
	if _, err := c.Reserve(one); !errors.Is(err, ErrFull) {
		t.Errorf("Reserve answered %v", err)
	}
	if p, _ := contents(t, c); p != 1 {
		t.Errorf("%d pods are noted", p)
	}
	if err := slots[0].Withdraw(); err != nil {
		t.Fatal(err)
	}
	if s, err := c.Reserve(one); err != nil || s.index != slots[0].index {
		t.Errorf("the free slot is not used again: %v", err)
	}
}

func TestRetainWithdrawsTheOthersEvenOfDeadNamespaces(t *testing.T) {
	dir := pinDir(t)
	c := open(t, dir)
	_, specs := pods(t, c, 1)
	t.Run("a pod whose namespace dies", func(t *testing.T) { pods(t, c, 1) })
	c.Close()
	c = open(t, dir)
	if len(c.slots) != 2 {
		t.Fatalf("%d pods were taken over", len(c.slots))
	}
	if err := c.Retain(map[uint64]bool{specs[0].Cookie: true}); err != nil {
		t.Fatal(err)
	}
	if p, a := contents(t, c); p != 1 || a != 1 || len(c.slots) != 1 || c.slots[specs[0].Cookie] == nil {
		t.Errorf("%d pods and %d addresses are left, of %d slots", p, a, len(c.slots))
	}
	entries, err := os.ReadDir(dir + "/" + abiVersion + "/steer")
	if err != nil || len(entries) != 1 {
		t.Errorf("steer links left: %v, %v", entries, err)
	}
}

func TestAddressesFollowThePod(t *testing.T) {
	c := open(t, pinDir(t))
	slots, specs := pods(t, c, 1)
	if err := slots[0].Enroll(1, 2); err != nil {
		t.Fatal(err)
	}
	parse := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	for _, addrs := range [][]netip.Addr{
		parse("10.0.0.1", "10.0.0.2", "fe80::1", "fd00::1", "fd00::2"), parse("10.0.0.2", "fd00::2"), parse("fe80::1"), parse("::ffff:10.0.0.9", "fd00::1"),
	} {
		specs[0].Addrs = addrs
		s, err := c.Reserve(specs[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, n := contents(t, c); n != len(addrs) {
			t.Errorf("%v: %d addresses are noted", addrs, n)
		}
		var src4, src6 netip.Addr
		for _, a := range addrs {
			switch a = a.Unmap(); {
			case a.Is4() && !src4.IsValid():
				src4 = a
			case a.Is6() && !a.IsLinkLocalUnicast() && !src6.IsValid():
				src6 = a
			}
		}
		var value captureSlot
		if err := c.maps.Slots.Lookup(s.index, &value); err != nil {
			t.Fatal(err)
		}
		for got, want := range map[[4]uint32]netip.Addr{value.Src4: src4, value.Src6: src6} {
			if want.IsValid() && addrOf(got) != want || !want.IsValid() && got != [4]uint32{} {
				t.Errorf("%v: source is %v, want %v", addrs, addrOf(got), want)
			}
		}
		if value.State != uint32(capturePodStatePOD_ENROLLED) || value.OutPort4 != 1 || value.OutPort6 != 2 {
			t.Errorf("%v: new addresses changed the rest of the slot: %+v", addrs, value)
		}
	}
}

// TestAnOldRecordIsNotTakenForANewConnection: records stay after their connections.
func TestAnOldRecordIsNotTakenForANewConnection(t *testing.T) {
	c := open(t, pinDir(t))
	slots, _ := pods(t, c, 1)
	client, dst := netip.MustParseAddrPort("10.99.1.1:7000"), netip.MustParseAddrPort("10.99.1.2:80")
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	for age, want := range map[time.Duration]error{time.Second: nil, maxWait - time.Second: nil, maxWait + time.Second: ErrNotCaptured} {
		record := captureOrigin{Dst: endOf(dst), At: uint64(now.Nano() - int64(age))}
		if err := c.maps.Origins.Put(captureOriginKey{Netns: slots[0].cookie, Local: endOf(client)}, record); err != nil {
			t.Fatal(err)
		}
		if _, _, err := slots[0].OriginalDst(client); !errors.Is(err, want) {
			t.Errorf("a record %s old: %v, want %v", age, err, want)
		}
	}
}
