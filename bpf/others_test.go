package bpf

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// testCgroup is a cgroup below the root, so that no process of the machine runs what a test attaches to it.
func testCgroup(t *testing.T) string {
	t.Helper()
	root, err := CgroupRoot("")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(root, "warren-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// foreignProgram is somebody else's: it lets every connection pass.
func foreignProgram(t *testing.T, name string, hook string) *ebpf.Program {
	t.Helper()
	signature := &btf.FuncProto{Return: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}}
	first := btf.WithFuncMetadata(asm.Mov.Imm(asm.R0, 1), &btf.Func{Name: name, Type: signature, Linkage: btf.GlobalFunc})
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.CGroupSockAddr, AttachType: hooks[hook], License: "GPL",
		Instructions: asm.Instructions{first, asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func attachForeign(t *testing.T, cgroup, name, hook string) {
	t.Helper()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: hooks[hook], Program: foreignProgram(t, name, hook)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

func openAt(t *testing.T, cgroup string) (*Capture, error) {
	t.Helper()
	cfg := config(t, pinDir(t))
	cfg.CgroupRoot = cgroup
	c, err := Open(cfg)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func othersAt(t *testing.T, cgroup string) []Other {
	t.Helper()
	all, err := Others(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestOthersAtTheHooksAreNamed: with their whole names, and in their order. No Warren is one of them.
func TestOthersAtTheHooksAreNamed(t *testing.T) {
	cgroup := testCgroup(t)
	attachForeign(t, cgroup, "cil_sock4_connect", "connect4")
	if got := othersAt(t, cgroup); !slices.Equal(got, []Other{{Hook: "connect4", Program: "cil_sock4_connect"}}) {
		t.Errorf("without Warren: %v", got)
	}
	for range 2 { // two agents
		if _, err := openAt(t, cgroup); err != nil {
			t.Fatal(err)
		}
	}
	attachForeign(t, cgroup, "connect4", "connect4") // it is called like ours
	attachForeign(t, cgroup, "cil_sock6_getpeername", "getpeername6")
	want := []Other{
		{Hook: "connect4", Program: "cil_sock4_connect", First: true},
		{Hook: "connect4", Program: "connect4"},
		{Hook: "getpeername6", Program: "cil_sock6_getpeername"},
	}
	if got := othersAt(t, cgroup); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// TestAProgramThatAdmitsNoOtherIsNamed: Cilium attached so up to 1.13, and keeps it so when it is upgraded.
func TestAProgramThatAdmitsNoOtherIsNamed(t *testing.T) {
	cgroup := testCgroup(t)
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	p := foreignProgram(t, "cil_sock4_connect", "connect4")
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: p, Attach: hooks["connect4"]}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: p, Attach: hooks["connect4"]}); err != nil {
			t.Error(err)
		}
	}()
	_, err = openAt(t, cgroup)
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "cil_sock4_connect at connect4") {
		t.Errorf("opened: %v", err)
	}
}

// TestNobodyDetachesOurPrograms: Calico, and Cilium in versions that do not look whose they are, detach the programs that
// they find at the hooks of a balancer that they do not use. A link holds ours: the kernel refuses, and they stay.
func TestNobodyDetachesOurPrograms(t *testing.T) {
	cgroup := testCgroup(t)
	if _, err := openAt(t, cgroup); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for hook, attach := range hooks {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: attach})
		if err != nil || len(found.Programs) != 1 {
			t.Fatalf("%s has %v: %v", hook, found, err)
		}
		p, err := ebpf.NewProgramFromID(found.Programs[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		err = link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: p, Attach: attach})
		p.Close()
		if !errors.Is(err, unix.ENOENT) {
			t.Errorf("detaching %s: %v", hook, err)
		}
		after, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: attach})
		if err != nil || !slices.Equal(after.Programs, found.Programs) {
			t.Errorf("%s has %v after it: %v", hook, after, err)
		}
	}
}
