// Package procpods finds the network namespaces of pods that run on this node, from the kernel's own word: the kubelet
// puts every process of a pod into a cgroup that is named after the pod's UID, and a process's network namespace is in
// /proc. No address is asked, and nothing that a pod says about itself.
//
// Formats: cgroups(7), namespaces(7); the names of pods' cgroups are those of the kubelet's two cgroup drivers,
// kubepods/burstable/pod<uid> and kubepods-burstable-pod<uid>.slice with "_" for "-".
package procpods

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/warren-mesh/warren/mesh"
)

// Finder reads one node's processes. Proc is its /proc, in which process 1 has the node's own network; NetnsDirs are where
// container runtimes mount network namespaces by name, which outlive processes.
type Finder struct {
	Proc      string
	NetnsDirs []string
}

// nsID is a namespace's identity: the device and inode of its file.
type nsID struct{ dev, ino uint64 }

// oldest is a pod's first process that runs still: its sandbox's, which the runtime made the namespace for. A later one
// may have entered another namespace, if it was let.
type oldest struct {
	pid   int
	start uint64 // clock ticks since boot
}

// Find returns a path of the network namespace of each pod that runs. A pod in the node's own network namespace is none
// to find, and neither is a namespace that two pods seem to have.
func (f Finder) Find(uids []mesh.UID) (map[mesh.UID]string, error) {
	want := make(map[string]mesh.UID, len(uids))
	for _, uid := range uids {
		want[string(uid)] = uid
	}
	first, err := f.firstProcesses(want)
	if err != nil {
		return nil, err
	}
	host, err := identify(filepath.Join(f.Proc, "1", "ns", "net"))
	if err != nil {
		return nil, fmt.Errorf("find running pods: %w", err)
	}
	named := f.named()
	out := make(map[mesh.UID]string, len(first))
	owner := make(map[nsID]mesh.UID, len(first))
	for uid, p := range first {
		path := filepath.Join(f.Proc, strconv.Itoa(p.pid), "ns", "net")
		id, err := identify(path)
		if err != nil || id == host {
			continue // it ended meanwhile, or has no network of its own
		}
		if other, twice := owner[id]; twice {
			delete(out, other)
			continue
		}
		owner[id] = uid
		if name, ok := named[id]; ok {
			path = name
		}
		out[uid] = path
	}
	return out, nil
}

// firstProcesses returns the oldest process of each wanted pod.
func (f Finder) firstProcesses(want map[string]mesh.UID) (map[mesh.UID]oldest, error) {
	entries, err := os.ReadDir(f.Proc)
	if err != nil {
		return nil, fmt.Errorf("find running pods: %w", err)
	}
	out := make(map[mesh.UID]oldest, len(want))
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(f.Proc, e.Name(), "cgroup"))
		if err != nil {
			continue // it ended
		}
		uid, ok := want[podOf(string(raw))]
		if !ok {
			continue
		}
		start, ok := startTime(filepath.Join(f.Proc, e.Name(), "stat"))
		if have, seen := out[uid]; ok && (!seen || start < have.start) {
			out[uid] = oldest{pid, start}
		}
	}
	return out, nil
}

// podOf returns the UID of the pod that a process belongs to, from its /proc/<pid>/cgroup, or "". Of a path with several
// pods' names only the first counts: what is below a pod's own cgroup the pod may have made.
func podOf(cgroups string) string {
	for line := range strings.SplitSeq(cgroups, "\n") {
		_, rest, _ := strings.Cut(line, ":") // hierarchy:controllers:path
		_, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		for part := range strings.SplitSeq(path, "/") {
			if uid := podUID(part); uid != "" {
				return uid
			}
		}
	}
	return ""
}

// podUID returns the UID in a cgroup's name, or "".
func podUID(name string) string {
	if slice, ok := strings.CutSuffix(name, ".slice"); ok {
		at := strings.LastIndex(slice, "-pod")
		if !strings.HasPrefix(slice, "kubepods") || at < 0 {
			return ""
		}
		return checkUID(strings.ReplaceAll(slice[at+len("-pod"):], "_", "-"))
	}
	if uid, ok := strings.CutPrefix(name, "pod"); ok {
		return checkUID(uid)
	}
	return ""
}

// checkUID returns s if it can be a UID: 36 characters of a UUID, or 32 of a static pod's hash.
func checkUID(s string) string {
	if len(s) != 36 && len(s) != 32 {
		return ""
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && c != '-' {
			return ""
		}
	}
	return s
}

// startTime reads when a process started, field 22 of its stat (proc_pid_stat(5)). Its second field is a name in
// parentheses that the process chose, which may have any character.
func startTime(path string) (uint64, bool) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	at := bytes.LastIndexByte(raw, ')')
	if at < 0 {
		return 0, false
	}
	fields := strings.Fields(string(raw[at+1:]))
	const starttime = 22 - 3 // the first field after the name is the third
	if len(fields) <= starttime {
		return 0, false
	}
	n, err := strconv.ParseUint(fields[starttime], 10, 64)
	return n, err == nil
}

// named returns the namespaces that a runtime mounted by name.
func (f Finder) named() map[nsID]string {
	out := map[nsID]string{}
	for _, dir := range f.NetnsDirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // a runtime that mounts none
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if id, err := identify(path); err == nil {
				out[id] = path
			}
		}
	}
	return out
}

func identify(path string) (nsID, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nsID{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nsID{}, fmt.Errorf("stat %s: no inode", path)
	}
	return nsID{st.Dev, st.Ino}, nil
}
