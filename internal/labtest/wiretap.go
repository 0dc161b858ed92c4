package labtest

import (
	"bytes"
	"path/filepath"

	"github.com/warren-mesh/warren/internal/nettest"
)

// Tap looks for a canary in all packets between nodes until the test ends, and fails the test if one carried it, or
// if it saw no packet at all.
func (m *Mesh) Tap(canary string) *nettest.Wiretap {
	m.tb.Helper()
	var t *nettest.Wiretap
	m.tb.Cleanup(func() { // after the tap's own, so that it has heard everything
		switch {
		case t == nil:
		case t.Packets.Load() == 0:
			m.tb.Error("the wiretap saw no packet: it proves nothing")
		case t.Readable.Load() > 0:
			m.tb.Errorf("%d packets between nodes carried the payload readably", t.Readable.Load())
		}
	})
	t = m.Listen(canary)
	return t
}

// Listen is Tap without a verdict.
func (m *Mesh) Listen(canary string) *nettest.Wiretap {
	m.tb.Helper()
	info, err := m.Info()
	if err != nil {
		m.tb.Fatal(err)
	}
	word := []byte(canary)
	return nettest.Listen(m.tb, filepath.Join(info.Dir, "netns", "_fabric"), func(frame []byte) bool {
		return bytes.Contains(frame, word)
	})
}
