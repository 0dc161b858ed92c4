package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// startPatience bounds how long a process may take to become its command.
	startPatience = 15 * time.Second
	// stopPatience is between asking a process to end and killing it.
	stopPatience = 3 * time.Second
	// logTail is how much of a log an error quotes, bytes.
	logTail = 2048
)

// Process is one process that a lab started. A pid alone may come to mean another process; with the start time (clock
// ticks after boot, proc_pid_stat(5)) it does not.
type Process struct {
	Name  string // of its log
	PID   int
	Start uint64
}

// command is a process to start in one of the lab's namespaces.
type command struct {
	name   string // of its log
	cgroup string
	env    []string
	shim   shimSpec
}

// prepare makes an exec.Cmd that starts inside the command's cgroup. The caller closes the returned file after Start.
func (c command) prepare(ctx context.Context, p paths) (*exec.Cmd, *os.File, error) {
	spec, err := json.Marshal(c.shim)
	if err != nil {
		return nil, nil, err
	}
	cgroup, err := openCgroup(p, c.cgroup)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", shimCommand, string(spec))
	cmd.Env = c.env
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	return cmd, cgroup, nil
}

// start runs a command detached, in a session of its own, with its output in a log file. It returns once the shim
// has become the command.
func (c command) start(ctx context.Context, p paths) (Process, error) {
	c.shim.Report = true
	cmd, cgroup, err := c.prepare(context.WithoutCancel(ctx), p)
	if err != nil {
		return Process{}, fmt.Errorf("start %s: %w", c.name, err)
	}
	defer func() { _ = cgroup.Close() }()
	log, err := os.OpenFile(p.log(c.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return Process{}, fmt.Errorf("start %s: %w", c.name, err)
	}
	defer func() { _ = log.Close() }()
	report, child, err := os.Pipe()
	if err != nil {
		return Process{}, fmt.Errorf("start %s: %w", c.name, err)
	}
	defer func() { _ = report.Close() }()
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{child}
	cmd.SysProcAttr.Setsid = true
	err = cmd.Start()
	_ = child.Close()
	if err != nil {
		return Process{}, fmt.Errorf("start %s: %w", c.name, err)
	}
	proc, err := identify(c.name, cmd.Process.Pid)
	_ = cmd.Process.Release()
	if err = errors.Join(awaitReport(c.name, report), err); err != nil {
		_ = proc.signal(unix.SIGKILL)
		proc.await(stopPatience)
		return Process{}, err
	}
	return proc, nil
}

// awaitReport reads what a shim has to say until it has become its command.
func awaitReport(name string, report *os.File) error {
	if err := report.SetReadDeadline(time.Now().Add(startPatience)); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	text, err := io.ReadAll(io.LimitReader(report, logTail))
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	if len(text) > 0 {
		return fmt.Errorf("start %s: %s", name, bytes.TrimSpace(text))
	}
	return nil
}

func identify(name string, pid int) (Process, error) {
	start, _, err := processStat(pid)
	if err != nil {
		return Process{}, fmt.Errorf("start %s: ended at once: %w", name, err)
	}
	return Process{Name: name, PID: pid, Start: start}, nil
}

// processStat returns start time and state of a process, proc_pid_stat(5) fields 22 and 3.
func processStat(pid int) (start uint64, state byte, err error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, 0, err
	}
	// The name in field 2 may hold anything, so count from its last parenthesis.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("process %d: cannot read %q", pid, text)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0][0], err
}

// Alive says whether the process still runs. A zombie does not.
func (p Process) Alive() bool {
	start, state, err := processStat(p.PID)
	return err == nil && start == p.Start && state != 'Z'
}

// open returns a pidfd, or -1 if the process is gone.
func (p Process) open() int {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return -1
	}
	// With the pidfd open the pid cannot be reused, so what /proc says now is about the process behind it.
	if start, _, err := processStat(p.PID); err != nil || start != p.Start {
		_ = unix.Close(fd)
		return -1
	}
	return fd
}

// signal sends a signal to exactly this process. Returns ErrNotFound if it is gone.
func (p Process) signal(sig syscall.Signal) error {
	fd := p.open()
	if fd < 0 {
		return fmt.Errorf("signal %s (pid %d): %w", p.Name, p.PID, ErrNotFound)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %s (pid %d): %w", p.Name, p.PID, err)
	}
	return nil
}

// await waits until the process has ended, and reaps it if it is a child of this one. False if patience ran out.
func (p Process) await(patience time.Duration) bool {
	fd := p.open()
	if fd < 0 {
		return true
	}
	defer func() { _ = unix.Close(fd) }()
	deadline := time.Now().Add(patience)
	for {
		left := max(time.Until(deadline), 0)
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(left.Milliseconds()))
		if n > 0 {
			_, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil) // ECHILD if another process started it
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) || left == 0 {
			return false
		}
	}
}

// stopAll asks all processes to end, together, and kills those that have not after patience.
func stopAll(procs []Process, patience time.Duration) error {
	for _, p := range procs {
		_ = p.signal(unix.SIGTERM) // gone is fine; anything else shows below
	}
	deadline := time.Now().Add(patience)
	var errs []error
	for _, p := range procs {
		if p.await(time.Until(deadline)) {
			continue
		}
		_ = p.signal(unix.SIGKILL)
		if !p.await(stopPatience) {
			errs = append(errs, fmt.Errorf("stop %s: pid %d does not end", p.Name, p.PID))
		}
	}
	return errors.Join(errs...)
}

// tail is the end of a process's log, for errors.
func tail(p paths, name string) string {
	f, err := os.Open(p.log(name))
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > logTail {
		_, _ = f.Seek(-logTail, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(f, logTail))
	return strings.TrimSpace(string(text))
}
