package lab

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// KillAgent sends a signal to a node's agent. After SIGKILL, SIGTERM and SIGINT it waits until the agent has ended.
// Returns ErrNotFound if there is no such node or its agent does not run.
func (l *Lab) KillAgent(node string, sig syscall.Signal) error {
	return l.change(func(r *run) error { return r.kill(agentProcess(node), sig) })
}

// KillController is KillAgent for the controller.
func (l *Lab) KillController(sig syscall.Signal) error {
	return l.change(func(r *run) error { return r.kill(controllerProcess, sig) })
}

// StartAgent starts a node's agent again, with the state it left behind, and waits until it answers. It tells the
// agent nothing about pods: like a real one, it must know.
// Returns ErrNotFound if there is no such node and ErrExists if its agent runs.
func (l *Lab) StartAgent(ctx context.Context, node string) error {
	return l.change(func(r *run) error {
		if r.state.Plan.node(node) == nil || r.state.WithoutMesh {
			return fmt.Errorf("agent of node %s: %w", node, ErrNotFound)
		}
		if r.alive(agentProcess(node)) {
			return fmt.Errorf("agent of node %s: %w", node, ErrExists)
		}
		delete(r.state.Processes, agentProcess(node))
		return r.startAgent(ctx, node)
	})
}

// StartController starts the controller again, with the state it left behind, and waits until it answers.
// Returns ErrExists if it runs.
func (l *Lab) StartController(ctx context.Context) error {
	return l.change(func(r *run) error {
		if r.state.WithoutMesh {
			return fmt.Errorf("controller: %w", ErrNotFound)
		}
		if r.alive(controllerProcess) {
			return fmt.Errorf("controller: %w", ErrExists)
		}
		delete(r.state.Processes, controllerProcess)
		return r.startController(ctx)
	})
}

func (r *run) kill(key string, sig syscall.Signal) error {
	if !r.alive(key) {
		return fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	procs := r.state.Processes[key]
	proc := procs[len(procs)-1]
	if err := proc.signal(sig); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	switch sig {
	case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT:
		if !proc.await(meshPatience) {
			return fmt.Errorf("%s: pid %d still runs %s after %s", key, proc.PID, meshPatience, sig)
		}
	}
	return nil
}
