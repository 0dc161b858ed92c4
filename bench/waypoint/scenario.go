package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/warren-mesh/warren/bench/load"
	"github.com/warren-mesh/warren/bench/measure"
	"github.com/warren-mesh/warren/bench/proc"
)

// leastPerRequest is CPU seconds: a proxy that uses less did not forward.
const leastPerRequest = 1e-6

// scenario is one load of one protocol.
type scenario struct {
	measure.Scenario
	protocol protocol
	load     load.Load
}

// scenarios are what every row is put under.
func (o *options) scenarios() (out []scenario) {
	for _, p := range o.wanted() {
		for _, n := range o.connections {
			out = append(out, newScenario(p, load.Load{Connections: n}))
		}
		if o.rate > 0 {
			out = append(out, newScenario(p, load.Load{Connections: rateConnections, Rate: o.rate}))
		}
	}
	return out
}

func newScenario(p protocol, l load.Load) scenario {
	what, name := "HTTP/1.1, answers of 1 KiB", fmt.Sprintf("%s-c%d", p, l.Connections)
	if p == overGRPC {
		what = "gRPC, 1 KiB there and back, four at a time on a connection"
	}
	columns := []measure.Column{
		{Unit: "req/s", Title: "REQ/S", Ratio: true, Plot: true}, {Unit: "p50-us", Title: "P50 µs", Ratio: true}, {Unit: "p99-us", Title: "P99 µs", Ratio: true, Plot: true},
		{Unit: "cpu-s", Title: "CPU s/1000 req"}, {Unit: "peak-MiB", Title: "PEAK MiB"},
	}
	title := fmt.Sprintf("%s, closed loop, %d at once", what, l.Connections)
	if l.Rate > 0 {
		name, columns = fmt.Sprintf("%s-rate%g", p, l.Rate), columns[1:]
		title = fmt.Sprintf("%s, %g/s, latency from when each was due", what, l.Rate)
	}
	return scenario{measure.Scenario{Name: name, Title: title, Per: "1000 req", Columns: columns}, p, l}
}

// measureOne puts one load on one row.
func measureOne(ctx context.Context, r *row, s scenario, d time.Duration) (measure.Measurement, error) {
	w := proc.NewWatch(r.path)
	var used map[string]proc.Usage
	var usedErr error
	out, err := drive(ctx, s.protocol, s.load, r.to[s.protocol], d, w.Begin, func() { used, usedErr = w.End() })
	if err != nil {
		return measure.Measurement{}, err
	}
	n := out.Latencies.Count()
	m := measure.Measurement{Count: n, Amount: float64(n) / 1000, Seconds: out.Took.Seconds(), Used: used}
	switch {
	case out.Err != nil:
		return m, fmt.Errorf("%d connections failed, the last one: %w", out.Failed, out.Err)
	case usedErr != nil:
		return m, usedErr
	case n == 0:
		return m, errors.New("no request was answered")
	}
	m.Figures = map[measure.Unit]float64{
		"req/s": float64(n) / m.Seconds, "p50-us": micros(out.Latencies.Percentile(0.5)), "p99-us": micros(out.Latencies.Percentile(0.99)),
	}
	if len(used) > 0 {
		for _, u := range used {
			m.Figures["cpu-s"] += u.CPU() / m.Amount
			m.Figures["peak-MiB"] += float64(u.PeakRSS) / (1 << 20)
		}
	}
	return m, proc.OnPath(r.path, used, leastPerRequest*float64(n))
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func notes() []string {
	return []string{
		"envoy plain has no TLS and no second or third hop: it does less work than the other rows but direct.\n" +
			"warren l4 and waypoint keep a record of each connection or request, envoy keeps none.",
	}
}
