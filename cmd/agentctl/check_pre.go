package main

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// What an agent needs of a kernel. 5.15 is the oldest that has every BPF helper that capture calls.
const (
	needMajor = 5
	needMinor = 15
)

// Capabilities by number (linux/capability.h).
const (
	capNetAdmin  = 12
	capSysPtrace = 19
	capSysAdmin  = 21
)

// preChecks looks at this machine only, through files of /proc and /sys.
func (a *app) preChecks() []section {
	kernel := section{Name: "machine-kernel"}
	kernel.expect(fmt.Sprintf("the kernel is %d.%d or newer", needMajor, needMinor), checkFail, "upgrade the kernel", a.oldKernel()...)
	kernel.expect("the kernel describes its types (BTF)", checkFail, "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
		a.missing("sys/kernel/btf/vmlinux")...)
	kernel.expect("the BPF JIT is on", checkWarn, "sysctl -w net.core.bpf_jit_enable=1", a.jitOff()...)

	mounts := section{Name: "machine-mounts"}
	mounts.expect("cgroup v2 is mounted", checkFail, "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup/unified",
		a.notMounted("cgroup2", "")...)
	mounts.expect("bpffs is mounted at /sys/fs/bpf", checkWarn, "mount -t bpf bpf /sys/fs/bpf", a.notMounted("bpf", "/sys/fs/bpf")...)

	rights := section{Name: "machine-rights"}
	rights.expect("this process has the capabilities of an agent", checkFail, "run it as root: sudo agentctl check --pre", a.noCapabilities()...)
	if cni, ok := a.cniChecks(); ok {
		return []section{kernel, mounts, cni, rights}
	}
	return []section{kernel, mounts, rights}
}

// cniDir is where the chart puts the node's CNI configuration in an agent's pod.
const cniDir = "host/cni/net.d"

// cniChecks looks at the node from inside a pod like the agent's; ok says if this is one.
func (a *app) cniChecks() (s section, ok bool) {
	if _, err := fs.Stat(a.root, cniDir); err != nil {
		return s, false
	}
	s.Name = "machine-cni"
	lists, _ := fs.Glob(a.root, cniDir+"/*.conflist")
	confs, _ := fs.Glob(a.root, cniDir+"/*.conf")
	var none []string
	if len(lists)+len(confs) == 0 {
		none = []string{"the directory has no *.conflist and no *.conf"}
	}
	s.expect("there is a CNI configuration", checkFail,
		"install a network plug-in first; or say where its configuration is: --set agent.cni.confDir=DIR", none...)
	return s, true
}

func (a *app) read(name string) (string, error) {
	raw, err := fs.ReadFile(a.root, name)
	return strings.TrimSpace(string(raw)), err
}

func (a *app) oldKernel() []string {
	release, err := a.read("proc/sys/kernel/osrelease")
	if err != nil {
		return []string{err.Error()}
	}
	if kernelIsNew(release) {
		return nil
	}
	return []string{"it is " + release}
}

// kernelIsNew tells whether a kernel's release is new enough; one that cannot be read is not.
func kernelIsNew(release string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > needMajor || (major == needMajor && minor >= needMinor)
}

func (a *app) missing(name string) []string {
	if _, err := fs.Stat(a.root, name); err != nil {
		return []string{"no /" + name}
	}
	return nil
}

// jitOff is silent if the kernel has no such switch: then the JIT is always on.
func (a *app) jitOff() []string {
	if v, err := a.read("proc/sys/net/core/bpf_jit_enable"); err == nil && v == "0" {
		return []string{"net.core.bpf_jit_enable is 0: captured connections open slower"}
	}
	return nil
}

// notMounted looks for a file system type in the mount table, anywhere or at one place.
func (a *app) notMounted(fsType, at string) []string {
	table, err := a.read("proc/self/mounts")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) >= 3 && f[2] == fsType && (at == "" || f[1] == at) {
			return nil
		}
	}
	if at != "" {
		return []string{fmt.Sprintf("no %s file system at %s", fsType, at)}
	}
	return []string{fmt.Sprintf("no %s file system", fsType)}
}

func (a *app) noCapabilities() []string {
	text, err := a.read("proc/self/status")
	if err != nil {
		return []string{err.Error()}
	}
	_, rest, _ := strings.Cut(text, "CapEff:")
	field, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	have, err := strconv.ParseUint(strings.TrimSpace(field), 16, 64)
	if err != nil {
		return []string{"cannot read the effective capabilities in /proc/self/status"}
	}
	var lacks []string
	for _, c := range []struct {
		name string
		bit  int
	}{{"CAP_SYS_ADMIN", capSysAdmin}, {"CAP_SYS_PTRACE", capSysPtrace}, {"CAP_NET_ADMIN", capNetAdmin}} {
		if have&(1<<c.bit) == 0 {
			lacks = append(lacks, "it lacks "+c.name)
		}
	}
	return lacks
}
