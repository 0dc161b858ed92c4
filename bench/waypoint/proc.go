package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of utime and stime: USER_HZ, which is 100 on every architecture that Go knows.
const tick = 10 * time.Millisecond

// proxy is a process on a row's path.
type proxy struct {
	name string
	pid  int
}

// usage is what one proxy used during a measurement.
type usage struct {
	CPUSeconds float64 `json:"cpuSeconds"`
	PeakRSS    int64   `json:"peakRSSBytes"`
}

// watch notes what a path's proxies have used so far and has the kernel forget the peaks of their memory.
type watch struct {
	proxies []proxy
	before  []time.Duration
	err     error
}

func newWatch(proxies []proxy) *watch { return &watch{proxies: proxies} }

func (w *watch) begin() {
	for _, p := range w.proxies {
		// 5 resets the peak resident set size, proc_pid_clear_refs(5).
		err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.pid), []byte("5"), 0)
		cpu, cpuErr := cpuTime(p.pid)
		w.before = append(w.before, cpu)
		w.err = errors.Join(w.err, err, cpuErr)
	}
}

// end returns what was used since begin, by name.
func (w *watch) end() (map[string]usage, error) {
	out := map[string]usage{}
	for i, p := range w.proxies {
		cpu, err := cpuTime(p.pid)
		rss, rssErr := peakRSS(p.pid)
		w.err = errors.Join(w.err, err, rssErr)
		if i < len(w.before) {
			out[p.name] = usage{CPUSeconds: (cpu - w.before[i]).Seconds(), PeakRSS: rss}
		}
	}
	return out, w.err
}

// cpuTime is a process's user and system time, fields 14 and 15 of proc_pid_stat(5).
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in field 2 may hold anything, so count from its last parenthesis.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d: cannot read %q", pid, text)
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, errors.Join(err, err2)
}

// peakRSS is VmHWM of proc_pid_status(5), bytes.
func peakRSS(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d: no VmHWM in its status", pid)
}
