package proc

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// busy works and holds memory: it says so once it has begun to, and ends when its standard input does.
const busy = `x=$(head -c 20000000 /dev/zero | tr '\0' x); i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; read _`

// startBusy starts it in a cgroup of its own.
func startBusy(t *testing.T) (pid int, done func()) {
	t.Helper()
	root, err := cgroup2()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, fmt.Sprintf("warren-proc-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	cmd := exec.Command("sh", "-c", "read _; "+busy)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid, func() {
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWatchSeesWhatIsUsed: CPU of the process and of those that it started and that are gone, and the peak of its memory.
func TestWatchSeesWhatIsUsed(t *testing.T) {
	pid, work := startBusy(t)
	p, err := Of("busy", pid)
	if err != nil {
		t.Fatal(err)
	}
	w := NewWatch([]Process{p})
	w.Begin()
	work()
	used, err := w.End()
	if err != nil {
		t.Fatal(err)
	}
	if u := used["busy"]; u.CPU() < 0.02 || u.UserSeconds <= 0 || u.SystemSeconds < 0 || u.PeakRSS < 20e6 {
		t.Errorf("%+v after work on 20 MB", u)
	}
	if err := OnPath([]Process{p}, used, 0.01); err != nil {
		t.Error(err)
	}
	if err := OnPath([]Process{p}, used, 1e6); err == nil || !strings.Contains(err.Error(), "busy used") {
		t.Errorf("it did not pass, and that is said as %v", err)
	}
	if rss, err := p.RSS(); err != nil || rss < 20e6 {
		t.Errorf("%d bytes, %v", rss, err)
	}
}

func TestAProcessThatIsNotThere(t *testing.T) {
	if p, err := Of("nobody", 1<<30); err == nil {
		t.Errorf("%+v", p)
	}
	w := NewWatch([]Process{{Name: "gone", cgroup: t.TempDir()}})
	w.Begin()
	if used, err := w.End(); err == nil {
		t.Errorf("%v", used)
	}
}
