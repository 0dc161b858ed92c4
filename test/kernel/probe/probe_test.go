package probe

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestTheKernelHasWhatWarrensProgramsUse(t *testing.T) {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		t.Fatal(err)
	}
	t.Logf("kernel %s", unix.ByteSliceToString(uname.Release[:]))

	for _, kind := range []ebpf.MapType{ebpf.Array, ebpf.PerCPUArray, ebpf.Hash, ebpf.LRUHash, ebpf.SockMap, ebpf.SockHash, ebpf.SkStorage, ebpf.RingBuf} {
		check(t, features.HaveMapType(kind), "map type %s", kind)
	}
	everywhere := []asm.BuiltinFunc{asm.FnMapLookupElem, asm.FnMapUpdateElem, asm.FnMapDeleteElem, asm.FnKtimeGetNs}
	for program, helpers := range map[ebpf.ProgramType][]asm.BuiltinFunc{
		ebpf.CGroupSockAddr: {
			asm.FnGetNetnsCookie, asm.FnGetSocketCookie, asm.FnGetCurrentPidTgid, asm.FnGetCurrentCgroupId,
			asm.FnSkStorageGet, asm.FnSkStorageDelete, asm.FnBind, asm.FnSetsockopt, asm.FnSkLookupTcp, asm.FnSkRelease,
		},
		ebpf.SockOps: {
			asm.FnGetNetnsCookie, asm.FnGetSocketCookie, asm.FnSkStorageGet, asm.FnSockHashUpdate,
			asm.FnSockOpsCbFlagsSet, asm.FnGetCurrentTask, asm.FnProbeReadKernel,
		},
		ebpf.SkLookup: {asm.FnSkAssign, asm.FnSkRelease},
		ebpf.SkMsg:    {asm.FnMsgRedirectHash},
	} {
		check(t, features.HaveProgramType(program), "program type %s", program)
		for _, helper := range append(helpers, everywhere...) {
			check(t, features.HaveProgramHelper(program, helper), "%s in %s", helper, program)
		}
	}
	check(t, features.HaveLargeInstructions(), "programs of up to a million instructions")
	check(t, features.HaveBoundedLoops(), "bounded loops")
	check(t, features.HaveV3ISA(), "the instruction set -mcpu=v3")
	_, err := btf.LoadKernelSpec()
	check(t, err, "the kernel's type information")
}

func check(t *testing.T, err error, format string, args ...any) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", fmt.Sprintf(format, args...), err)
	}
}

func TestPinnedCgroupLinksOfEachHookSurviveTheirDescriptor(t *testing.T) {
	for _, hook := range []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
		ebpf.AttachCgroupInet4GetSockname, ebpf.AttachCgroupInet6GetSockname,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupSockOps,
	} {
		t.Run(hook.String(), func(t *testing.T) {
			kind := ebpf.CGroupSockAddr
			if hook == ebpf.AttachCGroupSockOps {
				kind = ebpf.SockOps
			}
			prog := load(t, kind, hook, asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()})
			l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup(t), Attach: hook, Program: prog})
			if err != nil {
				t.Fatal(err)
			}
			survivesPinned(t, l)
		})
	}
}

// The program below is the least that sk_lookup must do for Warren: any port of the namespace reaches the one listener, whose
// accepted socket still says which port was meant.
func TestSkLookupSteersEveryPortOfANamespaceToOneListener(t *testing.T) {
	ns := freshNetns(t)
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // Go listens with MPTCP if it can, and a sockmap takes no MPTCP socket
	listener, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	listeners, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer listeners.Close()
	raw, err := listener.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = listeners.Put(uint32(0), uint64(fd)) }); ctlErr != nil || err != nil {
		t.Fatal("put the listener into the sockmap:", ctlErr, err)
	}
	l, err := link.AttachNetNs(ns, load(t, ebpf.SkLookup, ebpf.AttachSkLookup, steer(listeners)))
	if err != nil {
		t.Fatal(err)
	}
	survivesPinned(t, l)

	client, err := net.Dial("tcp", "127.0.0.1:7")
	if err != nil {
		t.Fatal("no program answered for a port that nobody listens on:", err)
	}
	defer client.Close()
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if got := server.LocalAddr().String(); got != "127.0.0.1:7" {
		t.Errorf("the accepted socket's address is %s, want the port that was dialled, 127.0.0.1:7", got)
	}
}

func TestAVethPairReachesFromOneNamespaceIntoAnother(t *testing.T) {
	pod := freshNetns(t)
	freshNetns(t)
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out"}, PeerName: "in", PeerNamespace: netlink.NsFd(pod)}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
}

// steer is: r7 = listeners[0]; if r7 { sk_assign(ctx, r7, 0); sk_release(r7) }; return SK_PASS.
func steer(listeners *ebpf.Map) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.R10, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, listeners.FD()), asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, -4), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Reg(asm.R2, asm.R7), asm.Mov.Imm(asm.R3, 0), asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R1, asm.R7), asm.FnSkRelease.Call(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), asm.Return(),
	}
}

func load(t *testing.T, kind ebpf.ProgramType, hook ebpf.AttachType, code asm.Instructions) *ebpf.Program {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, AttachType: hook, Instructions: code, License: "GPL"})
	if err != nil {
		t.Fatalf("load %s: %v", hook, err)
	}
	t.Cleanup(func() { prog.Close() })
	return prog
}

// survivesPinned pins a link in a file system of its own, closes it and finds it again by its pin.
func survivesPinned(t *testing.T, l link.Link) {
	t.Helper()
	bpffs := t.TempDir()
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, unix.Unmount(bpffs, unix.MNT_DETACH), "unmount %s", bpffs) })
	pin := filepath.Join(bpffs, "link")
	if err := l.Pin(pin); err != nil {
		t.Fatal(err)
	}
	check(t, l.Close(), "close the link")
	again, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
}

// cgroup makes a cgroup of its own, so that no hook of a test touches another process.
func cgroup(t *testing.T) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} { // a hybrid host has the v2 tree at the first
		var fs unix.Statfs_t
		if unix.Statfs(root, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		dir, err := os.MkdirTemp(root, "probe-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { check(t, os.Remove(dir), "remove %s", dir) })
		return dir
	}
	t.Fatal("no cgroup v2 tree is mounted")
	return ""
}

// freshNetns moves the test's thread into a new network namespace with loopback up, and returns its descriptor. The thread is never
// unlocked, so it ends with the test and takes the namespace along.
func freshNetns(t *testing.T) int {
	t.Helper()
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	loopback := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}
	if err := netlink.LinkSetUp(loopback); err != nil {
		t.Fatal(err)
	}
	return int(ns)
}
