// Package podnet makes sockets inside pods' network namespaces.
//
// A socket belongs to the namespace of the thread that made it, for life. One thread of the agent's changes its
// namespace; it makes listeners when a pod is enrolled and keeps a small stock of unconnected sockets for each pod,
// so that a connection's path has no setns, no thread of its own and no wait for one.
package podnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrStopped is returned once the thread has ended.
var ErrStopped = errors.New("pod network thread has stopped")

// Thread is the one thread that changes its network namespace.
type Thread struct {
	jobs chan job
	done chan struct{}
}

type job struct {
	netns  int
	do     func() error
	result chan error
}

// NewThread returns a thread that does nothing until Run.
func NewThread() *Thread {
	return &Thread{jobs: make(chan job), done: make(chan struct{})}
}

// Run owns the thread until ctx ends. The thread is not given back: it dies in whatever namespace it is in.
func (t *Thread) Run(ctx context.Context) error {
	defer close(t.done)
	return offMainThread(func() error { return t.run(ctx) })
}

// offMainThread runs f, which never unlocks its thread, on another thread than the process's first: what /proc/self says is
// about that one, and it cannot end alone.
func offMainThread(f func() error) error {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	err := <-done
	runtime.UnlockOSThread()
	return err
}

func (t *Thread) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-t.jobs:
			j.result <- j.run()
		}
	}
}

func (j job) run() error {
	if err := unix.Setns(j.netns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter pod's network namespace: %w", err)
	}
	return j.do()
}

// Do runs f in the namespace and waits for it. A netns that is closed meanwhile stays open until f is done, so that its
// number cannot come to mean another pod's; one that is closed already gives os.ErrClosed.
func (t *Thread) Do(ctx context.Context, netns *os.File, f func() error) error {
	raw, err := netns.SyscallConn()
	if err != nil {
		return fmt.Errorf("enter pod's network namespace: %w", err)
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = t.do(ctx, job{netns: int(fd), do: f, result: make(chan error, 1)}) }); err != nil {
		return fmt.Errorf("enter pod's network namespace: %w", os.ErrClosed) // Control fails for nothing else
	}
	return ferr
}

func (t *Thread) do(ctx context.Context, j job) error {
	select {
	case t.jobs <- j:
	case <-t.done:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-j.result:
		return err
	case <-t.done:
		return ErrStopped
	}
}
