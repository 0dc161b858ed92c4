package procpods

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/nettest"
	"github.com/warren-mesh/warren/mesh"
)

const uidA, uidB = "01234567-89ab-cdef-0123-456789abcdef", "fedcba98-7654-3210-fedc-ba9876543210"

func TestPodOf(t *testing.T) {
	cases := map[string]struct{ cgroups, want string }{
		"cgroupfs driver":            {"0::/kubepods/burstable/pod" + uidA + "/abc\n", uidA},
		"systemd driver":             {"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod01234567_89ab_cdef_0123_456789abcdef.slice/cri-containerd-x.scope", uidA},
		"guaranteed, systemd":        {"0::/kubepods.slice/kubepods-pod01234567_89ab_cdef_0123_456789abcdef.slice", uidA},
		"from a container":           {"0::/../../pod" + uidA + "/abc", uidA},
		"v1 and v2":                  {"5:memory:/kubepods/pod" + uidA + "/x\n0::/kubepods/pod" + uidA + "/x", uidA},
		"static pod":                 {"0::/kubepods/pod0123456789abcdef0123456789abcdef/x", "0123456789abcdef0123456789abcdef"},
		"made below its own":         {"0::/kubepods/pod" + uidA + "/abc/kubepods/pod" + uidB, uidA},
		"no pod":                     {"0::/system.slice/kubelet.service", ""},
		"a name that only looks so":  {"0::/podman/pod-web\n0::/pods/x", ""},
		"a slice of something else":  {"0::/machine-pod01234567_89ab_cdef_0123_456789abcdef.slice", ""},
		"upper case is no uid":       {"0::/kubepods/pod01234567-89AB-CDEF-0123-456789ABCDEF", ""},
		"nothing":                    {"", ""},
		"a line without colons":      {"rubbish\n0::/kubepods/pod" + uidB, uidB},
		"a name with a colon inside": {"0::/kubepods/pod" + uidB + "/a:b", uidB},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := podOf(c.cgroups); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// FuzzPodOf: what is found is always a UID.
func FuzzPodOf(f *testing.F) {
	f.Add("0::/kubepods/pod" + uidA + "/x")
	f.Fuzz(func(t *testing.T, s string) {
		if uid := podOf(s); uid != "" && checkUID(uid) == "" {
			t.Errorf("%q is no uid", uid)
		}
	})
}

// node is a /proc of a node's, of which the cgroup files are written by the test and everything else is the kernel's.
type node struct {
	dir    string
	finder Finder
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{dir: t.TempDir()}
	n.finder = Finder{Proc: n.dir, NetnsDirs: []string{filepath.Join(n.dir, "netns")}}
	if err := os.Mkdir(filepath.Join(n.dir, "netns"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.link(t, "1", start(t, "sleep", "60"), "0::/init.scope")
	return n
}

// start runs a command until the test ends, and returns its pid.
func start(t *testing.T, argv ...string) int {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// link makes a process visible as one of a cgroup.
func (n *node) link(t *testing.T, name string, pid int, cgroup string) {
	t.Helper()
	dir, real := filepath.Join(n.dir, name), filepath.Join("/proc", strconv.Itoa(pid))
	err := os.MkdirAll(filepath.Join(dir, "ns"), 0o755)
	for from, to := range map[string]string{"ns/net": "ns/net", "stat": "stat"} {
		if err == nil {
			err = os.Symlink(filepath.Join(real, from), filepath.Join(dir, to))
		}
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroup+"\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// process runs in a network namespace until the test ends, and is one of a pod's.
func (n *node) process(t *testing.T, ns *nettest.NS, uid string) {
	t.Helper()
	argv := []string{"sleep", "60"}
	if ns != nil {
		argv = append([]string{"nsenter", "--net=" + ns.Path}, argv...)
	}
	pid := start(t, argv...)
	for deadline := time.Now().Add(5 * time.Second); ns != nil && !inside(pid, ns.Path); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q did not enter its namespace", argv)
		}
	}
	n.link(t, strconv.Itoa(pid), pid, "0::/kubepods/pod"+uid+"/container")
}

func inside(pid int, path string) bool {
	a, err1 := identify(filepath.Join("/proc", strconv.Itoa(pid), "ns", "net"))
	b, err2 := identify(path)
	return err1 == nil && err2 == nil && a == b
}

// same tells whether a path is the namespace's.
func same(t *testing.T, path string, ns *nettest.NS) bool {
	t.Helper()
	a, err := identify(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := identify(ns.Path)
	return err == nil && a == b
}

func TestFindTakesTheSandboxesNamespace(t *testing.T) {
	n := newNode(t)
	own, foreign := nettest.New(t), nettest.New(t)
	n.process(t, own, uidA)
	time.Sleep(20 * time.Millisecond) // a clock tick: the next one started later
	n.process(t, foreign, uidA)       // a privileged container that entered another namespace
	found, err := n.finder.Find([]mesh.UID{uidA, uidB})
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v", found, err)
	}
	if !same(t, found[uidA], own) {
		t.Errorf("%s is not the namespace of the pod's first process", found[uidA])
	}
}

func TestFindLeavesOutWhatIsNobodysAlone(t *testing.T) {
	n := newNode(t)
	shared := nettest.New(t)
	n.process(t, shared, uidA)
	n.process(t, shared, uidB)
	if found, err := n.finder.Find([]mesh.UID{uidA, uidB}); err != nil || len(found) != 0 {
		t.Errorf("two pods in one namespace: found %v, %v", found, err)
	}
	n = newNode(t)
	n.process(t, nil, uidA)
	if found, err := n.finder.Find([]mesh.UID{uidA}); err != nil || len(found) != 0 {
		t.Errorf("a pod in the node's own namespace: found %v, %v", found, err)
	}
}

func TestFindPrefersANameThatOutlivesTheProcess(t *testing.T) {
	n := newNode(t)
	ns := nettest.New(t)
	n.process(t, ns, uidA)
	n.finder.NetnsDirs = append(n.finder.NetnsDirs, filepath.Dir(ns.Path))
	found, err := n.finder.Find([]mesh.UID{uidA})
	if err != nil || found[uidA] != ns.Path {
		t.Errorf("found %v, %v; want %s", found, err, ns.Path)
	}
}
