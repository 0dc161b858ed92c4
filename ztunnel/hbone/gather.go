package hbone

import (
	"runtime"
	"sync/atomic"
)

// gathering decides whether a goroutine that has something small to write lets others go first, so that one write takes
// along what they have. On a busy connection that saves most of its system calls, here and at the peer; on another it costs
// a switch for nothing. So it goes by what came of it lately.
type gathering struct {
	queued atomic.Uint32 // frames that were left in the control buffer
	score  atomic.Int32  // how well it has paid of late, from 0 to maxScore
	asked  atomic.Uint32 // writes that went at once, since it has not paid
}

const (
	// A turn given up costs a microsecond or two, a write that is saved some ten: one that paid is worth so many that did not.
	worth    = 4
	maxScore = 4 * worth
	// askAgain is how many writes there are for each that lets others go first although it has not paid.
	askAgain = 256
)

// gather lets others go first, if that pays.
func (w *writeState) gather() {
	g := &w.gathering
	score := g.score.Load()
	if score <= 0 && g.asked.Add(1)%askAgain != 0 {
		return
	}
	before := g.queued.Load()
	runtime.Gosched()
	paid := g.queued.Load() != before || !w.waits()
	if paid && score < maxScore && g.score.Add(worth) > maxScore {
		g.score.Store(maxScore)
	}
	if !paid && score > 0 && g.score.Add(-1) < 0 { // others have counted too
		g.score.Store(0)
	}
}
