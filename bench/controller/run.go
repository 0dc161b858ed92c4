package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/bench/proc"
	"github.com/warren-mesh/warren/bench/scene"
)

const (
	// quiet is how long nothing changes before the next change, so that each is a single one.
	quiet = 300 * time.Millisecond
	// patience bounds what is waited for.
	patience = 2 * time.Minute
)

// run is a measurement on its way.
type run struct {
	options
	world    *world
	process  *process
	agents   *agents
	version  uint64 // the newest, which everybody has
	progress io.Writer
}

// measure does everything.
func measure(ctx context.Context, o options, progress io.Writer) (*report, error) {
	dir, err := os.MkdirTemp("", "warren-bench-controller-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if o.profiles != "" {
		if o.profiles, err = filepath.Abs(o.profiles); err != nil {
			return nil, err
		}
	}
	m := &run{options: o, progress: progress}
	if m.world, err = newWorld(dir, o.size); err != nil {
		return nil, err
	}
	out := &report{
		Machine: scene.Machine(), Began: time.Now(), Pods: o.size.pods, Agents: o.size.nodes, Feeds: o.feeds,
		Services: o.size.namespaces * servicesEach, Policies: o.size.namespaces * policiesEach,
	}
	if err := raise(); err != nil {
		return nil, err
	}
	if err := m.begin(ctx, dir, out); err != nil {
		return nil, err
	}
	defer m.process.stop()
	defer m.agents.cancel()
	for _, c := range changes() {
		err := m.process.profiled(ctx, c.name, func() error { return m.kind(ctx, c, out) })
		if err != nil {
			return nil, m.process.explain(err)
		}
	}
	if out.RSS, out.PeakRSS, err = proc.Memory(m.process.cmd.Process.Pid); err != nil {
		return nil, err
	}
	return out, m.agents.stop()
}

// begin starts the controller and connects all agents to it.
func (m *run) begin(ctx context.Context, dir string, out *report) error {
	bin, err := scene.Build(ctx, dir, "controller")
	if err != nil {
		return err
	}
	started := time.Now()
	p, authority, err := start(ctx, dir, bin, m.world, m.profiles)
	if err != nil {
		return err
	}
	m.process = p
	if err := p.ready(ctx); err != nil {
		p.stop()
		return err
	}
	out.Cold = part{Seconds: time.Since(started).Seconds()}
	if err := m.cost(&out.Cold, usage{}); err != nil {
		p.stop()
		return err
	}
	m.say("%d pods are compiled, %d agents connect", m.world.pods, m.world.nodes)
	before, err := m.usage()
	if err != nil {
		p.stop()
		return err
	}
	m.agents = connect(ctx, authority, p, m.options)
	synced, err := m.sync(ctx)
	if err == nil {
		out.Sync = part{Seconds: synced.Sub(before.at).Seconds()}
		err = m.cost(&out.Sync, before)
	}
	if err != nil {
		err = p.explain(err)
		m.agents.cancel()
		p.stop()
	}
	return err
}

// sync waits until every agent has the newest version.
func (m *run) sync(ctx context.Context) (time.Time, error) {
	version, p, err := m.agents.awaitAfter(ctx, 0, patience)
	m.version = version
	return p.Last, err
}

// kind makes one kind of change, many times.
func (m *run) kind(ctx context.Context, c change, out *report) error {
	m.say("%d times %s", m.changes, c.name)
	r := row{Change: c.name}
	before, err := m.usage()
	if err != nil {
		return err
	}
	for n := range m.changes {
		if err := pause(ctx, quiet); err != nil {
			return err
		}
		started := time.Now()
		if err := c.make(m.world, n); err != nil {
			return err
		}
		version, p, err := m.agents.awaitAfter(ctx, m.version, patience)
		if err != nil {
			return fmt.Errorf("%s, the %d. time: %w", c.name, n+1, err)
		}
		if version != m.version+1 {
			return fmt.Errorf("%s, the %d. time: %d versions came of one change", c.name, n+1, version-m.version)
		}
		m.version = version
		m.agents.Forget(version)
		r.Total = append(r.Total, p.Last.Sub(started).Seconds())
		r.Sending = append(r.Sending, p.Last.Sub(p.Compiled).Seconds())
	}
	if err := m.cost(&r.part, before); err != nil {
		return err
	}
	out.Rows = append(out.Rows, r)
	return nil
}

// usage is what was used so far.
type usage struct {
	at                 time.Time
	controller, agents time.Duration // CPU
	bytes              uint64
}

func (m *run) usage() (usage, error) {
	u := usage{at: time.Now()}
	var err error
	if u.controller, err = proc.CPU(m.process.cmd.Process.Pid); err != nil {
		return u, err
	}
	if u.agents, err = proc.CPU(os.Getpid()); err != nil {
		return u, err
	}
	if m.agents != nil {
		_, u.bytes = m.agents.Totals()
	}
	return u, nil
}

// cost adds to a part what was used since.
func (m *run) cost(p *part, since usage) error {
	now, err := m.usage()
	p.ControllerCPU = (now.controller - since.controller).Seconds()
	p.AgentsCPU = (now.agents - since.agents).Seconds()
	p.Bytes = now.bytes - since.bytes
	return err
}

func (m *run) say(format string, args ...any) {
	_, _ = fmt.Fprintf(m.progress, format+"\n", args...) // progress is for people
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// raise lets this process have as many sockets as it may.
func raise() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}
