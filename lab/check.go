package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Finding is one line of Check.
type Finding struct {
	Name string
	OK   bool
	// Optional is true if a lab works without it, with less.
	Optional bool
	Detail   string
	// Hint says what to do if it is not OK.
	Hint string
}

// Check says whether this machine can run labs. binDir is where agent, controller and sample are looked for; empty
// means the folder of the running binary. It changes nothing.
func Check(binDir string) []Finding {
	checks := []func() Finding{
		checkRoot, checkKernel, checkCgroup, checkBTF, checkBPFFS, checkForwarding, checkResolver, checkNFT,
		func() Finding { return checkOwnBinaries(binDir) },
	}
	findings := make([]Finding, len(checks))
	for i, check := range checks {
		findings[i] = check()
	}
	return findings
}

func checkRoot() Finding {
	uid := os.Geteuid()
	return Finding{Name: "root", OK: uid == 0, Detail: fmt.Sprintf("user id %d", uid), Hint: "run with sudo"}
}

// checkKernel wants 5.15, the oldest kernel that has everything capture uses.
func checkKernel() Finding {
	f := Finding{Name: "kernel", Hint: "use Linux 5.15 or newer"}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		f.Detail = err.Error()
		return f
	}
	f.Detail = unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(f.Detail, "%d.%d", &major, &minor); err == nil {
		f.OK = major > 5 || major == 5 && minor >= 15
	}
	return f
}

func checkCgroup() Finding {
	root, err := cgroup2Root()
	f := Finding{Name: "cgroup v2", OK: err == nil, Detail: root, Hint: "mount -t cgroup2 none /sys/fs/cgroup/unified"}
	if err != nil {
		f.Detail = err.Error()
	} else if unix.Access(root, unix.W_OK) != nil {
		f.OK, f.Detail, f.Hint = false, root+" is read-only", "in a container, run it privileged"
	}
	return f
}

func checkBTF() Finding {
	const path = "/sys/kernel/btf/vmlinux"
	_, err := os.Stat(path)
	return Finding{Name: "BTF", OK: err == nil, Detail: path, Hint: "use a kernel built with CONFIG_DEBUG_INFO_BTF=y"}
}

// checkBPFFS accepts a directory to mount on: the lab mounts bpffs itself.
func checkBPFFS() Finding {
	f := Finding{Name: "bpffs", Hint: "mount -t bpf bpf " + bpfRoot}
	var st unix.Statfs_t
	switch err := unix.Statfs(bpfRoot, &st); {
	case err != nil:
		f.Detail = err.Error()
	case st.Type == unix.BPF_FS_MAGIC:
		f.OK, f.Detail = true, bpfRoot
	default:
		registered, err := hasFilesystem("bpf")
		f.OK, f.Detail = registered, "not mounted; `lab up` mounts it at "+bpfRoot
		if err != nil {
			f.Detail = err.Error()
		} else if !registered {
			f.Detail, f.Hint = "the kernel does not have it", "use a kernel built with CONFIG_BPF_SYSCALL=y"
		}
	}
	return f
}

// hasFilesystem reads proc_filesystems(5).
func hasFilesystem(name string) (bool, error) {
	file, err := os.Open("/proc/filesystems")
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 0 && fields[len(fields)-1] == name {
			return true, nil
		}
	}
	return false, lines.Err()
}

// checkForwarding makes a network namespace that forwards, on a thread that then ends, and so is gone at once.
func checkForwarding() Finding {
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		return setSysctls(routerSysctls())
	})
	f := Finding{Name: "network namespaces, IPv4 and IPv6 forwarding", OK: err == nil, Detail: "a node can be made", Hint: "run as root, with /proc/sys writable"}
	if err != nil {
		f.Detail = err.Error()
	}
	if errors.Is(err, fs.ErrNotExist) {
		f.Hint = "boot without ipv6.disable=1"
	}
	return f
}

// checkResolver looks for the files that pods see their own versions of.
func checkResolver() Finding {
	f := Finding{Name: "/etc/resolv.conf and /etc/hosts", OK: true, Detail: "can be replaced inside pods", Hint: "create it; an empty file will do"}
	for _, path := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		if _, err := filepath.EvalSymlinks(path); err != nil {
			f.OK, f.Detail = false, err.Error()
		}
	}
	return f
}

func checkNFT() Finding {
	path, err := exec.LookPath("nft")
	f := Finding{Name: "nft", OK: err == nil, Optional: true, Detail: path, Hint: "install nftables, or pods outside the mesh cannot use services' addresses"}
	if err != nil {
		f.Detail = "not found"
	}
	return f
}

func checkOwnBinaries(dir string) Finding {
	f := Finding{Name: "Warren's binaries", Hint: "make build, or name their folder with --bin-dir"}
	dir, err := binDir(dir)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	var missing []string
	for _, name := range []string{"agent", "controller", "sample"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			missing = append(missing, name)
		}
	}
	f.OK, f.Detail = len(missing) == 0, dir
	if !f.OK {
		f.Detail = "missing in " + dir + ": " + strings.Join(missing, ", ")
	}
	return f
}
