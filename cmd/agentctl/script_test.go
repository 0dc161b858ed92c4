package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// -update rewrites the expected output in the scripts from what agentctl prints.
var update = flag.Bool("update", false, "rewrite expected output in testdata/script")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"agentctl-binary": main})
}

// scriptTime is the clock of every script.
func scriptTime() time.Time { return time.Date(2026, 11, 22, 14, 0, 0, 0, time.UTC) }

// TestScripts runs testdata/script. The commands of a script, beside testscript's own:
//
//	serve FIXTURE [SOCKET]    answer from a fixture at SOCKET, by default /run/warren/controller.sock
//	shutdown                  end all servers
//	agentctl ARGS             run agentctl; it must exit with 0
//	exits CODE ARGS           run agentctl; it must exit with CODE
//	after LINES WHAT ARGS     run agentctl, and once it has printed LINES lines "shutdown" the servers or "interrupt" it
//	asked                     print what the servers were asked, one request a line, and forget it
//
// All run in-process with a fixed clock, in a machine whose root is $WORK/root. $TERMINAL=1 makes stdout a terminal.
// "exec agentctl-binary" is the real thing, a process.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			s := &scriptServers{}
			e.Values["servers"] = s
			e.Defer(s.stop)
			return os.MkdirAll(filepath.Join(e.WorkDir, "root", "run"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":    cmdServe,
			"shutdown": func(ts *testscript.TestScript, _ bool, _ []string) { servers(ts).stop() },
			"agentctl": func(ts *testscript.TestScript, _ bool, args []string) { runScript(ts, exitOK, args, noWatch) },
			"exits":    cmdExits,
			"after":    cmdAfter,
			"asked":    cmdAsked,
		},
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// scriptServers are the servers of one script.
type scriptServers struct{ running []*server }

func (s *scriptServers) stop() {
	for _, one := range s.running {
		one.stop()
	}
	s.running = nil
}

func servers(ts *testscript.TestScript) *scriptServers {
	return ts.Value("servers").(*scriptServers)
}

func cmdServe(ts *testscript.TestScript, _ bool, args []string) {
	socket := controllerSocket
	if len(args) == 2 {
		socket = args[1]
	}
	s, err := serve(ts.MkAbs(args[0]), filepath.Join(ts.Getenv("WORK"), "root", socket))
	ts.Check(err)
	servers(ts).running = append(servers(ts).running, s)
}

func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	runScript(ts, code, args[1:], noWatch)
}

func cmdAfter(ts *testscript.TestScript, _ bool, args []string) {
	lines, err := strconv.Atoi(args[0])
	ts.Check(err)
	switch args[1] {
	case "shutdown":
		runScript(ts, exitError, args[2:], watch{lines, func(context.CancelFunc) { servers(ts).stop() }})
	case "interrupt":
		runScript(ts, exitOK, args[2:], watch{lines, func(cancel context.CancelFunc) { cancel() }})
	default:
		ts.Fatalf("after: unknown event %q", args[1])
	}
}

func cmdAsked(ts *testscript.TestScript, _ bool, _ []string) {
	for _, s := range servers(ts).running {
		s.mu.Lock()
		for _, line := range s.asked {
			fmt.Fprintln(ts.Stdout(), line)
		}
		s.asked = nil
		s.mu.Unlock()
	}
}

// watch does something once a number of lines has been written.
type watch struct {
	lines int
	then  func(context.CancelFunc)
}

var noWatch = watch{lines: -1}

// watched counts the lines that pass through it.
type watched struct {
	io.Writer
	watch
	cancel context.CancelFunc
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	before := w.lines
	w.lines -= bytes.Count(p[:n], []byte("\n"))
	if before > 0 && w.lines <= 0 {
		w.then(w.cancel)
	}
	return n, err
}

// runScript runs agentctl in-process inside the script's machine.
func runScript(ts *testscript.TestScript, want int, args []string, on watch) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	root := filepath.Join(ts.Getenv("WORK"), "root")
	e := systemEnv()
	e.stdin, e.stderr = strings.NewReader(""), ts.Stderr()
	e.stdout = &watched{ts.Stdout(), on, cancel}
	e.getenv, e.now, e.version = ts.Getenv, scriptTime, "v0.1.0"
	e.root = os.DirFS(root)
	e.readFile = func(name string) ([]byte, error) { return os.ReadFile(ts.MkAbs(name)) }
	e.isTerminal = func(io.Writer) bool { return ts.Getenv("TERMINAL") == "1" }
	e.dial = func(ctx context.Context, path string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(root, path))
	}
	if code := run(ctx, e, args); code != want {
		ts.Fatalf("agentctl %s: exit code %d, want %d", strings.Join(args, " "), code, want)
	}
}
