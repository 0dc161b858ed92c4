package enroll

import "time"

// mostHeld is longer than any agent has connections held for the next one.
const mostHeld = time.Minute

// unhold ends what the agent before this one had the kernel hold, once every pod is served that may be. It returns whether
// it did.
func (e *Enroller) unhold(since time.Time) bool {
	if time.Since(since) < mostHeld && e.unsettled() {
		return false
	}
	if err := e.cfg.Capture.Unhold(); err != nil {
		e.cfg.Log.Warn("connections of this node's pods may be held though an agent is here", "err", err)
	}
	return true
}

// unsettled tells whether a pod waits to be served, or to be told of.
func (e *Enroller) unsettled() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.pods {
		if p.state == Unknown || p.state == Pending {
			return true
		}
	}
	return false
}
