package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxRounds      = 1000
	maxConnections = 1000
	maxRate        = 50_000
	maxSeconds     = 600
	// rateConnections is how many connections share the fixed rate.
	rateConnections = 16
)

type options struct {
	rounds      int
	seconds     float64
	connections []int
	rate        float64
	envoy, bin  string
	output      string
}

func (o *options) check() error {
	if o.rounds < 1 || o.rounds > maxRounds {
		return fmt.Errorf("--rounds %d: want 1 to %d", o.rounds, maxRounds)
	}
	if !(o.seconds > 0 && o.seconds <= maxSeconds) {
		return fmt.Errorf("--seconds %g: want more than 0 and at most %d", o.seconds, maxSeconds)
	}
	if !(o.rate >= 0 && o.rate <= maxRate) {
		return fmt.Errorf("--rate %g: want 0 to %d", o.rate, maxRate)
	}
	for _, n := range o.connections {
		if n < 1 || n > maxConnections {
			return fmt.Errorf("--connections %d: want 1 to %d", n, maxConnections)
		}
	}
	if len(o.connections) == 0 && o.rate == 0 {
		return errors.New("--connections and --rate: nothing is left to measure")
	}
	if o.output != "table" && o.output != "json" {
		return fmt.Errorf("--output %q: want table or json", o.output)
	}
	return nil
}

// loads are what every row is put under.
func (o *options) loads() []load {
	var out []load
	for _, n := range o.connections {
		out = append(out, load{Connections: n})
	}
	if o.rate > 0 {
		out = append(out, load{Connections: rateConnections, Rate: o.rate})
	}
	return out
}

// run makes the lab, measures and removes the lab. Rows that cannot be measured are in the report with the reason.
func run(ctx context.Context, o options, progress io.Writer) (rep *report, err error) {
	dir, err := os.MkdirTemp("", "warren-bench")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if o.bin == "" {
		_, _ = fmt.Fprintln(progress, "building agent, controller, sample and waypoint")
		if o.bin, err = build(ctx, dir); err != nil {
			return nil, err
		}
	}
	s, err := newScene(ctx, dir, o.bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	rows := s.warrenRows()
	_, _ = fmt.Fprintln(progress, "looking for Envoy")
	more, version := s.envoyRows(ctx, o.envoy)
	rows = append(rows, more...)
	for _, r := range rows {
		if r.absent == nil {
			r.absent = s.verify(ctx, r)
		}
		if r.absent != nil {
			_, _ = fmt.Fprintf(progress, "%s cannot be measured: %v\n", r.name, r.absent)
		}
	}
	rep = &report{Machine: machine(), Envoy: version, Began: time.Now().UTC(), Rounds: o.rounds, Seconds: o.seconds}
	return rep, measureAll(ctx, s, rows, o, rep, progress)
}

// measureAll runs all rounds. Each begins with another row, and with each load all rows follow upon one another.
func measureAll(ctx context.Context, s *scene, rows []*row, o options, rep *report, progress io.Writer) error {
	for round := range o.rounds {
		for _, l := range o.loads() {
			for i := range rows {
				r := rows[(i+round)%len(rows)]
				if r.absent != nil {
					continue
				}
				m, err := s.measure(ctx, r, l, time.Duration(o.seconds*float64(time.Second)))
				if ctx.Err() != nil {
					return ctx.Err()
				}
				m.Round, m.Load, m.Row = round+1, l.String(), r.name
				if err != nil {
					m.Problem = err.Error()
				}
				rep.Measurements = append(rep.Measurements, m)
			}
		}
		_, _ = fmt.Fprintf(progress, "round %d of %d done\n", round+1, o.rounds)
	}
	rep.summarize(rows, o.loads())
	return nil
}

// build makes this tree's binaries.
func build(ctx context.Context, dir string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module, of which this must be run: %w", err)
	}
	bin := filepath.Join(dir, "bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin+"/", "./cmd/agent", "./cmd/controller", "./cmd/sample", "./cmd/waypoint")
	cmd.Dir, cmd.Env = strings.TrimSpace(string(root)), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	return bin, nil
}

// machine describes where a figure comes from.
func machine() string {
	var u unix.Utsname
	kernel := "unknown"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	model := "unknown CPU"
	text, err := os.ReadFile("/proc/cpuinfo")
	lines := strings.Split(string(text), "\n")
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "model name") }); err == nil && i >= 0 {
		_, model, _ = strings.Cut(lines[i], ": ")
	}
	return fmt.Sprintf("%d × %s, Linux %s, %s", runtime.NumCPU(), model, kernel, runtime.Version())
}
