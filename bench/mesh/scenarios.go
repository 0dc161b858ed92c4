package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/bench/measure"
)

const (
	perThousand    = "1000 req"
	perConnections = "1000 conn"
	perGB          = "GB"
	perSecond      = "s"

	// idleConnections is how many there are, or as many as the limit of open files allows.
	idleConnections = 10_000
	// idleRounds are few, as thousands of TLS handshakes take long, and memory hardly differs from round to round.
	idleRounds = 2
	// dialConnections is how many connections are opened at once where new ones are counted.
	dialConnections = 16
)

// scenario is a job that every row does, and how it is shown.
type scenario struct {
	measure.Scenario
	job   job
	quick bool // part of the quick form
}

func latencies() []measure.Column {
	return []measure.Column{
		{Unit: "p50-us", Title: "P50 µs", Ratio: true, Plot: true}, {Unit: "p90-us", Title: "P90 µs"},
		{Unit: "p99-us", Title: "P99 µs", Ratio: true, Plot: true}, {Unit: "p99.9-us", Title: "P99.9 µs"},
	}
}

func costs(per string) []measure.Column {
	return []measure.Column{{Unit: "user-s", Title: "USER s/" + per}, {Unit: "sys-s", Title: "SYSTEM s/" + per}, {Unit: "peak-MiB", Title: "PEAK MiB"}}
}

// scenarios are all there are, in the order in which they are measured.
func scenarios(idleConns int) (out []scenario) {
	for _, size := range []int{64, 1024} {
		for _, n := range []int{1, 16, 128} {
			out = append(out, closed(size, n, size == 64 && n < 128))
		}
	}
	for _, size := range []int{64, 1024} {
		for _, rate := range []float64{1000, 5000} {
			out = append(out, steady(kindEcho, fmt.Sprintf("rate%g-%d", rate, size), fmt.Sprintf("%d B there and back", size), size, rate, size == 64 && rate == 1000))
		}
	}
	out = append(out, beside(steady(kindEcho, "rate1000-64-bulk", "64 B there and back", 64, 1000, false), 2))
	for _, kind := range []string{kindUpload, kindDownload} {
		for _, n := range []int{1, 8} {
			out = append(out, bulk(kind, n, n == 1))
		}
	}
	out = append(out, connections(kindConnect, dialConnections, "new connections, over tunnels that are there"),
		connections(kindCold, 1, "new connections, one after the other, each after what was pooled was cut"))
	out = append(out, steady(kindHTTP, "http", "HTTP/1.1, answers of 1 KiB", 1024, 1000, false),
		steady(kindGRPC, "grpc", "gRPC, 1 KiB there and back", 1024, 1000, false), idle(idleConns))
	return out
}

func closed(size, n int, quick bool) scenario {
	columns := append([]measure.Column{{Unit: "req/s", Title: "REQ/S", Ratio: true, Plot: true}}, latencies()...)
	return scenario{measure.Scenario{
		Name: fmt.Sprintf("echo%d-c%d", size, n), Title: fmt.Sprintf("%d B there and back, closed loop, %d connections", size, n),
		Per: perThousand, Columns: append(columns, costs(perThousand)...),
	}, job{Kind: kindEcho, Size: size, Connections: n}, quick}
}

// steady is load by the clock.
func steady(kind, name, title string, size int, rate float64, quick bool) scenario {
	return scenario{measure.Scenario{
		Name: name, Title: fmt.Sprintf("%s, %g/s on 16 connections, latency from when each was due", title, rate),
		Per: perThousand, Columns: append(append(latencies(), measure.Column{Unit: "req/s", Title: "REACHED/S"}), costs(perThousand)...),
	}, job{Kind: kind, Size: size, Connections: 16, Rate: rate}, quick}
}

// beside is s beside n streams that take what they get. What the proxies use is theirs for the most part, and not shown.
func beside(s scenario, n int) scenario {
	s.Title += fmt.Sprintf(", beside %d streams", n)
	s.Columns = s.Columns[:len(s.Columns)-len(costs(""))]
	s.job.Beside = n
	return s
}

func bulk(kind string, n int, quick bool) scenario {
	return scenario{measure.Scenario{
		Name: fmt.Sprintf("%s-%d", kind, n), Title: fmt.Sprintf("%s, %d streams", kind, n), Per: perGB,
		Columns: append([]measure.Column{{Unit: "MB/s", Title: "MB/S", Ratio: true, Plot: true}}, costs(perGB)...),
	}, job{Kind: kind, Connections: n}, quick}
}

func connections(kind string, n int, title string) scenario {
	columns := append([]measure.Column{{Unit: "conn/s", Title: "CONN/S", Ratio: true, Plot: true}}, latencies()...)
	return scenario{measure.Scenario{
		Name: kind, Title: title, Per: perConnections, Columns: append(columns, costs(perConnections)...),
	}, job{Kind: kind, Connections: n}, kind == kindConnect}
}

func idle(n int) scenario {
	return scenario{measure.Scenario{
		Name: kindIdle, Title: fmt.Sprintf("%d idle connections, at most %d rounds", n, idleRounds), Per: perSecond, Rounds: idleRounds,
		Columns: append([]measure.Column{
			{Unit: "rss-MiB", Title: "RSS MiB", Plot: true}, {Unit: "before-MiB", Title: "BEFORE MiB"}, {Unit: "open/s", Title: "OPENED/S", Ratio: true},
		}, costs(perSecond)...),
	}, job{Kind: kindIdle, Size: 64, Connections: n}, false}
}

// choose returns the scenarios that are asked for by name; without names it is all of the form.
func choose(names []string, full bool, idleConns int) (out []scenario, err error) {
	all := scenarios(idleConns)
	known := []string{}
	for _, s := range all {
		known = append(known, s.Name)
		if slices.Contains(names, s.Name) || len(names) == 0 && (full || s.quick) {
			out = append(out, s)
		}
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			err = errors.Join(err, fmt.Errorf("--scenario %s: want some of %s", n, strings.Join(known, ", ")))
		}
	}
	return out, err
}
