package main

import (
	"os"
	"runtime/debug"
)

// gcPercent is more than Go's own 100: a waypoint's heap is small and its garbage is requests. It costs 16 MiB and shortens
// the slowest requests (docs/performance.md).
const gcPercent = 250

// collectLess has the collector run less often. GOMEMLIMIT bounds that, GOGC overrides it.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
