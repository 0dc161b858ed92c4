// Package profile hands out a process's own CPU and heap profiles, for go tool pprof, on a unix socket that only root, or
// who runs the process, is answered on. A process has one only if it was told a folder for it: it is for whoever looks
// into a cost, not for operating a mesh.
//
// A client sends one line, "cpu <duration>" or "heap", and reads the profile until the end; a line that begins with
// "error: " is none:
//
//	echo cpu 10s | socat - UNIX:<folder>/<pid>.sock >cpu.pprof
package profile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxDuration  = 10 * time.Minute
	linePatience = 5 * time.Second
	maxLine      = 64
	maxProfile   = 64 << 20
	failed       = "error: "
)

// Socket is where the process with a pid serves.
func Socket(dir string, pid int) string { return filepath.Join(dir, fmt.Sprintf("%d.sock", pid)) }

// Serve begins to serve this process's profiles in a folder; an empty one serves nothing. The caller must call stop, which
// waits until nobody is answered any more.
func Serve(dir string) (stop func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the profiles' directory: %w", err)
	}
	path := Socket(dir, os.Getpid())
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove dead socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("serve profiles: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect the profiles' socket: %w", err), l.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { accept(ctx, l, &wg) })
	return func() {
		cancel()
		_ = l.Close()
		wg.Wait()
	}, nil
}

func accept(ctx context.Context, l *net.UnixListener, wg *sync.WaitGroup) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		if !allowed(c) {
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { _ = c.Close() }()
			defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })() // who stops waits for no client
			if err := answer(ctx, c); err != nil {
				_, _ = fmt.Fprintf(c, "%s%v\n", failed, err)
			}
		})
	}
}

// allowed asks the kernel who the peer is: the mode of a socket's file can be changed by mistake.
func allowed(c *net.UnixConn) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	ctlErr := rc.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return ctlErr == nil && err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
}

// answer writes a profile only once it is whole.
func answer(ctx context.Context, c net.Conn) error {
	if err := c.SetReadDeadline(time.Now().Add(linePatience)); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(c, maxLine)).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read what is wanted: %w", err)
	}
	var out bytes.Buffer
	what, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch what {
	case "cpu":
		err = cpu(ctx, &out, arg)
	case "heap":
		runtime.GC() // so that it is of now
		err = pprof.WriteHeapProfile(&out)
	default:
		err = fmt.Errorf("%q: want cpu <duration> or heap", what)
	}
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(time.Now().Add(linePatience)); err != nil {
		return err
	}
	_, err = c.Write(out.Bytes())
	return err
}

func cpu(ctx context.Context, out io.Writer, duration string) error {
	d, err := time.ParseDuration(duration)
	if err != nil || d <= 0 || d > maxDuration {
		return fmt.Errorf("%q: want a duration of at most %s", duration, maxDuration)
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Fetch asks a process for a profile: "cpu <duration>" or "heap".
func Fetch(ctx context.Context, dir string, pid int, what string) ([]byte, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", Socket(dir, pid))
	if err != nil {
		return nil, fmt.Errorf("ask process %d for a profile: %w", pid, err)
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	defer func() { _ = c.Close() }()
	if _, err := fmt.Fprintln(c, what); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(c, maxProfile))
	if err != nil {
		return nil, fmt.Errorf("read the profile of process %d: %w", pid, err)
	}
	if len(text) == 0 {
		return nil, fmt.Errorf("process %d hung up without a profile", pid)
	}
	if reason, no := strings.CutPrefix(string(text), failed); no {
		return nil, fmt.Errorf("process %d gives no profile: %s", pid, strings.TrimSpace(reason))
	}
	return text, nil
}
