package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/warren-mesh/warren/bench/proc"
	"github.com/warren-mesh/warren/internal/profile"
)

// profiledSeconds is at least how long a profile takes: it has 100 samples a second of a core.
const profiledSeconds = 2

// sockets is where processes serve their profiles during this run.
func (s *stage) sockets() string { return filepath.Join(s.dir, "profiles") }

// profileAll runs every scenario on Warren's rows once more, after all that counts, and keeps profiles of the processes on
// the path: <folder>/<scenario>/<row>/<process>.cpu.pprof and .heap.pprof.
func (s *stage) profileAll(ctx context.Context, o options, rows []*row, progress io.Writer) error {
	for _, sc := range o.chosen {
		for _, r := range rows {
			if r.absent != nil || !strings.HasPrefix(r.name, "warren") {
				continue
			}
			dir := filepath.Join(o.profile, sc.Name, strings.ReplaceAll(r.name, " ", "-"))
			if err := s.profileOne(ctx, o, sc, r, dir); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				_, _ = fmt.Fprintf(progress, "no profile of %s, %s: %v\n", sc.Name, r.name, err)
			}
		}
	}
	_, _ = fmt.Fprintf(progress, "profiles are in %s\n", o.profile)
	return nil
}

func (s *stage) profileOne(ctx context.Context, o options, sc scenario, r *row, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	j := r.jobOf(sc, o)
	j.Seconds = max(j.Seconds, profiledSeconds)
	var wg sync.WaitGroup
	errs := make([]error, len(r.path))
	begin := func() {
		for i, p := range r.path {
			wg.Go(func() {
				errs[i] = s.save(ctx, p, fmt.Sprintf("cpu %s", time.Duration(j.Seconds*float64(time.Second))), dir)
			})
		}
	}
	_, err := runClient(ctx, r.client, j, begin, wg.Wait)
	wg.Wait()
	for _, p := range r.path {
		err = errors.Join(err, s.save(ctx, p, "heap", dir))
	}
	return errors.Join(err, errors.Join(errs...))
}

// save keeps one profile of a process.
func (s *stage) save(ctx context.Context, p proc.Process, what, dir string) error {
	pids, err := p.PIDs()
	if err != nil {
		return err
	}
	text, err := profile.Fetch(ctx, s.sockets(), pids[0], what)
	if err != nil {
		return err
	}
	kind, _, _ := strings.Cut(what, " ")
	name := fmt.Sprintf("%s.%s.pprof", strings.ReplaceAll(p.Name, " ", "-"), kind)
	return os.WriteFile(filepath.Join(dir, name), text, 0o644)
}
