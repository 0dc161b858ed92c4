package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/warren-mesh/warren/bench/load"
)

// Kinds of jobs.
const (
	kindCheck    = "check"    // the row does what it says
	kindEcho     = "echo"     // messages there and back
	kindHTTP     = "http"     // HTTP/1.1 requests
	kindGRPC     = "grpc"     // unary calls
	kindUpload   = "upload"   // bytes to the server
	kindDownload = "download" // bytes from the server
	kindConnect  = "connect"  // new connections
	kindCold     = "cold"     // new connections, each after the tunnel was cut
	kindIdle     = "idle"     // connections on which nothing happens
)

// job is what one client process does, in the network namespace of the row's client.
type job struct {
	Kind        string
	Address     string
	Size        int     // of a message, bytes
	Connections int     // or streams
	Rate        float64 // requests a second; 0 is a closed loop
	Beside      int     // streams to the server that go on beside the requests
	Warm        float64 // seconds before the measurement, on the same connections
	Seconds     float64
	// Tunnel is the port at the other end of what a row's connections travel in; 0 if there is none.
	Tunnel uint16
}

// outcome is what a job met.
type outcome struct {
	Count   int64 // requests, connections or bytes
	Seconds float64
	Micros  map[string]float64 `json:",omitempty"` // percentiles of the latency
	Problem string             `json:",omitempty"`
}

// begin is what a job calls once it is ready; the measurement starts when that returns.
type begin func() error

// runJob is a client process's life: read a job, get ready, wait for a word, do it, write what came of it.
func runJob(ctx context.Context, in io.Reader, out io.Writer) error {
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	var j job
	if err := dec.Decode(&j); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	ready := func() error {
		if err := enc.Encode(outcome{}); err != nil {
			return err
		}
		var word string
		return dec.Decode(&word)
	}
	o, end, err := j.do(ctx, ready)
	if err != nil {
		o.Problem = err.Error()
	}
	if err := enc.Encode(o); err != nil {
		return err
	}
	end() // what it takes to hang up is no part of the measurement
	return nil
}

func nothing() {}

// do returns what is left to do once the outcome has been told.
func (j *job) do(ctx context.Context, ready begin) (outcome, func(), error) {
	switch j.Kind {
	case kindCheck:
		o, err := j.check(ctx)
		return o, nothing, err
	case kindEcho, kindHTTP, kindGRPC:
		return j.ask(ctx, ready)
	case kindUpload, kindDownload:
		return j.stream(ctx, ready)
	case kindConnect:
		return j.connect(ctx, ready)
	case kindCold:
		return j.connectCold(ctx, ready)
	case kindIdle:
		return j.idle(ctx, ready)
	}
	return outcome{}, nothing, fmt.Errorf("no such job: %q", j.Kind)
}

func (j *job) target() load.Target { return load.Target{Address: j.Address} }

func (j *job) load() load.Load { return load.Load{Connections: j.Connections, Rate: j.Rate} }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// outcomeOf sums a load up.
func outcomeOf(l *load.Outcome) (outcome, error) {
	o := outcome{Count: l.Latencies.Count(), Seconds: l.Took.Seconds(), Micros: map[string]float64{}}
	for name, p := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999} {
		o.Micros[name] = float64(l.Latencies.Percentile(p)) / float64(time.Microsecond)
	}
	switch {
	case l.Err != nil:
		return o, fmt.Errorf("%d connections failed, the last one: %w", l.Failed, l.Err)
	case o.Count == 0:
		return o, errors.New("nothing was answered")
	}
	return o, nil
}
