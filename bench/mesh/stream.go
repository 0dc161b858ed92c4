package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/bench/echo"
	"github.com/warren-mesh/warren/bench/load"
)

const writeSize = 64 << 10

// stream moves bytes in one direction on every connection, and counts those between two marks while all of them run.
func (j *job) stream(ctx context.Context, ready begin) (outcome, func(), error) {
	conns := make([]net.Conn, 0, j.Connections)
	end := func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
	for range j.Connections {
		c, err := j.target().Dial(ctx)
		if err != nil {
			return outcome{}, end, err
		}
		conns = append(conns, c)
	}
	var moved atomic.Int64
	var stop atomic.Bool
	results := make(chan error, len(conns))
	for _, c := range conns {
		go func() {
			if j.Kind == kindUpload {
				results <- upload(c, &moved, &stop)
			} else {
				results <- download(c, &moved, &stop)
			}
		}()
	}
	time.Sleep(seconds(j.Warm)) // buffers on the way fill
	if err := ready(); err != nil {
		return outcome{}, end, err
	}
	began, before := time.Now(), moved.Load()
	time.Sleep(seconds(j.Seconds))
	o := outcome{Count: moved.Load() - before, Seconds: time.Since(began).Seconds()}
	stop.Store(true)
	var errs error
	for range conns {
		errs = errors.Join(errs, <-results)
	}
	return o, end, errs
}

// bulkBeside starts streams to the server that go on beside what is measured, until stop is called.
func (j *job) bulkBeside(ctx context.Context) (stop func() error, err error) {
	var moved atomic.Int64
	var halt atomic.Bool
	results := make(chan error, j.Beside)
	started := 0
	stop = func() error {
		halt.Store(true)
		var errs error
		for range started {
			errs = errors.Join(errs, <-results)
		}
		if started == j.Beside && started > 0 && moved.Load() == 0 {
			errs = errors.Join(errs, errors.New("the streams beside moved nothing"))
		}
		return errs
	}
	for range j.Beside {
		c, err := j.target().Dial(ctx)
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		started++
		go func() {
			defer func() { _ = c.Close() }()
			results <- upload(c, &moved, &halt)
		}()
	}
	return stop, nil
}

// upload ends by hearing from the server that all of it came.
func upload(conn net.Conn, moved *atomic.Int64, stop *atomic.Bool) error {
	if _, err := conn.Write([]byte{echo.ModeUpload}); err != nil {
		return err
	}
	sent := int64(0)
	for buf := make([]byte, writeSize); !stop.Load(); {
		n, err := conn.Write(buf)
		if err != nil {
			return err
		}
		sent += int64(n)
		moved.Add(int64(n))
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(load.Patience)); err != nil {
		return err
	}
	var total [8]byte
	if _, err := io.ReadFull(conn, total[:]); err != nil {
		return fmt.Errorf("wait for the server's word on %d bytes: %w", sent, err)
	}
	if got := int64(binary.BigEndian.Uint64(total[:])); got != sent {
		return fmt.Errorf("%d bytes were sent and %d came", sent, got)
	}
	return nil
}

func download(conn net.Conn, moved *atomic.Int64, stop *atomic.Bool) error {
	if _, err := conn.Write([]byte{echo.ModeDownload}); err != nil {
		return err
	}
	for buf := make([]byte, writeSize); !stop.Load(); {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		moved.Add(int64(n))
	}
	return nil
}

// fetch reads n bytes and hangs up.
func fetch(ctx context.Context, t load.Target, n int64) error {
	conn, err := t.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte{echo.ModeDownload}); err != nil {
		return err
	}
	var moved atomic.Int64
	return readAtLeast(conn, &moved, n)
}

func readAtLeast(conn net.Conn, moved *atomic.Int64, n int64) error {
	if err := conn.SetDeadline(time.Now().Add(load.Patience)); err != nil {
		return err
	}
	for buf := make([]byte, writeSize); moved.Load() < n; {
		got, err := conn.Read(buf)
		if err != nil {
			return err
		}
		moved.Add(int64(got))
	}
	return nil
}
