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

// flood is streams that move bytes in one direction until they are stopped.
type flood struct {
	moved   atomic.Int64
	halt    atomic.Bool
	conns   []net.Conn
	results chan error // one of each stream
}

// flood starts n streams, to the server or from it.
func (j *job) flood(ctx context.Context, kind string, n int) (*flood, error) {
	f := &flood{results: make(chan error, n)}
	for range n {
		c, err := j.target().Dial(ctx)
		if err != nil {
			f.hangUp()
			return nil, err
		}
		f.conns = append(f.conns, c)
	}
	for _, c := range f.conns {
		go func() {
			if kind == kindUpload {
				f.results <- upload(c, &f.moved, &f.halt)
			} else {
				f.results <- download(c, &f.moved, &f.halt)
			}
		}()
	}
	return f, nil
}

// stop ends the streams, and returns what went wrong in them.
func (f *flood) stop() error {
	f.halt.Store(true)
	var errs error
	for range f.conns {
		errs = errors.Join(errs, <-f.results)
	}
	return errs
}

func (f *flood) hangUp() {
	for _, c := range f.conns {
		_ = c.Close()
	}
}

// stream counts the bytes between two marks, while all streams run.
func (j *job) stream(ctx context.Context, ready begin) (outcome, func(), error) {
	f, err := j.flood(ctx, j.Kind, j.Connections)
	if err != nil {
		return outcome{}, nothing, err
	}
	time.Sleep(seconds(j.Warm)) // buffers on the way fill
	if err := ready(); err != nil {
		return outcome{}, f.hangUp, err
	}
	began, before := time.Now(), f.moved.Load()
	time.Sleep(seconds(j.Seconds))
	o := outcome{Count: f.moved.Load() - before, Seconds: time.Since(began).Seconds()}
	return o, f.hangUp, f.stop()
}

// upload ends by hearing from the server that all of it came.
func upload(conn net.Conn, moved *atomic.Int64, stop *atomic.Bool) error {
	if _, err := conn.Write([]byte{echo.ModeUpload}); err != nil {
		return err
	}
	sent := int64(0)
	for buf := make([]byte, writeSize); !stop.Load(); {
		n, err := patient(conn).Write(buf)
		if err != nil {
			return err
		}
		sent += int64(n)
		moved.Add(int64(n))
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	var total [8]byte
	if _, err := io.ReadFull(patient(conn), total[:]); err != nil {
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
		n, err := patient(conn).Read(buf)
		if err != nil {
			return err
		}
		moved.Add(int64(n))
	}
	return nil
}

// patient has the connection's next step fail if it takes too long.
func patient(conn net.Conn) net.Conn {
	_ = conn.SetDeadline(time.Now().Add(load.Patience)) // what is wrong with the connection the step will say
	return conn
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
	patient(conn)
	for buf := make([]byte, writeSize); moved.Load() < n; {
		got, err := conn.Read(buf)
		if err != nil {
			return err
		}
		moved.Add(int64(got))
	}
	return nil
}
