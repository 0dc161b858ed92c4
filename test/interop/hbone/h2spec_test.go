package hbone

import (
	"context"
	"encoding/xml"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// deviations are the h2spec cases that Warren's endpoint does not pass, and why. h2spec asks with GET, which an endpoint
// for CONNECT answers with 405 and no content, so that what follows the answer cannot be tried.
var deviations = map[string]string{}

// report is h2spec's JUnit file.
type report struct {
	Suites []struct {
		Package string `xml:"package,attr"`
		ID      string `xml:"id,attr"`
		Cases   []struct {
			Package string   `xml:"package,attr"`
			Class   string   `xml:"classname,attr"`
			Failure *message `xml:"failure"`
			Error   *message `xml:"error"`
			Skipped *message `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

type message struct {
	Text string `xml:",chardata"`
}

// serve answers CONNECT by echoing and returns its port.
func serve(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _ = hbone.ServeConn(ctx, nc, hbone.Config{DrainTimeout: time.Second}, echo) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port
}

func TestH2spec(t *testing.T) {
	tool := filepath.Join(t.TempDir(), "h2spec")
	build := exec.Command("go", "build", "-mod=readonly", "-o", tool, "github.com/summerwind/h2spec/cmd/h2spec")
	build.Dir = "h2spec"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("h2spec cannot be built from its module in %s: %v\n%s", build.Dir, err, out)
	}
	file := filepath.Join(t.TempDir(), "report.xml")
	run := exec.CommandContext(t.Context(), tool, "-S", "-p", strconv.Itoa(serve(t)), "-j", file)
	out, err := run.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("h2spec left no report: %v\n%s", err, out)
	}
	var r report
	if err := xml.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	passed := 0
	var failed []string
	for _, s := range r.Suites {
		for i, c := range s.Cases {
			name := c.Package + "/" + strconv.Itoa(i+1) + " " + c.Class
			if c.Failure == nil && c.Error == nil && c.Skipped == nil {
				passed++
				continue
			}
			failed = append(failed, name)
			if deviations[name] == "" {
				t.Errorf("h2spec %s failed, and no reason is recorded", name)
			}
		}
	}
	for name := range deviations {
		if !slices.Contains(failed, name) {
			t.Errorf("h2spec %s is recorded as a deviation but passes", name)
		}
	}
	t.Logf("h2spec: %d passed, %d deviate", passed, len(failed))
	if passed < 100 {
		t.Errorf("only %d cases ran", passed)
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}
