package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/warren-mesh/warren/bench/measure"
	"github.com/warren-mesh/warren/bench/scene"
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
	protocols   []string
	envoy, bin  string
	output      string
	plots       string
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
	if len(o.wanted()) != len(o.protocols) {
		return fmt.Errorf("--protocols %v: want some of %v", o.protocols, protocols())
	}
	if !slices.Contains(measure.Formats(), o.output) {
		return fmt.Errorf("--output %q: want one of %v", o.output, measure.Formats())
	}
	return nil
}

// wanted are the protocols that are measured.
func (o *options) wanted() (out []protocol) {
	for _, p := range protocols() {
		if slices.Contains(o.protocols, string(p)) {
			out = append(out, p)
		}
	}
	return out
}

// run makes the lab, measures and removes the lab. Rows that cannot be measured are in the report with the reason.
func run(ctx context.Context, o options, progress io.Writer) (rep *measure.Report, err error) {
	dir, err := os.MkdirTemp("", "warren-bench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.bin == "" {
		_, _ = fmt.Fprintln(progress, "building agent, controller and waypoint")
		if o.bin, err = scene.Build(ctx, dir, "agent", "controller", "waypoint"); err != nil {
			return nil, err
		}
	}
	s, err := newStage(ctx, dir, o.bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	rows := s.warrenRows()
	_, _ = fmt.Fprintln(progress, "looking for Envoy")
	more, version := s.envoyRows(ctx, o.envoy)
	rows = append(rows, more...)
	for _, r := range rows {
		for _, p := range o.wanted() {
			if r.absent == nil {
				r.absent = verify(ctx, r, p)
			}
		}
		if r.absent != nil {
			_, _ = fmt.Fprintf(progress, "%s cannot be measured: %v\n", r.name, r.absent)
		}
	}
	rep = &measure.Report{
		Machine: scene.Machine(), Versions: []string{version}, Began: time.Now().UTC(), Rounds: o.rounds, Seconds: o.seconds, Notes: notes(),
	}
	return rep, measureAll(ctx, rows, o, rep, progress)
}

func measureAll(ctx context.Context, rows []*row, o options, rep *measure.Report, progress io.Writer) error {
	scenarios := o.scenarios()
	for _, s := range scenarios {
		rep.Scenarios = append(rep.Scenarios, s.Scenario)
	}
	for _, r := range rows {
		shown := measure.Row{Name: r.name, Base: direct}
		if r.absent != nil {
			shown.Absent = r.absent.Error()
		}
		rep.Rows = append(rep.Rows, shown)
	}
	return rep.Run(ctx, func(ctx context.Context, s, row int) measure.Measurement {
		m, err := measureOne(ctx, rows[row], scenarios[s], time.Duration(o.seconds*float64(time.Second)))
		if err != nil {
			m.Problem = err.Error()
		}
		return m
	}, func(round int) { _, _ = fmt.Fprintf(progress, "round %d of %d done\n", round, o.rounds) })
}
