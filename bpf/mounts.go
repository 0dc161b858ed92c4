package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CgroupRoot returns the cgroup v2 hierarchy: at `at`, or for a hybrid host in `unified` below it. An empty `at` looks
// among this process's mounts, for /sys/fs/cgroup or /sys/fs/cgroup/unified.
func CgroupRoot(at string) (string, error) {
	if at == "" {
		return mountedCgroup2()
	}
	for _, dir := range []string{at, filepath.Join(at, "unified")} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", fmt.Errorf("find cgroup v2: neither %s nor %s/unified is one: mount it, or boot with systemd.unified_cgroup_hierarchy=1", at, at)
}

func mountedCgroup2() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup v2: %w", err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// proc(5): id parent major:minor root mountpoint options [tags] - type source superoptions
		before, after, ok := strings.Cut(sc.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return fields[4], nil
		}
	}
	return "", errors.New("find cgroup v2: no cgroup2 file system is mounted")
}

const bpffs = "/sys/fs/bpf"

// ensureBPFFS makes dir, mounting the bpffs at its usual place if nobody did.
func ensureBPFFS(dir string) error {
	var st unix.Statfs_t
	if strings.HasPrefix(dir, bpffs+"/") {
		if err := unix.Statfs(bpffs, &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
			if err := unix.Mount("bpf", bpffs, "bpf", 0, "mode=0700"); err != nil {
				return fmt.Errorf("mount bpffs at %s: %w", bpffs, err)
			}
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("pin directory %s is not on a bpffs", dir)
	}
	return nil
}
