package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/warren-mesh/warren/bench/echo"
	"github.com/warren-mesh/warren/bench/load"
)

// callsPerConnection is how many gRPC calls share an HTTP/2 connection.
const callsPerConnection = 4

// ask connects, warms up, makes the load and hangs up.
func (j *job) ask(ctx context.Context, ready begin) (o outcome, end func(), err error) {
	bulk, err := j.flood(ctx, kindUpload, j.Beside)
	if err != nil {
		return outcome{}, nothing, err
	}
	defer func() {
		err = errors.Join(err, bulk.stop())
		if err == nil && j.Beside > 0 && bulk.moved.Load() == 0 {
			err = errors.New("the streams beside moved nothing")
		}
	}()
	var closers []io.Closer
	end = func() {
		bulk.hangUp()
		for _, c := range closers {
			_ = c.Close()
		}
	}
	askers := make([]load.Asker, j.Connections)
	var calls echo.Client
	for i := range askers {
		var err error
		var c io.Closer
		if j.Kind != kindGRPC {
			askers[i], c, err = j.asker(ctx)
		} else if i%callsPerConnection == 0 {
			calls, err = echo.NewClient(j.target().Dial)
			c = calls
		}
		if err != nil {
			return outcome{}, end, fmt.Errorf("connection %d: %w", i+1, err)
		}
		if c != nil {
			closers = append(closers, c)
		}
		if j.Kind == kindGRPC {
			askers[i] = caller(calls, j.Size)
		}
	}
	if warm := j.load().Run(askers, seconds(j.Warm)); warm.Err != nil {
		return outcome{}, end, fmt.Errorf("warming up: %w", warm.Err)
	}
	if err := ready(); err != nil {
		return outcome{}, end, err
	}
	o, err = outcomeOf(j.load().Run(askers, seconds(j.Seconds)))
	return o, end, err
}

func caller(c echo.Client, size int) load.Asker {
	return func() error {
		_, err := c.Ask(size)
		return err
	}
}

// asker is a connection on which messages, or HTTP requests, are answered.
func (j *job) asker(ctx context.Context) (load.Asker, io.Closer, error) {
	conn, err := j.target().Dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	if j.Kind == kindHTTP {
		c, path := load.NewHTTP(conn, "bench.mesh"), fmt.Sprintf("/bytes?n=%d", j.Size)
		return func() error { return c.Get(path, "", io.Discard) }, conn, nil
	}
	ask, err := messages(conn, j.Size)
	if err != nil {
		_ = conn.Close()
	}
	return ask, conn, err
}

// messages asks by sending one and reading it back.
func messages(conn net.Conn, size int) (load.Asker, error) {
	if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte{echo.ModeEcho}, uint32(size))); err != nil {
		return nil, err
	}
	buf, sent := make([]byte, size), uint64(0)
	return func() error {
		if err := conn.SetDeadline(time.Now().Add(load.Patience)); err != nil {
			return err
		}
		sent++
		binary.BigEndian.PutUint64(buf, sent)
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, buf); err != nil {
			return err
		}
		if binary.BigEndian.Uint64(buf) != sent {
			return errors.New("another message came back than was sent")
		}
		return nil
	}, nil
}
