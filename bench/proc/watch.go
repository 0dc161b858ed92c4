package proc

import (
	"errors"
	"fmt"
	"time"
)

// Watch measures what a path's processes use between Begin and End.
type Watch struct {
	processes []Process
	before    [][2]time.Duration
	err       error
}

// NewWatch has measured nothing yet.
func NewWatch(processes []Process) *Watch { return &Watch{processes: processes} }

// Begin notes what has been used so far. What goes wrong is returned by End.
func (w *Watch) Begin() {
	for _, p := range w.processes {
		user, system, err := p.times()
		w.before = append(w.before, [2]time.Duration{user, system})
		w.err = errors.Join(w.err, err, p.forgetPeaks())
	}
}

// End returns what was used since Begin, by name.
func (w *Watch) End() (map[string]Usage, error) {
	out := map[string]Usage{}
	for i, p := range w.processes {
		user, system, err := p.times()
		peak, peakErr := p.peak()
		w.err = errors.Join(w.err, err, peakErr)
		if i < len(w.before) {
			out[p.Name] = Usage{(user - w.before[i][0]).Seconds(), (system - w.before[i][1]).Seconds(), peak}
		}
	}
	return out, w.err
}

// OnPath refuses a measurement that did not pass where it was said to: whoever forwards uses at least least seconds of CPU,
// if it is not one that may be passed by.
func OnPath(processes []Process, used map[string]Usage, least float64) error {
	for _, p := range processes {
		if u := used[p.Name].CPU(); u < least && !p.PassedBy {
			return fmt.Errorf("%s used %.6f s of CPU, less than forwarding takes: what was measured did not pass it", p.Name, u)
		}
	}
	return nil
}
