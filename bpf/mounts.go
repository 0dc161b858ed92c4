package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// CgroupRoot returns where the cgroup v2 hierarchy is mounted: /sys/fs/cgroup, or on a hybrid host
// /sys/fs/cgroup/unified.
func CgroupRoot() (string, error) {
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
