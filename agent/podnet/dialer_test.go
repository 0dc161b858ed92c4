package podnet

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/internal/nettest"
	"golang.org/x/sys/unix"
)

// dialerEnv makes this test binary a dialer: a process that connects when it is told to.
const dialerEnv = "WARREN_TEST_DIALER"

func TestMain(m *testing.M) {
	if os.Getenv(dialerEnv) != "" {
		d := dialer{fd: -1}
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			fmt.Println(d.do(strings.Fields(lines.Text())))
		}
		return
	}
	os.Exit(m.Run())
}

// dialer is the other process's side: at most one connection, which is reset when it closes.
type dialer struct{ fd int }

// do obeys "dial <index of family> <to> <from or ->", "ask" and "close".
func (d *dialer) do(words []string) string {
	switch words[0] {
	case "dial":
		d.close()
		own, err := d.dial(words[1:])
		if err != nil {
			return err.Error()
		}
		return "from " + own.String()
	case "ask":
		answer, err := (&sock{d.fd}).ask()
		if err != nil {
			return err.Error()
		}
		return answer
	}
	d.close()
	return "closed"
}

func (d *dialer) dial(words []string) (own netip.AddrPort, err error) {
	i, err := strconv.Atoi(words[0])
	if err != nil {
		return own, err
	}
	f := families[i]
	if d.fd, err = unix.Socket(f.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
		return own, err
	}
	limit := unix.Timeval{Sec: 2}
	_ = unix.SetsockoptTimeval(d.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	_ = unix.SetsockoptTimeval(d.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	_ = unix.SetsockoptLinger(d.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if words[2] != "-" {
		if err := unix.Bind(d.fd, f.sockaddr(netip.MustParseAddrPort(words[2]))); err != nil {
			return own, fmt.Errorf("bind: %w", err)
		}
	}
	if err := connected(d.fd, unix.Connect(d.fd, f.sockaddr(netip.MustParseAddrPort(words[1])))); err != nil {
		return own, fmt.Errorf("connect: %w", err)
	}
	return ofSockaddr(unix.Getsockname(d.fd)), nil
}

// connected waits for a connect that a signal of Go's runtime interrupted: it goes on by itself (connect(2), EINTR).
func connected(fd int, err error) error {
	if !errors.Is(err, unix.EINTR) {
		return err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 2000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return errors.Join(err, unix.ETIMEDOUT)
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || code == 0 {
			return err
		}
		return unix.Errno(code)
	}
}

func (d *dialer) close() {
	if d.fd >= 0 {
		unix.Close(d.fd)
		d.fd = -1
	}
}

// program is the test's side of a dialer.
type program struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// start runs a dialer in the namespace. In a pid namespace of its own if nested.
func start(t *testing.T, ns *nettest.NS, nested bool) *program {
	t.Helper()
	p := &program{cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), dialerEnv+"=1")
	p.cmd.Stderr = os.Stderr
	if nested {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewScanner(out)
	ns.Do(t, p.cmd.Start)
	t.Cleanup(func() { in.Close(); _ = p.cmd.Wait() })
	if got := p.tell("close"); got != "closed" { // it runs
		t.Fatalf("the dialer answered %q", got)
	}
	return p
}

func (p *program) tell(format string, args ...any) string {
	fmt.Fprintf(p.in, format+"\n", args...)
	p.out.Scan()
	return p.out.Text()
}

// kill ends it as a crash does.
func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// id is what the kernel knows the process by.
func (p *program) id(t *testing.T, netns uint64) bpf.Kubelet {
	t.Helper()
	k := bpf.Kubelet{Netns: netns}
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
	if k.Start, err = strconv.ParseUint(fields[22-3], 10, 64); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "NSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	pids := strings.Fields(line)
	pid, err := strconv.ParseUint(pids[len(pids)-1], 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir+"ns/pid", &st); err != nil {
		t.Fatal(err)
	}
	k.Pid, k.PidNS = uint32(pid), uint32(st.Ino)
	return k
}
