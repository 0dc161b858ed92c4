package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupRoot   = "/sys/fs/cgroup"
	sweepTimeout = 20 * time.Second
	pollEvery    = 50 * time.Millisecond
)

// hierarchy is one mounted tree of cgroups.
type hierarchy struct {
	dir string // where it is mounted
	v1  string // what to mount it again with, "cpu,cpuacct" or "none,name=systemd"; empty for v2
}

// cgroups are the cluster's own cgroups: one of the same name in every hierarchy. All processes of a cluster are in the
// one of v2, which is how they are found and killed; the other hierarchies are there for the kubelets.
type cgroups struct {
	name string
	all  []hierarchy
	v2   hierarchy
}

func findCgroups(name string) (cgroups, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return cgroups{}, err
	}
	defer f.Close()
	g := cgroups{name: name}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		h, ok := parseCgroupMount(lines.Text())
		if !ok {
			continue
		}
		g.all = append(g.all, h)
		if h.v1 == "" {
			g.v2 = h
		}
	}
	if g.v2.dir == "" {
		return g, fmt.Errorf("no cgroup v2 is mounted in %s", cgroupRoot)
	}
	return g, nil
}

// parseCgroupMount reads a line of mountinfo(5): "… root mountpoint options … - type source superoptions".
func parseCgroupMount(line string) (h hierarchy, ok bool) {
	before, after, found := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !found || len(left) < 5 || len(right) < 3 || !strings.HasPrefix(left[4], cgroupRoot) {
		return h, false
	}
	h.dir = left[4]
	switch right[0] {
	case "cgroup2":
		return h, true
	case "cgroup":
		var options []string
		for o := range strings.SplitSeq(right[2], ",") {
			switch {
			case strings.HasPrefix(o, "name="):
				options = append(options, "none", o)
			case o != "rw" && o != "xattr" && o != "clone_children" && !strings.HasPrefix(o, "release_agent="):
				options = append(options, o)
			}
		}
		h.v1 = strings.Join(options, ",")
		return h, true
	}
	return h, false
}

// unified tells whether v2 is all there is, so that controllers are to be had only from it.
func (g cgroups) unified() bool { return g.v2.dir == cgroupRoot }

// path is the directory of a cgroup of the cluster in a hierarchy; "." is the cluster's own.
func (g cgroups) path(h hierarchy, group string) string { return filepath.Join(h.dir, g.name, group) }

// makeV2 makes a cgroup of v2 and returns it opened, for a process to be started in.
func (g cgroups) makeV2(group string) (*os.File, error) {
	dir := g.path(g.v2, group)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Open(dir)
}

// makeNode makes a node's cgroup in every hierarchy.
func (g cgroups) makeNode(node string) error {
	for _, h := range g.all {
		if err := os.MkdirAll(g.path(h, node), 0o755); err != nil {
			return err
		}
		if strings.Contains(","+h.v1+",", ",cpuset,") {
			if err := inheritCpuset(g.path(h, "."), g.path(h, node)); err != nil {
				return err
			}
		}
	}
	if g.unified() {
		return g.delegate()
	}
	return nil
}

// delegate gives the nodes' cgroups every controller that the machine has.
func (g cgroups) delegate() error {
	raw, err := os.ReadFile(filepath.Join(g.v2.dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, dir := range []string{g.v2.dir, g.path(g.v2, ".")} {
		for _, controller := range strings.Fields(string(raw)) {
			file := filepath.Join(dir, "cgroup.subtree_control")
			if err := os.WriteFile(file, []byte("+"+controller), 0); err != nil {
				return fmt.Errorf("give %s to nodes: %w", controller, err)
			}
		}
	}
	return nil
}

// inheritCpuset fills in what a new cpuset of v1 lacks before a process can enter it.
func inheritCpuset(dirs ...string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		for _, dir := range dirs {
			raw, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, file), raw, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// populated tells whether a process lives in a cgroup or below.
func (g cgroups) populated(group string) bool {
	raw, err := os.ReadFile(filepath.Join(g.path(g.v2, group), "cgroup.events"))
	return err == nil && strings.Contains(string(raw), "populated 1")
}

// kill ends every process in a cgroup and below, and waits until they are gone.
func (g cgroups) kill(ctx context.Context, group string) error {
	for g.populated(group) {
		err := os.WriteFile(filepath.Join(g.path(g.v2, group), "cgroup.kill"), []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("kill what runs in cgroup %s: %w", g.path(g.v2, group), err)
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("processes in cgroup %s do not end: %w", g.path(g.v2, group), err)
		}
	}
	return nil
}

// remove removes a cgroup in every hierarchy, with those below. What has just ended may hold one for a moment.
func (g cgroups) remove(ctx context.Context, group string) error {
	for _, h := range g.all {
		for {
			err := removeTree(g.path(h, group))
			if err == nil {
				break
			}
			if pause(ctx) != nil {
				return err
			}
		}
	}
	return nil
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	if rm := unix.Rmdir(dir); rm != nil && !errors.Is(rm, unix.ENOENT) {
		err = errors.Join(err, fmt.Errorf("remove cgroup %s: %w", dir, rm))
	}
	return err
}

// pause is the step of every loop that waits for something to happen.
func pause(ctx context.Context) error {
	timer := time.NewTimer(pollEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
