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
	"github.com/warren-mesh/warren/bench/proc"
	"github.com/warren-mesh/warren/bench/scene"
)

const (
	// readyPatience is how long a row may take until it does what it is to.
	readyPatience = 20 * time.Second
	// leastPerRequest and leastPerGB are CPU seconds: a proxy that uses less did not forward.
	leastPerRequest = 1e-6
	leastPerGB      = 0.01
)

// run makes the labs, measures and removes them. Rows that cannot be measured are in the report with the reason.
func run(ctx context.Context, o options, progress io.Writer) (rep *measure.Report, err error) {
	dir, err := os.MkdirTemp("", "warren-bench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &stage{dir: dir, bin: o.bin, profiled: o.profile != ""}
	defer func() { err = errors.Join(err, s.close()) }()
	if s.bin == "" {
		_, _ = fmt.Fprintln(progress, "building agent, controller and waypoint")
		if s.bin, err = scene.Build(ctx, dir, "agent", "controller", "waypoint"); err != nil {
			return nil, err
		}
	}
	rows, versions, err := s.rows(ctx, o)
	if err != nil {
		return nil, err
	}
	rep, err = measureAll(ctx, o, rows, versions, progress)
	if err == nil && o.profile != "" {
		err = s.profileAll(ctx, o, rows, progress)
	}
	return rep, err
}

// rows brings up what is asked for and checks it.
func (s *stage) rows(ctx context.Context, o options) ([]*row, []string, error) {
	sc, rows, err := s.mainRows(ctx)
	if err != nil {
		return nil, nil, err
	}
	if o.wants(warrenTLS) {
		rows = slices.Insert(rows, slices.IndexFunc(rows, func(r *row) bool { return r.name == warrenFar }), s.encryptedRow(ctx))
	}
	more, versions, err := s.peerRows(ctx, sc, o)
	if err != nil {
		return nil, nil, err
	}
	var chosen []*row
	for _, r := range rows {
		if !o.wants(r.name) {
			continue
		}
		if r.absent == nil {
			r.absent = verify(ctx, r)
		}
		chosen = append(chosen, r)
	}
	return append(chosen, more...), versions, ctx.Err()
}

// verify waits until a row does what it says.
func verify(ctx context.Context, r *row) error {
	deadline := time.Now().Add(readyPatience)
	for {
		_, err := runClient(ctx, r.client, job{Kind: kindCheck, Address: r.address, Size: 64, Tunnel: r.tunnel}, nothing, nothing)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func measureAll(ctx context.Context, o options, rows []*row, versions []string, progress io.Writer) (*measure.Report, error) {
	rep := &measure.Report{
		Machine: scene.Machine(), Versions: versions, Began: time.Now().UTC(), Rounds: o.rounds, Seconds: o.seconds, Notes: notes(),
	}
	for _, s := range o.chosen {
		rep.Scenarios = append(rep.Scenarios, s.Scenario)
	}
	for _, r := range rows {
		rep.Rows = append(rep.Rows, r.shown())
		if r.absent != nil {
			_, _ = fmt.Fprintf(progress, "%s cannot be measured: %v\n", r.name, r.absent)
		}
	}
	err := rep.Run(ctx, func(ctx context.Context, sc, row int) measure.Measurement {
		m, err := measureOne(ctx, o, o.chosen[sc], rows[row])
		if err != nil {
			m.Problem = err.Error()
			_, _ = fmt.Fprintf(progress, "%s, %s: %v\n", o.chosen[sc].Name, rows[row].name, err)
		}
		return m
	}, func(round int) { _, _ = fmt.Fprintf(progress, "round %d of %d done\n", round, o.rounds) })
	return rep, err
}

// measureOne puts one scenario on one row.
func measureOne(ctx context.Context, o options, s scenario, r *row) (measure.Measurement, error) {
	j, f := r.jobOf(s, o), map[measure.Unit]float64{}
	if j.Kind == kindIdle && len(r.path) > 0 {
		rss, err := held(r.path)
		if err != nil {
			return measure.Measurement{}, err
		}
		f["before-MiB"] = rss
	}
	w := proc.NewWatch(r.path)
	var used map[string]proc.Usage
	var usedErr error
	var rss float64
	out, err := runClient(ctx, r.client, j, w.Begin, func() {
		used, usedErr = w.End()
		rss, _ = held(r.path) // End has looked at the same processes
	})
	m := measure.Measurement{Count: out.Count, Seconds: out.Seconds, Figures: f, Used: used}
	if err = errors.Join(err, usedErr); err != nil {
		return m, err
	}
	if j.Kind == kindIdle && len(r.path) > 0 {
		f["rss-MiB"] = rss
	}
	figures(&m, j, out)
	return m, onPath(r, m, j)
}

// jobOf is a scenario's job on this row.
func (r *row) jobOf(s scenario, o options) job {
	j := s.job
	j.Address, j.Tunnel, j.Seconds, j.Warm = r.address, r.tunnel, o.seconds, o.warm()
	if j.Kind == kindCold && !r.pooled {
		j.Tunnel = 0 // every connection is one
	}
	return j
}

// held is what the processes on a path have in memory now, MiB.
func held(path []proc.Process) (float64, error) {
	sum := int64(0)
	for _, p := range path {
		n, err := p.RSS()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return float64(sum) / (1 << 20), nil
}

// figures says what came out in the scenario's units.
func figures(m *measure.Measurement, j job, out outcome) {
	rate := float64(out.Count) / out.Seconds
	switch j.Kind {
	case kindUpload, kindDownload:
		m.Amount, m.Figures["MB/s"] = float64(out.Count)/1e9, rate/1e6
	case kindIdle:
		m.Amount, m.Figures["open/s"] = j.Seconds, rate
	case kindConnect, kindCold:
		m.Amount, m.Figures["conn/s"] = float64(out.Count)/1000, rate
	default:
		m.Amount, m.Figures["req/s"] = float64(out.Count)/1000, rate
	}
	for name, v := range out.Micros {
		m.Figures[measure.Unit(name+"-us")] = v
	}
	if len(m.Used) == 0 {
		return
	}
	var user, system, peak float64
	for _, u := range m.Used {
		user, system, peak = user+u.UserSeconds, system+u.SystemSeconds, peak+float64(u.PeakRSS)
	}
	m.Figures["user-s"], m.Figures["sys-s"], m.Figures["peak-MiB"] = user/m.Amount, system/m.Amount, peak/(1<<20)
}

// onPath refuses what did not pass where the row says.
func onPath(r *row, m measure.Measurement, j job) error {
	switch j.Kind {
	case kindIdle:
		return nil // there is nothing to forward
	case kindUpload, kindDownload:
		return proc.OnPath(r.path, m.Used, leastPerGB*m.Amount)
	}
	return proc.OnPath(r.path, m.Used, leastPerRequest*float64(m.Count))
}

func notes() []string {
	return []string{
		"base: bare TCP between the same nodes. CPU: user and system time of the proxies on the path, by their cgroups, without what\n" +
			"the kernel does for them in interrupts. Client, server and proxies share the machine's cores: read ratios, not figures.",
	}
}
