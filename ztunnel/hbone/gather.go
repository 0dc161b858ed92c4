package hbone

import (
	"runtime"
	"sync/atomic"
)

// gathering decides whether a goroutine that has something small to write lets others go first, so that one write takes
// along what they have. On a busy connection that saves most of its system calls, here and at the peer; on another it costs
// a switch for nothing. So it goes by what came of it lately.
type gathering struct {
	came  atomic.Uint32 // those who left something small in the control buffer
	score atomic.Int32  // how well it has paid of late, from 0 to maxScore
}

const (
	// A turn given up costs a microsecond or two, a write that is saved some ten: one that paid is worth so many that did not.
	worth    = 4
	maxScore = 4 * worth
	// askAgain is how many writes there are for each that lets others go first although it has not paid.
	askAgain = 256
)

// gather lets others go first, if that pays. It is for who has just left something in the control buffer.
func (w *writeState) gather() {
	g := &w.gathering
	turn, score := g.came.Add(1), g.score.Load()
	if score <= 0 && turn%askAgain != 0 {
		return
	}
	runtime.Gosched()
	paid := g.came.Load() != turn || !w.waits()
	if paid && score < maxScore && g.score.Add(worth) > maxScore {
		g.score.Store(maxScore)
	}
	if !paid && score > 0 && g.score.Add(-1) < 0 { // others have counted too
		g.score.Store(0)
	}
}
