package kubelet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/internal/nettest"
	"golang.org/x/sys/unix"
)

// listenEnv makes this test binary a process that listens there, until its standard input ends.
const listenEnv = "WARREN_TEST_LISTEN"

func TestMain(m *testing.M) {
	addr := os.Getenv(listenEnv)
	if addr == "" {
		os.Exit(m.Run())
	}
	if _, err := net.Listen("tcp", addr); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listens")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

const port = 10250

// daemon is a process that listens on the kubelet's port, if not said otherwise.
type daemon struct {
	program string // base name of its file; default kubelet
	called  string // its argv[0], default the file's path
	addr    string
	attr    *syscall.SysProcAttr
	files   []*os.File // which it inherits
}

func (d daemon) start(t *testing.T, ns *nettest.NS) *exec.Cmd {
	t.Helper()
	if d.program == "" {
		d.program = "kubelet"
	}
	if d.addr == "" {
		d.addr = fmt.Sprintf(":%d", port)
	}
	cmd := exec.Command(install(t, d.program))
	if d.called != "" {
		cmd.Args[0] = d.called
	}
	cmd.Env = append(os.Environ(), listenEnv+"="+d.addr)
	cmd.SysProcAttr, cmd.ExtraFiles = d.attr, d.files
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(t, cmd.Start)
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	if lines.Scan(); lines.Text() != "listens" {
		t.Fatalf("the daemon said %q", lines.Text())
	}
	return cmd
}

// install copies this program where every user may run it.
func install(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubelet-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, program, 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

// find looks from inside the node's namespace, as an agent does.
func find(t *testing.T, node *nettest.NS, f Finder) (p Process, err error) {
	t.Helper()
	node.Do(t, func() error {
		p, err = f.Find()
		return nil
	})
	return p, err
}

func cookieOf(t *testing.T, ns *nettest.NS) (cookie uint64) {
	t.Helper()
	ns.Do(t, func() error {
		n, err := ownNetns()
		cookie = n.cookie
		return err
	})
	return cookie
}

func TestTheKubeletIsWhoListensOnItsPort(t *testing.T) {
	for name, d := range map[string]daemon{
		"its own program":              {},
		"by IPv4 only":                 {addr: fmt.Sprintf("0.0.0.0:%d", port)},
		"by IPv6 only":                 {addr: fmt.Sprintf("[::]:%d", port)},
		"k3s":                          {program: "k3s"},
		"a multi-call program":         {program: "kube", called: "/usr/bin/kubelet"},
		"a name that proc(5) warns of": {program: "kubelet) Z 1 (x", called: "kubelet"},
	} {
		t.Run(name, func(t *testing.T) {
			node, elsewhere := nettest.New(t), nettest.New(t)
			daemon{}.start(t, elsewhere)
			daemon{addr: fmt.Sprintf(":%d", port+1)}.start(t, node)
			if _, err := find(t, node, Finder{}); !errors.Is(err, ErrNotListening) {
				t.Errorf("while there is none: %v", err)
			}
			cmd := d.start(t, node)
			p, err := find(t, node, Finder{})
			if err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
				t.Fatal(err)
			}
			if int(p.ID.Pid) != cmd.Process.Pid || uint64(p.ID.PidNS) != st.Ino || p.ID.Netns != cookieOf(t, node) || p.Exe != cmd.Path {
				t.Errorf("found %+v, want process %d", p, cmd.Process.Pid)
			}
			if err := os.Remove(cmd.Path); err != nil { // as an upgrade does
				t.Fatal(err)
			}
			if again, err := find(t, node, Finder{}); err != nil || again != p {
				t.Errorf("after its program was replaced: %+v, %v; before: %+v", again, err, p)
			}
			if now, boot := p.ID.Start, ticksSinceBoot(t); now > boot || boot-now > 100*60 {
				t.Errorf("it started at tick %d, now is %d", now, boot)
			}
		})
	}
}

func ticksSinceBoot(t *testing.T) uint64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	return uint64(now.Nano() / int64(10*time.Millisecond))
}

