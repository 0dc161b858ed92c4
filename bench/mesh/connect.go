package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/warren-mesh/warren/bench/echo"
	"github.com/warren-mesh/warren/bench/load"
	"github.com/warren-mesh/warren/bench/measure"
)

const (
	// settle is what a proxy gets to notice that its tunnel was cut, before the next connection needs one.
	settle = 10 * time.Millisecond
	// coldTries is how often in a row it may not have noticed.
	coldTries = 5
	// dialers connect at the same time while idle connections are opened.
	dialers = 16
)

// hello opens a connection, gets one byte and is hung up upon. That the server does so leaves its end in TIME_WAIT, so the
// client does not run out of ports.
func (j *job) hello(ctx context.Context) error {
	conn, err := j.target().Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(load.Patience)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{echo.ModeHello}); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && len(answer) != 1 {
		err = fmt.Errorf("%d bytes came instead of one", len(answer))
	}
	return err
}

// connect opens new connections in a closed loop, over tunnels that are there already.
func (j *job) connect(ctx context.Context, ready begin) (outcome, func(), error) {
	askers := make([]load.Asker, j.Connections)
	for i := range askers {
		askers[i] = func() error { return j.hello(ctx) }
	}
	if warm := j.load().Run(askers, seconds(j.Warm)); warm.Err != nil {
		return outcome{}, nothing, fmt.Errorf("warming up: %w", warm.Err)
	}
	if err := ready(); err != nil {
		return outcome{}, nothing, err
	}
	o, err := outcomeOf(j.load().Run(askers, seconds(j.Seconds)))
	return o, nothing, err
}

// connectCold cuts the tunnels before each connection, so that each waits for a new one.
func (j *job) connectCold(ctx context.Context, ready begin) (outcome, func(), error) {
	if err := j.hello(ctx); err != nil {
		return outcome{}, nothing, fmt.Errorf("warming up: %w", err)
	}
	if err := ready(); err != nil {
		return outcome{}, nothing, err
	}
	var latencies measure.Histogram
	began, waited := time.Now(), time.Duration(0)
	for time.Since(began) < seconds(j.Seconds) {
		took, err := j.helloCold(ctx)
		if err != nil {
			return outcome{}, nothing, err
		}
		latencies.Add(took)
		waited += took
	}
	o, err := outcomeOf(&load.Outcome{Latencies: latencies, Took: waited})
	return o, nothing, err
}

// helloCold cuts what there is and connects. A proxy that did not get to see in time that its tunnel is gone fails the
// connection: that is not what a new tunnel costs, so it is tried again.
func (j *job) helloCold(ctx context.Context) (took time.Duration, err error) {
	for range coldTries {
		if j.Tunnel != 0 {
			if err := cutTunnels(j.Tunnel); err != nil {
				return 0, err
			}
			time.Sleep(settle)
		}
		at := time.Now()
		if err = j.hello(ctx); err == nil {
			return time.Since(at), nil
		}
		if err := j.hello(ctx); err != nil { // makes a tunnel to be cut
			return 0, fmt.Errorf("after the tunnel was cut, twice: %w", err)
		}
	}
	return 0, fmt.Errorf("after the tunnel was cut: %w", err)
}

// idle opens connections that have exchanged one message each, and leaves them alone while that is measured. Then some are
// asked again: all of them had to be carried still.
func (j *job) idle(ctx context.Context, ready begin) (outcome, func(), error) {
	began := time.Now()
	conns, askers, err := j.open(ctx)
	end := func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
	if err != nil {
		return outcome{}, end, err
	}
	took := time.Since(began)
	if err := ready(); err != nil {
		return outcome{}, end, err
	}
	time.Sleep(seconds(j.Seconds))
	o := outcome{Count: int64(len(conns)), Seconds: took.Seconds()}
	for i := 0; i < len(askers) && err == nil; i += max(1, len(askers)/100) {
		err = askers[i]()
	}
	return o, end, err
}

// open returns the connections even if not all of them could be opened.
func (j *job) open(ctx context.Context) (conns []net.Conn, askers []load.Asker, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for d := range dialers {
		wg.Go(func() {
			for i := d; i < j.Connections; i += dialers {
				conn, e := j.target().Dial(ctx)
				var ask load.Asker
				if e == nil {
					ask, e = messages(conn, j.Size)
				}
				if e == nil {
					e = ask()
				}
				mu.Lock()
				if conn != nil {
					conns, askers = append(conns, conn), append(askers, ask)
				}
				err = cmp.Or(err, e) // the first says it all
				mu.Unlock()
				if e != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if err != nil {
		err = fmt.Errorf("after %d connections: %w", len(conns), err)
	}
	return conns, askers, err
}
