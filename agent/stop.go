package agent

import (
	"context"
	"time"
)

// holdTime is how long what pods dial waits for the next agent: longer than a node takes to replace one whose image it has.
const holdTime = 30 * time.Second

// settleTime is how long connections that the kernel has accepted may take to be accepted here: a listener that is closed
// resets them. connectTime is how long those may take to reach their destination after that: who has stopped dials nobody.
const (
	settleTime  = 50 * time.Millisecond
	connectTime = 500 * time.Millisecond
)

// lastGrace is what connections get that were made while the agent lingered, and up to a second if they began in the last
// one or bytes go. It is short because the pods of the node cannot connect meanwhile.
const lastGrace = 250 * time.Millisecond

// linger returns once the agent may stop serving: ended is over because something failed, or stop is and every
// connection that was open then has ended, or has had the drain timeout.
//
// Until then everything goes on: new connections are carried and pods start. An agent that only waited for what is
// open would keep its whole node from connecting for as long as one idle connection lives.
func (a *Agent) linger(stop, ended context.Context) {
	select {
	case <-stop.Done():
	case <-ended.Done():
		return
	}
	asked := time.Now()
	over := time.After(a.cfg.DrainTimeout)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for a.proxy.CarriesSince(asked) {
		select {
		case <-ended.Done():
			return
		case <-over:
			return
		case <-look.C:
		}
	}
}

// hold has what pods dial from now on wait for the next agent, unless the mesh leaves this node.
func (a *Agent) hold() {
	if a.leaving() {
		return
	}
	if err := a.capture.Hold(holdTime); err != nil {
		a.cfg.Log.Warn("connections are refused until the next agent serves", "err", err)
		return
	}
	time.Sleep(settleTime)
	for over := time.Now().Add(connectTime); a.proxy.Connecting() && time.Now().Before(over); {
		time.Sleep(5 * time.Millisecond)
	}
}
