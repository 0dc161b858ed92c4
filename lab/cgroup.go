package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// errNoCgroup2 says that no process of a lab could be told apart.
var errNoCgroup2 = errors.New("no cgroup v2 hierarchy is mounted")

// cgroup2Root finds where the root of cgroup v2 is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified on a machine
// that still uses v1 controllers.
func cgroup2Root() (string, error) {
	return mountOf("cgroup2", errNoCgroup2)
}

// mountOf returns the first mount point that shows the root of a file system of the given type, proc_pid_mountinfo(5).
func mountOf(fstype string, missing error) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && strings.HasPrefix(after, fstype+" ") && fields[3] == "/" {
			return fields[4], nil
		}
	}
	return "", errors.Join(lines.Err(), missing)
}

// cgroupDir is the lab's own directory of cgroup v2.
func cgroupDir(p paths) (string, error) {
	root, err := cgroup2Root()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "warren-lab", p.name), nil
}

// openCgroup creates one of the lab's cgroups if need be and opens it.
func openCgroup(p paths, name string) (*os.File, error) {
	dir, err := cgroupDir(p)
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, name)
	if err := makeDir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create cgroup: %w", err)
	}
	return os.Open(dir)
}

// killCgroup kills every process in a cgroup and below, waits until they are gone and removes it. Only the lab puts
// processes there, so they and their children are all its own. A cgroup that is not there is fine.
func killCgroup(dir string, patience time.Duration) error {
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	if err := awaitEmpty(dir, patience); err != nil {
		return err
	}
	return removeCgroup(dir)
}

// reap takes leave of those among processes that have ended and were started by this one.
func reap(pids []int) {
	for _, pid := range pids {
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // ECHILD if another process started it
	}
}

// cgroupPIDs lists the processes in a cgroup and below.
func cgroupPIDs(dir string) []int {
	var pids []int
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return nil //nolint:nilerr // a cgroup that goes away meanwhile has no processes
		}
		text, _ := os.ReadFile(path)
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// awaitEmpty waits for cgroup.events to say so. The kernel reports a change of it as an exceptional condition.
func awaitEmpty(dir string, patience time.Duration) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return fmt.Errorf("watch cgroup: %w", err)
	}
	defer func() { _ = f.Close() }()
	deadline := time.Now().Add(patience)
	buf := make([]byte, 256)
	for {
		n, err := f.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return fmt.Errorf("watch cgroup: %w", err)
		}
		if strings.Contains(string(buf[:n]), "populated 0") {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("cgroup %s still has processes after %s", dir, patience)
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch cgroup: %w", err)
		}
	}
}

// removeCgroup removes a directory of empty cgroups, deepest first.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}
