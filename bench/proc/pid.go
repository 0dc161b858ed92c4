package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// CPU is the user and system time of one process so far, by proc_pid_stat(5), to the hundredth of a second. It is for a
// process that shares its cgroup with others.
func CPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses, which may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d: its stat has %d fields behind the name", pid, len(fields))
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = time.Second / 100 // USER_HZ, which is 100 wherever Linux runs Go
	return time.Duration(user+system) * tick, errors.Join(err, err2)
}

// Memory is what one process holds now, and the most that it held, bytes.
func Memory(pid int) (rss, peak int64, err error) {
	rss, err = status(pid, "VmRSS")
	peak, err2 := status(pid, "VmHWM")
	return rss, peak, errors.Join(err, err2)
}
