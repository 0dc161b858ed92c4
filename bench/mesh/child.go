package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/warren-mesh/warren/bench/echo"
	"github.com/warren-mesh/warren/bench/load"
)

// Arguments of the copies of this program that are clients and servers. Each ends when its standard input does.
const (
	clientArg = "__client"
	serverArg = "__server"
)

// serverPort is where servers listen, in their pods.
const serverPort = 7000

// childMain is the main of those copies.
func childMain(ctx context.Context, args []string) (handled bool, err error) {
	switch {
	case len(args) == 1 && args[0] == clientArg:
		return true, runJob(ctx, os.Stdin, os.Stdout)
	case len(args) == 2 && args[0] == serverArg:
		return true, runServer(ctx, args[1])
	}
	return false, nil
}

func runServer(ctx context.Context, name string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp4", fmt.Sprintf(":%d", serverPort))
	if err != nil {
		return err
	}
	if _, err := fmt.Println("listening"); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return echo.Serve(ctx, l, name)
}

// child is a copy of this program in a network namespace.
type child struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	errors strings.Builder
}

func startChild(ctx context.Context, netns string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.CommandContext(ctx, self, args...)}
	c.cmd.Stderr = &c.errors
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if c.out, err = c.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := load.In(netns, c.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", args[0], netns, err)
	}
	return c, nil
}

// stop closes its standard input and waits for it.
func (c *child) stop() error {
	_ = c.in.Close()
	err := c.cmd.Wait()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(c.errors.String()))
	}
	return err
}

// startServer returns once it listens.
func startServer(ctx context.Context, netns, name string) (*child, error) {
	c, err := startChild(ctx, netns, serverArg, name)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c.out, make([]byte, len("listening\n"))); err != nil {
		return nil, errors.Join(fmt.Errorf("server of %s: %w", name, err), c.stop())
	}
	return c, nil
}

// runClient has a job done in a network namespace, and calls begin and end around what is measured.
func runClient(ctx context.Context, netns string, j job, begin, end func()) (outcome, error) {
	c, err := startChild(ctx, netns, clientArg)
	if err != nil {
		return outcome{}, err
	}
	o, err := c.converse(j, begin, end)
	if stopErr := c.stop(); err == nil && o.Problem == "" {
		err = stopErr
	}
	switch {
	case ctx.Err() != nil:
		return o, ctx.Err()
	case err != nil:
		return o, fmt.Errorf("client: %w %s", err, strings.TrimSpace(c.errors.String()))
	case o.Problem != "":
		return o, errors.New(o.Problem)
	}
	return o, nil
}

func (c *child) converse(j job, begin, end func()) (o outcome, err error) {
	enc, dec := json.NewEncoder(c.in), json.NewDecoder(c.out)
	if err := enc.Encode(j); err != nil {
		return o, err
	}
	if err := dec.Decode(&o); err != nil || o.Problem != "" || j.Kind == kindCheck {
		return o, err
	}
	begin()
	if err := enc.Encode("go"); err != nil {
		return o, err
	}
	err = dec.Decode(&o)
	end()
	return o, err
}
