// Package waypoint proves waypoints in the lab: real nodes, pods and programs, the binaries as they are shipped, no
// Kubernetes.
package waypoint

import (
	"testing"

	"github.com/warren-mesh/warren/internal/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m, "../..") }
