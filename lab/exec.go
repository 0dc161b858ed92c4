package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Stdio is what a command reads and writes; nil means /dev/null.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// execPatience is how long after its end, or after ctx's, a command's output is waited for.
const execPatience = 2 * time.Second

// Exec runs a command in a pod ("namespace/name"), a node ("node/name") or the controller's namespace ("controller")
// and returns its exit code as a shell would: 127 if the command was not found, 126 if it cannot be executed, 128 and
// the signal if one ended it. An error means that it could not be tried, or that ctx ended. A pod's command runs with the
// environment of the pod's first container.
func (l *Lab) Exec(ctx context.Context, target string, argv []string, stdio Stdio) (int, error) {
	if len(argv) == 0 {
		return 0, errors.New("exec: no command")
	}
	c, err := l.inside(target, argv)
	if err != nil {
		return 0, err
	}
	cmd, cgroup, err := c.prepare(ctx, l.paths)
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", target, err)
	}
	defer func() { _ = cgroup.Close() }()
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = stdio.In, stdio.Out, stdio.Err, execPatience
	err = cmd.Run()
	if ctx.Err() != nil {
		return 0, fmt.Errorf("exec in %s: %w", target, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return 0, fmt.Errorf("exec in %s: %w", target, err)
	}
	return 0, nil
}

// inside finds where a target is.
func (l *Lab) inside(target string, argv []string) (command, error) {
	s, err := loadState(l.paths)
	if err != nil {
		return command{}, err
	}
	env := append(daemonEnv(), "TERM="+os.Getenv("TERM"))
	if target == "controller" {
		return command{cgroup: controllerNS, env: env, shim: shimSpec{NetNS: l.paths.netns(controllerNS), Argv: argv}}, nil
	}
	if node, ok := strings.CutPrefix(target, "node/"); ok && s.Plan.node(node) != nil {
		return command{cgroup: nodeNS(node), env: env, shim: shimSpec{NetNS: l.paths.netns(nodeNS(node)), Argv: argv}}, nil
	}
	pod := s.Plan.pod(target)
	if pod == nil || !s.Running[target] {
		return command{}, fmt.Errorf("%s: %w; want namespace/pod, node/name or controller", target, ErrNotFound)
	}
	if env, err = processEnv(pod, &pod.Containers[0], s.BinDir); err != nil {
		return command{}, err
	}
	env = append(env, "TERM="+os.Getenv("TERM"))
	return command{cgroup: pod.id(), env: env, shim: l.paths.podShim(pod, argv)}, nil
}

// Info is what a lab is made of.
type Info struct {
	Name        string
	Dir         string // where its logs, sockets and state are
	WithoutMesh bool
	Nodes       []*Node
	Pods        []*Pod
	Services    []*Service
}

// Info describes the lab as it is now.
func (l *Lab) Info() (Info, error) {
	s, err := loadState(l.paths)
	if err != nil {
		return Info{}, err
	}
	return Info{
		Name: s.Name, Dir: l.paths.dir(), WithoutMesh: s.WithoutMesh,
		Nodes: s.Plan.Nodes, Pods: s.Plan.Pods, Services: s.Plan.Services,
	}, nil
}

// Pod describes one pod, "namespace/name". Returns ErrNotFound if there is none.
func (l *Lab) Pod(fullName string) (*Pod, error) {
	s, err := loadState(l.paths)
	if err != nil {
		return nil, err
	}
	pod := s.Plan.pod(fullName)
	if pod == nil {
		return nil, fmt.Errorf("pod %s: %w", fullName, ErrNotFound)
	}
	return pod, nil
}

// PodNetNS is the path of a pod's network namespace. Returns ErrNotFound if there is no such pod.
func (l *Lab) PodNetNS(fullName string) (string, error) {
	pod, err := l.Pod(fullName)
	if err != nil {
		return "", err
	}
	return l.paths.netns(pod.netns()), nil
}

// PodAddrs are a pod's addresses, primary ones first. Returns ErrNotFound if there is no such pod.
func (l *Lab) PodAddrs(fullName string) ([]netip.Addr, error) {
	pod, err := l.Pod(fullName)
	if err != nil {
		return nil, err
	}
	return slices.Clone(pod.Addrs), nil
}

// PodProcesses are the processes that a pod's containers were started as. Returns ErrNotFound if there is no such pod.
func (l *Lab) PodProcesses(fullName string) ([]Process, error) {
	s, err := loadState(l.paths)
	if err != nil {
		return nil, err
	}
	if s.Plan.pod(fullName) == nil {
		return nil, fmt.Errorf("pod %s: %w", fullName, ErrNotFound)
	}
	return s.Processes[fullName], nil
}

// AgentProcesses are the processes that a node's agent was started as. Returns ErrNotFound if there is no such node.
func (l *Lab) AgentProcesses(node string) ([]Process, error) {
	s, err := loadState(l.paths)
	if err != nil {
		return nil, err
	}
	if s.Plan.node(node) == nil {
		return nil, fmt.Errorf("agent of node %s: %w", node, ErrNotFound)
	}
	return s.Processes[agentProcess(node)], nil
}

// ControllerSocket is the path of the controller's admin socket.
func (l *Lab) ControllerSocket() string { return l.paths.controllerSocket() }

// AgentSocket is the path of a node's agent's admin socket.
func (l *Lab) AgentSocket(node string) string { return l.paths.agentSocket(node) }

// NodeNetNS is the path of a node's network namespace.
func (l *Lab) NodeNetNS(node string) string { return l.paths.netns(nodeNS(node)) }

// LogFile is where a process's output is: "<namespace>_<pod>", "agent-<node>", "controller" or "dns".
func (l *Lab) LogFile(name string) string { return l.paths.log(name) }
