// Package labtest gives tests a whole mesh: a lab of real nodes and pods with the real agent and controller, built
// from this tree. If the test binary itself has the race detector, so have they.
//
// A test package calls [Main] from its TestMain. Labs need root; without it tests fail.
package labtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/lab"
)

// Main builds the binaries and runs the tests; root is the module's root, relative to the test package. Where there is
// no Go to build with, WARREN_TEST_BIN names the folder of binaries that were built elsewhere.
func Main(m *testing.M, root string) {
	if lab.ShimMain(os.Args[1:]) {
		return
	}
	os.Exit(run(m, root))
}

func run(m *testing.M, root string) int {
	if RaceEnabled { // else every process lingers for a second when it ends
		_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	if binDir = os.Getenv("WARREN_TEST_BIN"); binDir != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "warren-bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := build(root, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binDir = dir
	return m.Run()
}

func build(root, dir string) error {
	args := []string{"build", "-o", dir}
	cgo := "CGO_ENABLED=0"
	if RaceEnabled {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	build := exec.Command("go", append(args, "./cmd/agent", "./cmd/controller", "./cmd/sample", "./cmd/agentctl", "./cmd/waypoint")...)
	build.Dir, build.Env = root, append(os.Environ(), cgo)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	return nil
}

// binDir is set once, before any test runs.
var binDir string

// CarriesSameNode tells whether agents carry what the kernel could connect by itself.
func CarriesSameNode() bool { return os.Getenv("WARREN_CARRY_SAME_NODE") == "1" }

// BinDir returns where the binaries of this tree are.
func BinDir() string { return binDir }

var labs atomic.Int32

// Mesh is a lab under test.
type Mesh struct {
	*lab.Lab
	tb testing.TB
	// Dir is the watched folder of manifests; files changed there take effect.
	Dir string
}

// Up makes a lab from manifests and removes it when the test ends. If the test failed, the logs are printed. With
// WARREN_CARRY_SAME_NODE=1 its agents let the kernel make no connection by itself: all tests pass both ways.
func Up(tb testing.TB, manifests string, edit ...func(*lab.Options)) *Mesh {
	tb.Helper()
	dir := tb.TempDir()
	m := &Mesh{tb: tb, Dir: dir}
	m.Write("mesh.yaml", manifests)
	o := lab.Options{Name: fmt.Sprintf("t%d-%d", os.Getpid(), labs.Add(1)), Manifests: dir, BinDir: binDir}
	if CarriesSameNode() {
		o.AgentArgs = []string{"--carry-same-node"}
	}
	for _, f := range edit {
		f(&o)
	}
	l, err := lab.Up(context.Background(), o)
	if err != nil {
		tb.Fatal(err)
	}
	m.Lab = l
	tb.Cleanup(func() {
		m.scanLogs()
		if tb.Failed() {
			m.printLogs()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Down(ctx); err != nil {
			tb.Error(err)
		}
	})
	return m
}

// With is the same mesh on behalf of a subtest: only what runs a test may end it.
func (m *Mesh) With(tb testing.TB) *Mesh {
	c := *m
	c.tb = tb
	return &c
}

// Write puts a file into the watched folder, in one step.
func (m *Mesh) Write(name, content string) {
	m.tb.Helper()
	aside := filepath.Join(m.Dir, "."+name+".new")
	if err := os.WriteFile(aside, []byte(content), 0o644); err != nil {
		m.tb.Fatal(err)
	}
	if err := os.Rename(aside, filepath.Join(m.Dir, name)); err != nil {
		m.tb.Fatal(err)
	}
}

// Remove takes a file out of the watched folder.
func (m *Mesh) Remove(name string) {
	m.tb.Helper()
	if err := os.Remove(filepath.Join(m.Dir, name)); err != nil {
		m.tb.Fatal(err)
	}
}

// scanLogs fails the test if a binary raced or panicked, whatever the test itself saw.
func (m *Mesh) scanLogs() {
	info, err := m.Info()
	if err != nil {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(info.Dir, "logs", "*.log"))
	for _, f := range logs {
		raw, err := os.ReadFile(f)
		if err != nil {
			m.tb.Error(err)
			continue
		}
		for _, bad := range []string{"DATA RACE", "panicked", "panic:", "goroutine 1 ["} {
			if i := bytes.Index(raw, []byte(bad)); i >= 0 {
				m.tb.Errorf("%s: %.3000s", filepath.Base(f), raw[i:])
			}
		}
	}
}

func (m *Mesh) printLogs() {
	info, err := m.Info()
	if err != nil {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(info.Dir, "logs", "*.log"))
	for _, f := range logs {
		raw, err := os.ReadFile(f)
		if err == nil && len(raw) > 0 {
			end := tail(raw, 8<<10)
			m.tb.Logf("%s:\n%s%s", filepath.Base(f), remarkable(raw[:len(raw)-len(end)]), end)
		}
	}
}

// remarkable are the lines of a log, at most a hundred, that tell of what went wrong.
func remarkable(log []byte) (out string) {
	n := 0
	for line := range bytes.Lines(log) {
		connection := bytes.Contains(line, []byte("msg=connection")) && !bytes.Contains(line, []byte("reason=closed"))
		if n < 100 && (connection || bytes.Contains(line, []byte("level=WARN")) || bytes.Contains(line, []byte("level=ERROR"))) {
			out += string(line)
			n++
		}
	}
	return out
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}

// Result is how a command in a pod ended.
type Result struct {
	Out, Err string
	Code     int
}

// Run runs a command in a pod ("namespace/name"), at most 60 s, and returns how it ended.
func (m *Mesh) Run(pod string, argv ...string) Result { return m.RunWith(nil, pod, argv...) }

// RunWith is Run with something on standard input.
func (m *Mesh) RunWith(in io.Reader, pod string, argv ...string) Result {
	m.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	code, err := m.Exec(ctx, pod, argv, lab.Stdio{In: in, Out: &out, Err: &errOut})
	if err != nil {
		m.tb.Fatalf("%s in %s: %v\n%s", strings.Join(argv, " "), pod, err, errOut.String())
	}
	return Result{Out: out.String(), Err: errOut.String(), Code: code}
}

// MustRun is Run for commands that must succeed; it returns their output.
func (m *Mesh) MustRun(pod string, argv ...string) string {
	m.tb.Helper()
	r := m.Run(pod, argv...)
	if r.Code != 0 {
		m.tb.Fatalf("%s in %s: exit code %d\n%s%s", strings.Join(argv, " "), pod, r.Code, r.Out, r.Err)
	}
	return r.Out
}

// Agentctl runs the real agentctl against this lab.
func (m *Mesh) Agentctl(args ...string) Result {
	m.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "agentctl"), append([]string{"--socket", m.ControllerSocket()}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	_ = cmd.Run() // the exit code says it
	return Result{Out: out.String(), Err: errOut.String(), Code: cmd.ProcessState.ExitCode()}
}

// Admin returns a client of an admin socket: the controller's, or an agent's.
func (m *Mesh) Admin(socket string) adminv1.AdminClient {
	m.tb.Helper()
	c, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.tb.Fatal(err)
	}
	m.tb.Cleanup(func() { c.Close() })
	return adminv1.NewAdminClient(c)
}

// Flows returns what the whole mesh remembers of connections that match q.
func (m *Mesh) Flows(q *adminv1.FlowsRequest) []*adminv1.Flow {
	m.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := m.Admin(m.ControllerSocket()).Flows(ctx, q)
	if err != nil {
		m.tb.Fatal(err)
	}
	var out []*adminv1.Flow
	for {
		f, err := stream.Recv()
		if err == io.EOF {
			return out
		}
		if err != nil {
			m.tb.Fatal(err)
		}
		out = append(out, f)
	}
}

// AwaitFlow waits until a flow is there for which ok holds, at most 10 s.
func (m *Mesh) AwaitFlow(what string, q *adminv1.FlowsRequest, ok func(*adminv1.Flow) bool) *adminv1.Flow {
	m.tb.Helper()
	q.Last = 1000
	var found *adminv1.Flow
	Await(m.tb, what, 10*time.Second, func() bool {
		for _, f := range m.Flows(q) {
			if ok(f) {
				found = f
				return true
			}
		}
		return false
	})
	return found
}

// Await waits until the condition holds, at most d, or WARREN_TEST_PATIENCE times that: a machine may be emulated.
func Await(tb testing.TB, what string, d time.Duration, ok func() bool) {
	tb.Helper()
	if patience, err := strconv.Atoi(os.Getenv("WARREN_TEST_PATIENCE")); err == nil {
		d *= time.Duration(max(patience, 1))
	}
	deadline := time.Now().Add(d)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %s: %s", d, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
