package kubelet

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// lookEvery bounds how long a new kubelet's probes are anybody's connections. A look at a kubelet that is there, or
	// at a port where nobody listens, reads one or two small files.
	lookEvery = 500 * time.Millisecond
	// retryAfter is when all processes are gone through again if somebody listens who is not the kubelet.
	retryAfter = 10 * time.Second
)

// Run follows the kubelet until ctx ends. It calls onChange, never twice at once, with the first answer of Find and with
// each one that differs: the zero Process and why, while there is no kubelet.
func (f Finder) Run(ctx context.Context, onChange func(Process, error)) error {
	f = f.withDefaults()
	var now Process
	var why string
	var notBefore time.Time
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for first := true; ; first = false {
		if !f.lives(now) && !time.Now().Before(notBefore) {
			p, err := f.Find()
			if err != nil && !errors.Is(err, ErrNotListening) {
				notBefore = time.Now().Add(retryAfter)
			}
			if text := textOf(err); first || p != now || text != why {
				now, why = p, text
				onChange(p, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

// lives tells whether it is still that process. A pid alone may be another's by now.
func (f Finder) lives(p Process) bool {
	if p == (Process{}) {
		return false
	}
	start, err := process{dir: filepath.Join(f.Proc, strconv.FormatUint(uint64(p.ID.Pid), 10))}.start()
	return err == nil && start == p.ID.Start
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
