package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// patience bounds one request. A measurement with one that takes longer has failed.
	patience = 5 * time.Second
	// warmUp comes before every measurement, on the same connections.
	warmUp = 200 * time.Millisecond
	// everyNth request names the second version by header.
	everyNth = 10

	header = "X-Version"
)

// load is how requests come: a closed loop on each connection, or, with a rate, by the clock.
type load struct {
	Connections int
	Rate        float64 // requests a second, all connections together
}

func (l load) String() string {
	if l.Rate > 0 {
		return fmt.Sprintf("%g/s on %d", l.Rate, l.Connections)
	}
	return fmt.Sprintf("%d closed", l.Connections)
}

// target is where requests of a row go, and from where.
type target struct {
	netns   string // path of the client's network namespace
	address string
}

// dial connects as an app in the pod would, on a thread that is thrown away with the namespace that it entered.
func (t target) dial(ctx context.Context) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		ns, err := os.Open(t.netns)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer func() { _ = ns.Close() }()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("enter %s: %w", t.netns, err)}
			return
		}
		d := net.Dialer{Timeout: patience}
		d.SetMultipathTCP(false)
		conn, err := d.DialContext(ctx, "tcp4", t.address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// client is one keep-alive connection with at most one request on it. It is not net/http's, which would cost several
// times what it measures and repeats what failed.
type client struct {
	conn    net.Conn
	answers *bufio.Reader
	sent    int
}

func (t target) connect(ctx context.Context) (*client, error) {
	conn, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, answers: bufio.NewReaderSize(conn, 8<<10)}, nil
}

// ask sends one request and reads its answer into body.
func (c *client) ask(path, version string, body io.Writer) error {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	request := make([]byte, 0, 256)
	request = append(request, "GET "+path+" HTTP/1.1\r\nHost: shop.mesh\r\nUser-Agent: bench\r\nAccept: */*\r\n"...)
	if version != "" {
		request = append(request, header+": "+version+"\r\n"...)
	}
	if _, err := c.conn.Write(append(request, "\r\n"...)); err != nil {
		return err
	}
	res, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(body, res.Body)
	_ = res.Body.Close() // all of it was read
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	return err
}

// next is the request of which load is made: 1 KiB, every tenth by header from the second version.
func (c *client) next() error {
	c.sent++
	version := ""
	if c.sent%everyNth == 0 {
		version = "two"
	}
	return c.ask("/bytes?n=1024", version, io.Discard)
}

// outcome is what a load met.
type outcome struct {
	latencies []time.Duration // of what was answered, sorted
	failed    int
	took      time.Duration
	err       error // the last one
}

func (o *outcome) percentile(p float64) time.Duration {
	if len(o.latencies) == 0 {
		return 0
	}
	return o.latencies[min(int(p*float64(len(o.latencies))), len(o.latencies)-1)]
}

// drive connects, warms up, calls begin, makes the load for d, calls end and hangs up.
func (l load) drive(ctx context.Context, t target, d time.Duration, begin, end func()) (outcome, error) {
	clients := make([]*client, l.Connections)
	for i := range clients {
		c, err := t.connect(ctx)
		if err != nil {
			return outcome{}, fmt.Errorf("connection %d: %w", i+1, err)
		}
		defer func() { _ = c.conn.Close() }()
		clients[i] = c
	}
	if warm := l.run(clients, warmUp); warm.err != nil {
		return warm, fmt.Errorf("warming up: %w", warm.err)
	}
	begin()
	out := l.run(clients, d)
	end()
	return out, nil
}

func (l load) run(clients []*client, d time.Duration) outcome {
	results := make([]outcome, len(clients))
	var numbers atomic.Int64
	began := time.Now()
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			if l.Rate > 0 {
				results[i] = c.byClock(began, d, l.Rate, &numbers)
			} else {
				results[i] = c.closedLoop(began, d)
			}
		})
	}
	wg.Wait()
	all := outcome{took: time.Since(began)}
	for _, r := range results {
		all.latencies = append(all.latencies, r.latencies...)
		all.failed += r.failed
		if r.err != nil {
			all.err = r.err
		}
	}
	slices.Sort(all.latencies)
	return all
}

// closedLoop asks again as soon as it was answered. A failure ends it: the connection's state is unknown.
func (c *client) closedLoop(began time.Time, d time.Duration) (o outcome) {
	for {
		at := time.Now()
		if at.Sub(began) >= d {
			return o
		}
		if err := c.next(); err != nil {
			o.failed, o.err = o.failed+1, err
			return o
		}
		o.latencies = append(o.latencies, time.Since(at))
	}
}

// byClock takes the next request that is due. Its latency counts from when it was due, not from when a connection was
// free for it: what a slow answer delays is part of what a user waits.
func (c *client) byClock(began time.Time, d time.Duration, rate float64, numbers *atomic.Int64) (o outcome) {
	wake, err := newAlarm()
	if err != nil {
		return outcome{failed: 1, err: err}
	}
	defer func() { _ = wake.file.Close() }()
	for {
		due := time.Duration(float64(numbers.Add(1)-1) / rate * float64(time.Second))
		if due >= d {
			return o
		}
		err := wake.sleepUntil(began.Add(due))
		if err == nil {
			err = c.next()
		}
		if err != nil {
			o.failed, o.err = o.failed+1, err
			return o
		}
		o.latencies = append(o.latencies, time.Since(began)-due)
	}
}

// alarm wakes to the microsecond. The Go runtime's own timers may be a whole millisecond late, and a system call that
// sleeps keeps others from running meanwhile; a timerfd_create(2) is one more descriptor for the runtime to wait for.
type alarm struct {
	file *os.File
}

func newAlarm() (alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return alarm{}, fmt.Errorf("create a timer: %w", err)
	}
	return alarm{os.NewFile(uintptr(fd), "timer")}, nil
}

// sleepUntil returns at once if the time is past.
func (a alarm) sleepUntil(at time.Time) error {
	left := time.Until(at)
	if left <= 0 {
		return nil
	}
	if err := a.arm(left); err != nil {
		return fmt.Errorf("set a timer: %w", err)
	}
	_, err := a.file.Read(make([]byte, 8))
	return err
}

func (a alarm) arm(left time.Duration) error {
	raw, err := a.file.SyscallConn()
	if err != nil {
		return err
	}
	err2 := raw.Control(func(fd uintptr) {
		err = unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(left.Nanoseconds())}, nil)
	})
	return errors.Join(err, err2)
}
