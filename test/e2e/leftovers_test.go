package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/test/e2e/cluster"
)

// traces returns what is on this machine of a cluster.
func traces(tb testing.TB, name string) (found []string) {
	tb.Helper()
	mark := "we2e-" + name
	for _, pattern := range []string{"/tmp/" + mark + "*", "/sys/fs/cgroup/" + mark, "/sys/fs/cgroup/*/" + mark} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			tb.Fatal(err)
		}
		found = append(found, files...)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		tb.Fatal(err)
	}
	for _, p := range processes {
		if isOrphanedZombie(p) {
			continue
		}
		for _, file := range []string{"cmdline", "mountinfo", "cgroup"} {
			raw, err := os.ReadFile(filepath.Join(p, file))
			if err == nil && bytes.Contains(raw, []byte("/"+mark)) {
				found = append(found, fmt.Sprintf("%s: %s", filepath.Join(p, file), firstLineWith(raw, mark)))
			}
		}
	}
	return found
}

// isOrphanedZombie tells whether a process has ended and only waits for the machine's first process to collect it: a
// node that is killed while its scripts start programs leaves such, for a moment.
func isOrphanedZombie(proc string) bool {
	raw, err := os.ReadFile(filepath.Join(proc, "status"))
	return err == nil && bytes.Contains(raw, []byte("\nState:\tZ")) && bytes.Contains(raw, []byte("\nPPid:\t1\n"))
}

func firstLineWith(raw []byte, mark string) string {
	for line := range strings.Lines(string(raw)) {
		if strings.Contains(line, mark) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// openNamespaces counts this process's descriptors of network namespaces: each would keep one alive.
func openNamespaces(tb testing.TB) (n int) {
	tb.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(target, "net:") {
			n++
		}
	}
	return n
}

// ownerVar names the cluster that this binary shall make and hold, instead of running tests.
const ownerVar = "WARREN_E2E_OWNER"

// own makes a cluster and holds it until the process is killed.
func own(name string) int {
	cfg := config(name)
	cfg.Nodes = 1
	cfg.BinDir = os.Getenv("WARREN_E2E_BIN")
	cfg.Images = strings.Split(os.Getenv("WARREN_E2E_IMAGES"), ":")
	if _, err := cluster.Up(context.Background(), cfg); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("up")
	time.Sleep(5 * time.Minute)
	return 1
}

// TestDeadOwner: a cluster whose owner lives is nobody else's; one whose owner died is swept away by the next of that
// name, which in the end leaves nothing.
func TestDeadOwner(t *testing.T) {
	const name = "orphan"
	before := openNamespaces(t)
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), ownerVar+"="+name,
		"WARREN_E2E_BIN="+artifacts.binDir, "WARREN_E2E_IMAGES="+strings.Join(artifacts.images, ":"))
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	defer owner.Process.Kill()
	said := make([]byte, 2000)
	if n, err := out.Read(said); err != nil || !strings.HasPrefix(string(said), "up") {
		t.Fatalf("the owner says %s: %v", said[:n], err)
	}
	if _, err := cluster.Up(t.Context(), config(name)); err == nil || !strings.Contains(err.Error(), "another process has it") {
		t.Errorf("a second owner: %v", err)
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait()
	if left := traces(t, name); len(left) < 10 {
		t.Fatalf("the dead owner left only %v: this test sees too little", left)
	}

	c, err := cluster.Up(t.Context(), config(name))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Down(t.Context()); err != nil {
		t.Error(err)
	}
	for _, left := range traces(t, name) {
		t.Errorf("left: %s", left)
	}
	if after := openNamespaces(t); after > before {
		t.Errorf("%d descriptors of network namespaces, %d before", after, before)
	}
}

// TestFailedUp: what cannot come up says why, in the words of the log of what failed, and leaves only files.
func TestFailedUp(t *testing.T) {
	const name = "fails"
	cfg := config(name)
	cfg.BinDir = t.TempDir()
	for _, binary := range []string{"kube", "etcd"} {
		if err := os.Symlink(filepath.Join(artifacts.binDir, binary), filepath.Join(cfg.BinDir, binary)); err != nil {
			t.Fatal(err)
		}
	}
	broken := "#!/bin/sh\necho out of luck; exit 1\n"
	if err := os.WriteFile(filepath.Join(cfg.BinDir, "kube-apiserver"), []byte(broken), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := cluster.Up(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "the API server died") || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("got %v", err)
	}
	for _, left := range traces(t, name) {
		if left != "/tmp/we2e-"+name && left != "/tmp/we2e-"+name+".lock" {
			t.Errorf("left: %s", left)
		}
	}
	c, err := cluster.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Down(t.Context()); err != nil {
		t.Error(err)
	}
	if left := traces(t, name); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
