package scene

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/warren-mesh/warren/bench/echo"
	"github.com/warren-mesh/warren/bench/load"
)

// serverArg is the first argument of the copies of the running program that are servers.
const serverArg = "__bench-server"

// ServerMain is for the top of main: if the arguments are a server's, it serves until standard input ends.
func ServerMain(ctx context.Context, args []string) (handled bool, err error) {
	if len(args) != 3 || args[0] != serverArg {
		return false, nil
	}
	port, err := strconv.ParseUint(args[2], 10, 16)
	if err != nil {
		return true, err
	}
	return true, runServer(ctx, args[1], uint16(port))
}

func runServer(ctx context.Context, name string, port uint16) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp4", fmt.Sprintf(":%d", port))
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

// Child is a copy of this program in a network namespace.
type Child struct {
	cmd    *exec.Cmd
	In     io.WriteCloser
	Out    io.ReadCloser
	errors strings.Builder

	interrupted func() error
}

// Start starts one. It ends when its standard input does, so it does not outlive this process.
func Start(ctx context.Context, netns string, args ...string) (*Child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &Child{cmd: exec.CommandContext(ctx, self, args...), interrupted: ctx.Err}
	c.cmd.Stderr = &c.errors
	if c.In, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if c.Out, err = c.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := load.In(netns, c.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", args[0], netns, err)
	}
	return c, nil
}

// Stop closes its standard input and waits for it. How one ends that was interrupted together with this process is no error.
func (c *Child) Stop() error {
	_ = c.In.Close()
	err := c.cmd.Wait()
	if c.interrupted() != nil {
		return nil
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(c.errors.String()))
	}
	return err
}

// Errors are what it wrote to standard error. Only after Stop.
func (c *Child) Errors() string { return strings.TrimSpace(c.errors.String()) }

// Serve starts a server of package echo in a pod, and returns once it listens. It has a cgroup in common with this process,
// not with what else is in the pod.
func (s *Scene) Serve(ctx context.Context, pod, name string, port uint16) (*Child, error) {
	ns, err := s.Lab.PodNetNS(pod)
	if err != nil {
		return nil, err
	}
	c, err := Start(ctx, ns, serverArg, name, strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c.Out, make([]byte, len("listening\n"))); err != nil {
		return nil, errors.Join(fmt.Errorf("server of %s: %w", name, err), c.Stop())
	}
	return c, nil
}
