package lab

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
)

func TestMain(m *testing.M) {
	if ShimMain(os.Args[1:]) {
		return
	}
	if standIn(filepath.Base(os.Args[0]), os.Args[1:]) {
		return
	}
	os.Exit(runTests(m))
}

// runTests builds the sample app, which pods without a command run.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "warren-lab-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	build := exec.Command("go", "build", "-o", dir, "../cmd/sample")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the sample app: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv("WARREN_TEST_BIN", dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// world is a lab under test.
type world struct {
	*Lab
	t *testing.T
}

// up makes a lab without a mesh from manifests and takes it down when the test ends.
func up(t *testing.T, name, manifests string) world {
	t.Helper()
	return upWith(t, Options{Name: name, Manifests: writeManifest(t, manifests), WithoutMesh: true})
}

func upWith(t *testing.T, o Options) world {
	t.Helper()
	if o.BinDir == "" {
		o.BinDir = os.Getenv("WARREN_TEST_BIN")
	}
	l, err := Up(t.Context(), o)
	if err != nil {
		t.Fatalf("Up: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Errorf("Down: %v", err)
		}
	})
	return world{l, t}
}

func writeManifest(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "lab.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// exec runs a command and returns its output and exit code.
func (w world) exec(target string, argv ...string) (string, int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	code, err := w.Exec(ctx, target, argv, Stdio{Out: &out, Err: &out})
	if err != nil {
		w.t.Fatalf("exec %v in %s: %v", argv, target, err)
	}
	return strings.TrimSpace(out.String()), code
}

// ask connects from a pod to an address by TCP and returns what came back. The servers were started a moment ago, so
// it waits until one listens.
func (w world) ask(from, target string) string {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		out, code := w.exec(from, os.Getenv("WARREN_TEST_BIN")+"/sample", "client", target)
		if code == 0 {
			return out
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s asks %s: exit %d: %s", from, target, code, out)
		}
	}
}

func (w world) addr(pod string, i int) string {
	w.t.Helper()
	addrs, err := w.PodAddrs(pod)
	if err != nil {
		w.t.Fatal(err)
	}
	return addrs[i].String()
}
