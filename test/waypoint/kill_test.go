package waypoint

import (
	"syscall"
	"testing"

	"github.com/warren-mesh/warren/lab"
)

// kill ends processes that the lab started.
func kill(t *testing.T, procs []lab.Process) {
	t.Helper()
	for _, p := range procs {
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}
