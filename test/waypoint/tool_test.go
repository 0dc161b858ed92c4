package waypoint

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/labtest"
	"github.com/warren-mesh/warren/lab"
)

// tool builds a program of another's from the module in a folder, which is not this repository's.
func tool(t *testing.T, module, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(name))
	build := exec.Command("go", "build", "-mod=readonly", "-o", file, name)
	build.Dir = module
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s cannot be built from its module in %s: %v\n%s", name, module, err, out)
	}
	return file
}

// background runs a command in a pod until the test ends, and waits until it listens at a port.
func background(t *testing.T, m *labtest.Mesh, pod string, port int, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var out bytes.Buffer
	var task sync.WaitGroup
	task.Go(func() {
		code, err := m.Exec(ctx, pod, argv, lab.Stdio{Out: &out, Err: &out})
		if ctx.Err() == nil {
			t.Errorf("%v in %s ended by itself: exit code %d, %v\n%s", argv, pod, code, err, out.String())
		}
	})
	t.Cleanup(func() {
		cancel()
		task.Wait()
		if t.Failed() {
			t.Logf("%v in %s:\n%s", argv, pod, out.String())
		}
	})
	loopback := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String()
	labtest.Await(t, argv[0]+" listens", time.Minute, func() bool {
		c, err := m.Dial(t.Context(), pod, loopback)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}
