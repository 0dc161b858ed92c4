package load

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/bench/measure"
)

// Load is how requests come: a closed loop on each connection, or, with a rate, by the clock.
type Load struct {
	Connections int
	Rate        float64 // requests a second, all connections together
}

func (l Load) String() string {
	if l.Rate > 0 {
		return fmt.Sprintf("%g/s on %d", l.Rate, l.Connections)
	}
	return fmt.Sprintf("%d closed", l.Connections)
}

// Asker sends one request and waits for its answer. After an error it is not asked again: its connection's state is
// unknown.
type Asker func() error

// Outcome is what a load met.
type Outcome struct {
	Latencies measure.Histogram // of what was answered
	Failed    int
	Took      time.Duration
	Err       error // the last one
}

// Run makes the load for d, one goroutine an asker.
func (l Load) Run(askers []Asker, d time.Duration) *Outcome {
	results := make([]Outcome, len(askers))
	var numbers atomic.Int64
	began := time.Now()
	var wg sync.WaitGroup
	for i, ask := range askers {
		wg.Go(func() {
			if l.Rate > 0 {
				results[i].byClock(ask, began, d, l.Rate, &numbers)
			} else {
				results[i].closedLoop(ask, began, d)
			}
		})
	}
	wg.Wait()
	all := &Outcome{Took: time.Since(began)}
	for i := range results {
		r := &results[i]
		all.Latencies.Merge(&r.Latencies)
		all.Failed += r.Failed
		if r.Err != nil {
			all.Err = r.Err
		}
	}
	return all
}

func (o *Outcome) fail(err error) { o.Failed, o.Err = o.Failed+1, err }

// closedLoop asks again as soon as it was answered.
func (o *Outcome) closedLoop(ask Asker, began time.Time, d time.Duration) {
	for {
		at := time.Now()
		if at.Sub(began) >= d {
			return
		}
		if err := ask(); err != nil {
			o.fail(err)
			return
		}
		o.Latencies.Add(time.Since(at))
	}
}

// byClock takes the next request that is due. Its latency counts from when it was due, not from when a connection was
// free for it: what a slow answer delays is part of what a user waits.
func (o *Outcome) byClock(ask Asker, began time.Time, d time.Duration, rate float64, numbers *atomic.Int64) {
	wake, err := newAlarm()
	if err != nil {
		o.fail(err)
		return
	}
	defer func() { _ = wake.file.Close() }()
	for {
		due := time.Duration(float64(numbers.Add(1)-1) / rate * float64(time.Second))
		if due >= d {
			return
		}
		err := wake.sleepUntil(began.Add(due))
		if err == nil {
			err = ask()
		}
		if err != nil {
			o.fail(err)
			return
		}
		o.Latencies.Add(time.Since(began) - due)
	}
}
