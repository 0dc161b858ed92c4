// Package awake keeps the monitor thread of Go's runtime from going to sleep, in processes that sleep and wake for every
// message: agents, waypoints, and what measures them (docs/adr/0020).
package awake

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// The monitor thread (sysmon, runtime/proc.go) sleeps while no goroutine runs, as is so in a proxy between any two messages.
// The first system call after that has to wake it, by a system call of its own and a processor that is idle, and for a
// millisecond it looks around every 20 µs, as if the process had just begun. While a trace of the scheduler is asked for it
// never sleeps: its pauses grow to 10 ms and stay there. The runtime reads this at its start only.
const (
	variable = "GODEBUG"
	name     = "schedtrace="
	// setting is a trace each 24 days, the longest there is: a line "SCHED", of which the first may come at once.
	setting = name + "2147483647"
)

// Keep starts the process once more, as itself, with the runtime set so. What calls it must have opened nothing yet. A
// process whose GODEBUG says something of schedtrace is left as it is. An error means that all goes on as before.
func Keep() error {
	value := os.Getenv(variable)
	if strings.Contains(value, name) {
		return nil
	}
	// By its path: of /proc/self/exe the kernel would make the process's name.
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("keep the runtime's monitor awake: %w", err)
	}
	if value != "" {
		value += ","
	}
	if err := os.Setenv(variable, value+setting); err != nil {
		return fmt.Errorf("keep the runtime's monitor awake: %w", err)
	}
	return fmt.Errorf("keep the runtime's monitor awake: exec %s: %w", path, syscall.Exec(path, os.Args, os.Environ()))
}
