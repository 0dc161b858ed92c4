package kubelet

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is one directory of /proc.
type process struct {
	pid int
	dir string
}

// netns is the network namespace that the agent is in: by the inode of its file, and by its cookie.
type netns struct{ inode, cookie uint64 }

// ownNetns asks for this thread, as one thread of the agent's wanders from namespace to namespace.
func ownNetns() (netns, error) {
	inode, err := inodeOf("/proc/thread-self/ns/net")
	if err != nil {
		return netns{}, fmt.Errorf("read own network namespace: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netns{}, fmt.Errorf("make socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return netns{}, fmt.Errorf("read network namespace's cookie: %w", err)
	}
	return netns{inode, cookie}, nil
}

func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// listeningOn returns the links, "socket:[inode]", of the sockets of this thread's network namespace that listen on port.
func listeningOn(port uint16) (map[string]bool, error) {
	found := map[string]bool{}
	for _, table := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		if err := addListeners(table, port, found); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read listening sockets: %w", err)
		}
	}
	return found, nil
}

// addListeners reads no further than the listening sockets, which come first.
func addListeners(table string, port uint16, found map[string]bool) error {
	f, err := os.Open(table)
	if err != nil {
		return err
	}
	defer f.Close()
	const listen = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	lines := bufio.NewScanner(f)
	for lines.Scan(); lines.Scan(); { // the first line names the columns
		// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode ...
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != listen {
			break
		}
		if strings.HasSuffix(fields[1], suffix) {
			found["socket:["+fields[9]+"]"] = true
		}
	}
	return lines.Err()
}

// owners returns the processes of the network namespace that have one of the sockets.
func (f Finder) owners(netns uint64, sockets map[string]bool) (owners []process, err error) {
	entries, err := os.ReadDir(f.Proc)
	if err != nil {
		return nil, fmt.Errorf("list the node's processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p := process{pid, filepath.Join(f.Proc, e.Name())}
		if in, err := inodeOf(filepath.Join(p.dir, "ns", "net")); err == nil && in == netns && p.has(sockets) {
			owners = append(owners, p)
		}
	}
	return owners, nil
}

// has tells whether one of its files is one of the sockets. A process that ends meanwhile has none.
func (p process) has(sockets map[string]bool) bool {
	dir := filepath.Join(p.dir, "fd")
	fds, _ := os.ReadDir(dir)
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && sockets[target] {
			return true
		}
	}
	return false
}

// start returns when it started, field 22 of its stat. Returns an error for a process that has ended, waited for or not.
func (p process) start() (uint64, error) {
	raw, err := os.ReadFile(filepath.Join(p.dir, "stat"))
	if err != nil {
		return 0, fmt.Errorf("it ended meanwhile: %w", err)
	}
	// pid (comm) state ...; comm may hold anything, so the fields are counted from its end.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s/stat has %d fields", p.dir, len(fields)+2)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, errors.New("it ended meanwhile")
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// status is what is used of /proc/<pid>/status.
type status struct {
	nsPids []uint32  // its pid in each namespace from the one of this /proc to its own
	uids   [2]string // real, effective
}

func (p process) status() (s status, err error) {
	raw, err := os.ReadFile(filepath.Join(p.dir, "status"))
	if err != nil {
		return s, fmt.Errorf("it ended meanwhile: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 3 && fields[0] == "Uid:":
			s.uids = [2]string{fields[1], fields[2]}
		case len(fields) >= 2 && fields[0] == "NSpid:":
			for _, f := range fields[1:] {
				n, err := strconv.ParseUint(f, 10, 32)
				if err != nil {
					return s, fmt.Errorf("%s/status: NSpid: %w", p.dir, err)
				}
				s.nsPids = append(s.nsPids, uint32(n))
			}
		}
	}
	return s, nil
}

// podCgroup returns its cgroup if that is seen to be a pod's, else "". The kubelet puts pods below kubepods or
// kubepods.slice; of a pod beside the agent's own, an agent in a cgroup namespace may not see so much of the path.
func (p process) podCgroup() string {
	raw, _ := os.ReadFile(filepath.Join(p.dir, "cgroup"))
	for line := range strings.Lines(string(raw)) {
		_, group, _ := strings.Cut(line, ":/") // hierarchy:controllers:path
		if strings.Contains("/"+group, "/kubepods") {
			return "/" + strings.TrimSpace(group)
		}
	}
	return ""
}

// exe is the path of its program, also if that was replaced since it started.
func (p process) exe() (string, error) {
	exe, err := os.Readlink(filepath.Join(p.dir, "exe"))
	if err != nil {
		return "", fmt.Errorf("its program cannot be read: %w", err)
	}
	return strings.TrimSuffix(exe, " (deleted)"), nil
}

// calledAs is the name by which it was started, which tells what a multi-call program is.
func (p process) calledAs() string {
	raw, _ := os.ReadFile(filepath.Join(p.dir, "cmdline"))
	name, _, _ := strings.Cut(string(raw), "\x00")
	return filepath.Base(name)
}

func (p process) pidns() (uint32, error) {
	inode, err := inodeOf(filepath.Join(p.dir, "ns", "pid"))
	if err != nil {
		return 0, fmt.Errorf("its pid namespace cannot be read: %w", err)
	}
	return uint32(inode), nil
}
