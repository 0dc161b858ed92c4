package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Run is how often a program has run and for how long in all, while the kernel counted.
type Run struct {
	Count uint64
	Time  time.Duration
}

// CountRuns has the kernel count the runs of all programs until it is closed, which costs each run two looks at the clock
// (kernel.bpf_stats_enabled).
func CountRuns() (io.Closer, error) {
	counting, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return nil, fmt.Errorf("have the kernel count the runs of programs: %w", err)
	}
	return counting, nil
}

// Runs returns the runs of each program by its name in capture.c; steer's are those of all pods that are there.
func (c *Capture) Runs() (map[string]Run, error) {
	runs := map[string]Run{}
	for name := range hooks {
		if err := addRun(runs, name, c.progs.Programs[name]); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(c.dir, "steer")
	pins, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list steer programs: %w", err)
	}
	for _, pin := range pins {
		if err := addSteer(runs, filepath.Join(dir, pin.Name())); err != nil {
			return nil, err
		}
	}
	return runs, nil
}

func addSteer(runs map[string]Run, pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the pod went meanwhile
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", pin, err)
	}
	defer l.Close()
	p, err := programOf(l)
	if err != nil {
		return fmt.Errorf("program of %s: %w", pin, err)
	}
	defer p.Close()
	return addRun(runs, "steer", p)
}

func addRun(runs map[string]Run, name string, p *ebpf.Program) error {
	stats, err := p.Stats()
	if err != nil {
		return fmt.Errorf("runs of %s: %w", name, err)
	}
	r := runs[name]
	runs[name] = Run{r.Count + stats.RunCount, r.Time + stats.Runtime}
	return nil
}
