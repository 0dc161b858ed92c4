package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/warren-mesh/warren/internal/awake"
)

// gcPercent is more than Go's own 100: a waypoint's heap is small and its garbage is requests. It costs 16 MiB and shortens
// the slowest requests (docs/performance.md).
const gcPercent = 250

// tune sets Go's runtime for many small messages. The collector runs less often: GOMEMLIMIT bounds that, GOGC overrides it.
func tune() {
	if err := awake.Keep(); err != nil {
		fmt.Fprintln(os.Stderr, "waypoint: slower than it could be:", err)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
