package bpf

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/warren-mesh/warren/internal/nettest"
	"golang.org/x/sys/unix"
)

// pinDir is one of this test's own. What is left of it is removed at the end.
func pinDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(bpffs, fmt.Sprintf("warren-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	t.Cleanup(func() {
		if err := Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func config(t *testing.T, dir string) Config {
	t.Helper()
	root, err := CgroupRoot("")
	if err != nil {
		t.Fatal(err)
	}
	return Config{PinDir: dir, CgroupRoot: root, Log: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, dir string) *Capture {
	t.Helper()
	c, err := Open(config(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// objects are the kernel's ids of everything that a pin directory holds on to.
type objects struct {
	maps     map[string]ebpf.MapID
	links    map[string]link.ID
	programs map[string]ebpf.ProgramID
}

func objectsOf(t *testing.T, c *Capture) objects {
	t.Helper()
	o := objects{map[string]ebpf.MapID{}, map[string]link.ID{}, map[string]ebpf.ProgramID{}}
	for name, m := range c.shared {
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		o.maps[name], _ = info.ID()
	}
	for _, sub := range []string{"links", "steer"} {
		names, err := os.ReadDir(filepath.Join(c.dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range names {
			l, err := link.LoadPinnedLink(filepath.Join(c.dir, sub, e.Name()), nil)
			if err != nil {
				t.Fatal(err)
			}
			info, err := l.Info()
			if err != nil {
				t.Fatal(err)
			}
			o.links[sub+"/"+e.Name()], o.programs[sub+"/"+e.Name()] = info.ID, info.Program
			l.Close()
		}
	}
	return o
}

// left returns what of the objects the kernel still has.
func (o objects) left() (left []string) {
	for name, id := range o.maps {
		if m, err := ebpf.NewMapFromID(id); err == nil {
			m.Close()
			left = append(left, "map "+name)
		}
	}
	for name, id := range o.programs {
		if p, err := ebpf.NewProgramFromID(id); err == nil {
			p.Close()
			left = append(left, "program "+name)
		}
	}
	for name, id := range o.links {
		if l, err := link.NewFromID(id); err == nil {
			l.Close()
			left = append(left, "link "+name)
		}
	}
	return left
}

// eventually waits at most 5 s: the kernel frees programs and maps after a grace period.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (o objects) checkGone(t *testing.T) {
	t.Helper()
	eventually(t, fmt.Sprintf("the kernel frees %d maps and %d programs; left now: %v", len(o.maps), len(o.programs), o.left()), func() bool {
		return len(o.left()) == 0
	})
}

// pods reserves n pods in namespaces of their own.
func pods(t *testing.T, c *Capture, n int) (slots []*Slot, specs []Pod) {
	t.Helper()
	for i := range n {
		ns := nettest.New(t)
		p := Pod{Cookie: cookieOf(t, ns), Netns: int(ns.File.Fd()), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 99, 1, byte(i + 1)})}}
		s, err := c.Reserve(p)
		if err != nil {
			t.Fatal(err)
		}
		slots, specs = append(slots, s), append(specs, p)
	}
	return slots, specs
}

func cookieOf(t *testing.T, ns *nettest.NS) (cookie uint64) {
	t.Helper()
	ns.Do(t, func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	return cookie
}

func TestOpenAndRemoveLeaveNothing(t *testing.T) {
	dir := pinDir(t)
	c := open(t, dir)
	pods(t, c, 2)
	o := objectsOf(t, c)
	if len(o.programs) != len(hooks)+2 || len(o.maps) != len(c.shared) {
		t.Fatalf("%d programs and %d maps are pinned", len(o.programs), len(o.maps))
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	o.checkGone(t)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin directory is there still: %v", err)
	}
	if err := Remove(dir); err != nil {
		t.Errorf("removing twice: %v", err)
	}
}

func TestANewAgentKeepsMapsAndLinksAndReplacesPrograms(t *testing.T) {
	dir := pinDir(t)
	first := open(t, dir)
	slots, specs := pods(t, first, 1)
	if err := slots[0].Enroll(4444, 6666); err != nil {
		t.Fatal(err)
	}
	before := objectsOf(t, first)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if left := before.left(); len(left) != len(before.maps)+len(before.programs)+len(before.links) {
		t.Fatalf("after Close only these are left: %v", left)
	}
	second := open(t, dir)
	s := second.slots[specs[0].Cookie]
	if s == nil || s.value != slots[0].value || !maps.Equal(s.addrs, slots[0].addrs) {
		t.Fatalf("took over slot %+v, want %+v", s, slots[0])
	}
	if _, err := second.Reserve(specs[0]); err != nil {
		t.Fatal(err)
	}
	after := objectsOf(t, second)
	if !maps.Equal(after.maps, before.maps) || !maps.Equal(after.links, before.links) {
		t.Errorf("maps and links changed from %v to %v", before, after)
	}
	for name, id := range after.programs {
		if id == before.programs[name] {
			t.Errorf("program %s was not replaced", name)
		}
	}
	objects{programs: before.programs}.checkGone(t)
}

func TestASecondAgentIsToldThatThePinsAreInUse(t *testing.T) {
	dir := pinDir(t)
	c := open(t, dir)
	before := objectsOf(t, c)
	if _, err := Open(config(t, dir)); !errors.Is(err, ErrInUse) {
		t.Errorf("Open answered %v", err)
	}
	if err := Remove(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("Remove answered %v", err)
	}
	if now := objectsOf(t, c); !maps.Equal(now.programs, before.programs) {
		t.Errorf("programs changed from %v to %v", before.programs, now.programs)
	}
}

// held are the BPF objects that this process holds open. What is neither held nor pinned, the kernel frees.
func held(t *testing.T) (objects []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(target, "anon_inode:bpf") {
			objects = append(objects, target)
		}
	}
	slices.Sort(objects)
	return objects
}

func TestOpenThatFailsLeavesTheNodeAsItWas(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"no such cgroup":      func(c *Config) { c.CgroupRoot = "/sys/fs/cgroup/no-such-group" },
		"not a cgroup":        func(c *Config) { c.CgroupRoot = t.TempDir() },
		"pins not on a bpffs": func(c *Config) { c.PinDir = filepath.Join(t.TempDir(), "pins") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := pinDir(t)
			cfg := config(t, dir)
			spoil(&cfg)
			before := held(t)
			_, err := Open(cfg)
			if err == nil {
				t.Fatal("opened")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), cfg.CgroupRoot) && !strings.Contains(err.Error(), cfg.PinDir) {
				t.Errorf("error does not say which path is wrong: %v", err)
			}
			entries, _ := os.ReadDir(dir)
			if len(entries) != 0 {
				t.Errorf("pins are left: %v", entries)
			}
			if now := held(t); !slices.Equal(now, before) {
				t.Errorf("objects are held: %v, before %v", now, before)
			}
		})
	}
}

func TestPinsOfAnotherLayoutAreRefusedAndStay(t *testing.T) {
	dir := pinDir(t)
	c := open(t, dir)
	slots, _ := pods(t, c, 1)
	if err := slots[0].Enroll(1, 2); err != nil {
		t.Fatal(err)
	}
	before := objectsOf(t, c)
	c.Close()
	path := filepath.Join(dir, abiVersion, "maps", "origins")
	other, err := ebpf.NewMap(&ebpf.MapSpec{Name: "origins", Type: ebpf.LRUHash, KeySize: 8, ValueSize: 8, MaxEntries: 16})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := errors.Join(os.Rename(path, filepath.Join(dir, abiVersion, "kept")), other.Pin(path)); err != nil {
		t.Fatal(err)
	}
	_, err = Open(config(t, dir))
	if !errors.Is(err, ebpf.ErrMapIncompatible) || !strings.Contains(fmt.Sprint(err), "origins") || !strings.Contains(fmt.Sprint(err), dir) {
		t.Errorf("Open answered %v, want one that names the map, the pins and why", err)
	}
	if left := before.left(); len(left) != len(before.maps)+len(before.programs)+len(before.links) {
		t.Errorf("only these are left: %v", left)
	}
	// Put right, the next agent goes on.
	if err := errors.Join(os.Remove(path), os.Rename(filepath.Join(dir, abiVersion, "kept"), path)); err != nil {
		t.Fatal(err)
	}
	next := open(t, dir)
	if now := objectsOf(t, next); !maps.Equal(now.links, before.links) || !maps.Equal(now.maps, before.maps) {
		t.Errorf("maps and links changed from %v to %v", before, now)
	}
}

func TestTakeOverThatFailsPutsTheOldProgramsBack(t *testing.T) {
	dir := pinDir(t)
	c := open(t, dir)
	before := objectsOf(t, c)
	c.Close()
	// The one hook that is not there cannot be attached; the others could be replaced.
	if err := os.Remove(filepath.Join(dir, abiVersion, "links", "sendmsg6")); err != nil {
		t.Fatal(err)
	}
	delete(before.programs, "links/sendmsg6")
	cfg := config(t, dir)
	cfg.CgroupRoot = "/sys/fs/cgroup/no-such-group"
	for range 5 { // in whatever order they are tried
		if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "sendmsg6") {
			t.Fatalf("Open answered %v", err)
		}
		c := &Capture{dir: filepath.Join(dir, abiVersion)}
		if now := objectsOf(t, c); !maps.Equal(now.programs, before.programs) {
			t.Fatalf("programs changed from %v to %v", before.programs, now.programs)
		}
	}
	healed := objectsOf(t, open(t, dir))
	if healed.links["links/sendmsg6"] == 0 {
		t.Error("the next agent did not attach the hook again")
	}
}

