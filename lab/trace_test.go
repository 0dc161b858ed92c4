package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
)

// traces lists everything on this machine that belongs to a lab, and every link of the machine's own network.
func traces(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/warren-lab/"+name+"/") {
			found = append(found, "mount "+line)
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		found = append(found, "link "+l.Attrs().Name)
	}
	cgroups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range cgroups {
		text, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(text), "/warren-lab/"+name) && !awaitsItsParent(filepath.Dir(file)) {
			found = append(found, "process "+file)
		}
	}
	root, err := cgroup2Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Join(root, "warren-lab", name), filepath.Join(runRoot, name), filepath.Join(bpfRoot, "warren-lab", name)} {
		if _, err := os.Lstat(dir); err == nil {
			found = append(found, "folder "+dir)
		}
	}
	slices.Sort(found)
	return found
}

// awaitsItsParent says whether a process is dead and another process than this has to reap it.
func awaitsItsParent(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "status"))
	return err == nil && strings.Contains(string(text), "State:\tZ") && !strings.Contains(string(text), fmt.Sprintf("PPid:\t%d\n", os.Getpid()))
}

func expectNoNewTraces(t *testing.T, name string, before []string) {
	t.Helper()
	if after := traces(t, name); !slices.Equal(before, after) {
		t.Errorf("traces before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

func TestDownLeavesNoTrace(t *testing.T) {
	const name = "trace"
	before := traces(t, name)
	w := up(t, name, twoNodes)
	during := strings.Join(traces(t, name), "\n")
	for _, kind := range []string{"mount", "process", "folder"} {
		if !strings.Contains(during, kind+" ") {
			t.Errorf("while the lab is up, no %s shows: the test looks in the wrong place", kind)
		}
	}
	// A process that a pod's process left behind, in another session, is the lab's too.
	if _, code := w.exec("shop/web", "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 </dev/null &"); code != 0 {
		t.Fatalf("start a process that escapes: exit %d", code)
	}
	if err := w.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectNoNewTraces(t, name, before)
	if err := w.Down(t.Context()); err != nil {
		t.Errorf("Down of a lab that is gone: %v", err)
	}
	if _, err := Open(name); !errors.Is(err, ErrNotFound) {
		t.Errorf("Open of a lab that is gone: %v, want ErrNotFound", err)
	}
}

func TestFailureInTheMiddleLeavesNoTrace(t *testing.T) {
	const name = "broken"
	before := traces(t, name)
	manifests := writeManifest(t, twoNodes+`
---
apiVersion: v1
kind: Pod
metadata: {name: bad, namespace: shop}
spec: {nodeName: n2, containers: [{name: c, image: host, command: [no-such-command]}]}
`)
	_, err := Up(t.Context(), Options{Name: name, Manifests: manifests, WithoutMesh: true, BinDir: os.Getenv("WARREN_TEST_BIN")})
	if err == nil || !strings.Contains(err.Error(), "pod shop/bad: container c") || !strings.Contains(err.Error(), "no-such-command") {
		t.Errorf("Up: %v; want an error that names the pod, the container and the command", err)
	}
	expectNoNewTraces(t, name, before)
}

func TestInterruptedUpLeavesNoTrace(t *testing.T) {
	const name = "interrupt"
	before := traces(t, name)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Up(ctx, Options{
		Name: name, Manifests: writeManifest(t, twoNodes), WithoutMesh: true, BinDir: os.Getenv("WARREN_TEST_BIN"),
		Progress: func(s Step) {
			if s.Text == "DNS" {
				cancel()
			}
		},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Up: %v, want that it was cancelled", err)
	}
	expectNoNewTraces(t, name, before)
}

func TestDownRemovesALabThatLostItsState(t *testing.T) {
	const name = "amnesia"
	before := traces(t, name)
	w := up(t, name, twoNodes)
	if err := os.WriteFile(w.paths.state(), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if labs, err := List(); err != nil || !slices.ContainsFunc(labs, func(s Summary) bool { return s.Name == name && s.Problem != "" }) {
		t.Errorf("List: %v, %v; want %s with a problem", labs, err, name)
	}
	if err := Down(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	expectNoNewTraces(t, name, before)
}

func TestLabsComeAndGoAtTheSameTime(t *testing.T) {
	manifests := writeManifest(t, onePod)
	var all sync.WaitGroup
	for _, name := range []string{"crowd-a", "crowd-b", "crowd-c"} {
		all.Go(func() {
			for range 3 {
				l, err := Up(t.Context(), Options{Name: name, Manifests: manifests, WithoutMesh: true, BinDir: os.Getenv("WARREN_TEST_BIN")})
				if err == nil {
					err = l.Down(t.Context())
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	all.Wait()
}

func TestOnlyTheLabsOwnProcessIsSignalled(t *testing.T) {
	start, _, err := processStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// Our own pid with another start time is a process that is gone, whose pid we got.
	gone := Process{Name: "gone", PID: os.Getpid(), Start: start - 1}
	if gone.Alive() {
		t.Error("a process with another start time counts as alive")
	}
	if err := stopAll([]Process{gone}, stopPatience); err != nil {
		t.Errorf("stop a process that is gone: %v", err)
	}
	if err := gone.signal(9); !errors.Is(err, ErrNotFound) {
		t.Errorf("signal a process that is gone: %v, want ErrNotFound", err)
	}
}