func TestAnotherPortCanBeTheKubelets(t *testing.T) {
	node := nettest.New(t)
	cmd := daemon{addr: ":10333"}.start(t, node)
	p, err := find(t, node, Finder{Port: 10333})
	if err != nil || int(p.ID.Pid) != cmd.Process.Pid {
		t.Errorf("found %+v, %v", p, err)
	}
}

// inPodCgroup moves the process where the kubelet would put a pod's.
func inPodCgroup(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	root, err := bpf.CgroupRoot("")
	if err != nil {
		t.Fatal(err)
	}
	group := filepath.Join(root, fmt.Sprintf("kubepods-test-%d.slice", os.Getpid()))
	pods := func(dir string, pid int) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = pods(root, cmd.Process.Pid)
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	})
	if err := pods(group, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
}

// TestWhoCannotBeTheKubelet though it has the kubelet's port.
func TestWhoCannotBeTheKubelet(t *testing.T) {
	for _, c := range []struct {
		name, why string
		daemon
		then func(*testing.T, *exec.Cmd)
	}{
		{"a container of the host's network", "pid namespace", daemon{attr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}}, nil},
		{"a user", "user 65534", daemon{attr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}}, nil},
		{"a pod", "/kubepods-test-", daemon{}, inPodCgroup},
		{"another program", "/nginx, not one of", daemon{program: "nginx"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			node := nettest.New(t)
			cmd := c.daemon.start(t, node)
			if c.then != nil {
				c.then(t, cmd)
			}
			p, err := find(t, node, Finder{})
			if err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", cmd.Process.Pid)) {
				t.Errorf("found %+v, %v; want an error that says %q", p, err, c.why)
			}
			t.Log(err)
		})
	}
}

// TestTwoWhoShareTheSocket are none: one of them may be what the kubelet started.
func TestTwoWhoShareTheSocket(t *testing.T) {
	node := nettest.New(t)
	var shared *os.File
	node.Do(t, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		defer l.Close()
		shared, err = l.(*net.TCPListener).File()
		return err
	})
	for i := range 2 {
		daemon{addr: fmt.Sprintf(":%d", 10333+i), files: []*os.File{shared}}.start(t, node)
	}
	shared.Close()
	if p, err := find(t, node, Finder{}); err == nil || !strings.Contains(err.Error(), "both have the socket") {
		t.Errorf("found %+v, %v", p, err)
	}
}

// TestAProcDirectoryWithoutTheKubelet is one that the agent was given wrongly.
func TestAProcDirectoryWithoutTheKubelet(t *testing.T) {
	node := nettest.New(t)
	daemon{}.start(t, node)
	empty := t.TempDir()
	if _, err := find(t, node, Finder{Proc: empty}); err == nil || !strings.Contains(err.Error(), empty) {
		t.Errorf("answered %v, want an error that names %s", err, empty)
	}
}

// change is one call of onChange.
type change struct {
	Process
	err error
}

func TestRunFollowsTheKubeletFromProcessToProcess(t *testing.T) {
	node := nettest.New(t)
	ctx, cancel := context.WithCancel(context.Background())
	changes, done := make(chan change, 16), make(chan error, 1)
	go func() {
		done <- node.Run(func() error {
			return Finder{}.Run(ctx, func(p Process, err error) { changes <- change{p, err} })
		})
	}()
	next := func(what string) change {
		t.Helper()
		select {
		case c := <-changes:
			return c
		case <-time.After(5 * time.Second):
			t.Fatalf("not within 5 s: %s", what)
			return change{}
		}
	}
	if c := next("that there is none"); !errors.Is(c.err, ErrNotListening) || c.Process != (Process{}) {
		t.Errorf("at first: %+v", c)
	}
	for range 2 {
		cmd := daemon{}.start(t, node)
		if c := next("a kubelet"); c.err != nil || int(c.ID.Pid) != cmd.Process.Pid {
			t.Errorf("found %+v, want process %d", c, cmd.Process.Pid)
		}
		if err := cmd.Process.Kill(); err != nil { // not waited for: it stays as a zombie
			t.Fatal(err)
		}
		if c := next("that it ended"); !errors.Is(c.err, ErrNotListening) || c.Process != (Process{}) {
			t.Errorf("after its end: %+v", c)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(changes) != 0 {
		t.Errorf("told of %+v though nothing changed", <-changes)
	}
}