func TestMapsThatTheEarlierAgentHadNotAreMade(t *testing.T) {
	dir := pinDir(t)
	c := open(t, dir)
	before := objectsOf(t, c)
	c.Close()
	added := []string{captureMapLanes, captureMapFast}
	for _, name := range added {
		if err := os.Remove(mapPin(c.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	broken := config(t, dir)
	broken.CgroupRoot = "/sys/fs/cgroup/no-such-group"
	link := filepath.Join(c.dir, "links", "sendmsg6")
	if err := os.Rename(link, link+"-kept"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(broken); err == nil {
		t.Error("Open succeeds without a cgroup")
	}
	for _, name := range added {
		if _, err := os.Stat(mapPin(c.dir, name)); err == nil {
			t.Errorf("%s is left by an Open that failed", name)
		}
	}
	if err := os.Rename(link+"-kept", link); err != nil {
		t.Fatal(err)
	}
	after := objectsOf(t, open(t, dir))
	for name, id := range after.maps {
		if was, known := before.maps[name]; !known || (was == id) == slices.Contains(added, filepath.Base(name)) {
			t.Errorf("map %s was %d and is %d", name, was, id)
		}
	}
	if len(after.maps) != len(before.maps) {
		t.Errorf("maps are %v, were %v", after.maps, before.maps)
	}
}
