// Package mesh proves the whole: real nodes, real pods, real programs, the binaries as they are shipped.
package mesh

import (
	"testing"

	"github.com/warren-mesh/warren/internal/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m, "../..") }
