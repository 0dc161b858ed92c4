// Package proc tells what the processes on a connection's path use: CPU by their cgroups, memory by /proc.
//
// CPU is what cpu.stat of cgroup v2 says, user and system, to the microsecond; it is there without any controller. What
// the kernel does for a process in interrupts is in neither. A process's cgroup must hold nothing else that is busy.
package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Process is one proxy: all processes of one cgroup.
type Process struct {
	Name string
	// PassedBy tells that it may have nothing to do with what is measured, and that this is no fault.
	PassedBy bool
	cgroup   string
}

// Usage is what a Process used during a measurement.
type Usage struct {
	UserSeconds   float64 `json:"userSeconds"`
	SystemSeconds float64 `json:"systemSeconds"`
	PeakRSS       int64   `json:"peakRSSBytes"` // of all its processes, each at its own peak
}

// CPU is user and system time together, seconds.
func (u Usage) CPU() float64 { return u.UserSeconds + u.SystemSeconds }

// Of finds the cgroup of a process.
func Of(name string, pid int) (Process, error) {
	root, err := cgroup2()
	if err != nil {
		return Process{}, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return Process{}, fmt.Errorf("%s: %w", name, err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok { // cgroups(7)
			return Process{Name: name, cgroup: filepath.Join(root, path)}, nil
		}
	}
	return Process{}, fmt.Errorf("%s: process %d is in no cgroup of version 2", name, pid)
}

// cgroup2 is where the hierarchy is mounted, proc_pid_mountinfo(5).
func cgroup2() (string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && fields[3] == "/" && strings.HasPrefix(after, "cgroup2 ") {
			return fields[4], nil
		}
	}
	return "", errors.New("no cgroup v2 hierarchy is mounted")
}

// times are user and system time so far.
func (p Process) times() (user, system time.Duration, err error) {
	text, err := os.ReadFile(filepath.Join(p.cgroup, "cpu.stat"))
	if err != nil {
		return 0, 0, err
	}
	found := 0
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key != "user_usec" && key != "system_usec" {
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s/cpu.stat: %w", p.cgroup, err)
		}
		found++
		if key == "user_usec" {
			user = time.Duration(n) * time.Microsecond
		} else {
			system = time.Duration(n) * time.Microsecond
		}
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("%s/cpu.stat does not tell user and system time", p.cgroup)
	}
	return user, system, nil
}

// PIDs are the processes that there are now.
func (p Process) PIDs() (out []int, err error) {
	text, err := os.ReadFile(filepath.Join(p.cgroup, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	for field := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		out = append(out, pid)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no process is left", p.Name)
	}
	return out, nil
}

// forgetPeaks makes the kernel count the peaks of memory from now on.
func (p Process) forgetPeaks() error {
	pids, err := p.PIDs()
	for _, pid := range pids {
		// 5 resets the peak resident set size, proc_pid_clear_refs(5).
		e := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
		if !errors.Is(e, fs.ErrNotExist) { // or it has just ended
			err = errors.Join(err, e)
		}
	}
	return err
}

func (p Process) peak() (sum int64, err error) {
	pids, err := p.PIDs()
	for _, pid := range pids {
		n, e := status(pid, "VmHWM")
		if errors.Is(e, fs.ErrNotExist) {
			continue
		}
		sum, err = sum+n, errors.Join(err, e)
	}
	return sum, err
}

// RSS is what all processes hold in memory now, bytes.
func (p Process) RSS() (sum int64, err error) {
	pids, err := p.PIDs()
	for _, pid := range pids {
		n, e := status(pid, "VmRSS")
		sum, err = sum+n, errors.Join(err, e)
	}
	return sum, err
}

// status is a field of proc_pid_status(5) that is in kB, bytes.
func status(pid int, key string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d: no %s in its status", pid, key)
}
