package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"strings"

	"github.com/warren-mesh/warren/internal/cluster"
)

// Where the daemons listen unless told otherwise.
const (
	labDir           = "/run/warren-lab"
	controllerSocket = "/run/warren/controller.sock"
	agentSocket      = "/run/warren/agent.sock"
)

// errNoSocket is what a search that found nobody wraps.
var errNoSocket = errors.New("no socket")

// endpoint is somebody who accepted a connection. The connection is used for the first requests.
type endpoint struct {
	// path is the socket's, or says in words who it is.
	path   string
	conn   net.Conn
	redial func(context.Context) (net.Conn, error)
}

// socketAt connects to a unix socket.
func (a *app) socketAt(ctx context.Context, path string) (endpoint, error) {
	redial := func(ctx context.Context) (net.Conn, error) { return a.dial(ctx, path) }
	conn, err := redial(ctx)
	return endpoint{path, conn, redial}, err
}

// find connects to whom the flags, the environment or the search order name. Returns errNoSocket if nobody listens.
func (a *app) find(ctx context.Context) (endpoint, error) {
	switch {
	case a.socket != "" && a.lab != "":
		return endpoint{}, usagef("give one of them", "--socket and --lab exclude each other")
	case a.kube.named() && (a.socket != "" || a.lab != ""):
		return endpoint{}, usagef("give one of them", "a cluster (--kubeconfig, --context) and --socket or --lab exclude each other")
	case a.socket != "":
		return a.only(ctx, a.socket, "--socket")
	case a.lab != "":
		return a.findLab(ctx, a.lab)
	case a.kube.named():
		return a.findLeader(ctx)
	case a.getenv("WARREN_SOCKET") != "":
		return a.only(ctx, a.getenv("WARREN_SOCKET"), "$WARREN_SOCKET")
	}
	return a.search(ctx)
}

// only connects to a socket that was named; from says by what.
func (a *app) only(ctx context.Context, socket, from string) (endpoint, error) {
	found, err := a.socketAt(ctx, socket)
	if err == nil {
		return found, nil
	}
	return endpoint{}, &failure{
		text: fmt.Sprintf("nobody answers at %s (from %s): %s", socket, from, dialReason(err)),
		hint: dialHint(err), err: errNoSocket,
	}
}

func (a *app) findLab(ctx context.Context, name string) (endpoint, error) {
	socket := path.Join(labDir, name, "controller.sock")
	if strings.ContainsAny(name, "/") || name == ".." {
		return endpoint{}, usagef("see: agentctl lab ls", "%q is not the name of a lab", name)
	}
	found, err := a.socketAt(ctx, socket)
	if err == nil {
		return found, nil
	}
	hint := "start one: agentctl lab up"
	if names := a.labNames(); len(names) > 0 {
		hint = "labs on this machine: " + strings.Join(names, ", ")
	}
	return endpoint{}, &failure{
		text: fmt.Sprintf("lab %q does not answer at %s: %s", name, socket, dialReason(err)),
		hint: hint, err: errNoSocket,
	}
}

// search tries the running labs, then the machine's controller, then its agent, then the cluster of the kubeconfig.
func (a *app) search(ctx context.Context) (endpoint, error) {
	running, err := a.runningLab(ctx)
	if err != nil || running.conn != nil {
		return running, err
	}
	var tried []string
	var denied error
	for _, socket := range []string{controllerSocket, agentSocket} {
		found, err := a.socketAt(ctx, socket)
		if err == nil {
			return found, nil
		}
		tried = append(tried, fmt.Sprintf("%s (%s)", socket, dialReason(err)))
		if errors.Is(err, fs.ErrPermission) {
			denied = err
		}
	}
	found, err := a.findLeader(ctx)
	if !errors.Is(err, cluster.ErrNoKubeconfig) {
		return found, err
	}
	hint := "for a cluster: --kubeconfig FILE; for this machine: agentctl lab up, or --socket PATH or $WARREN_SOCKET"
	if denied != nil {
		hint = dialHint(denied)
	}
	return endpoint{}, &failure{
		text: fmt.Sprintf("found no controller or agent to ask: no lab runs, there is no kubeconfig, and tried %s", strings.Join(tried, ", ")),
		hint: hint, err: errNoSocket,
	}
}

// runningLab connects to the only lab whose controller listens. No lab is not an error; two are.
func (a *app) runningLab(ctx context.Context) (endpoint, error) {
	var found []endpoint
	var names []string
	for _, name := range a.labNames() {
		socket := path.Join(labDir, name, "controller.sock")
		if one, err := a.socketAt(ctx, socket); err == nil {
			found, names = append(found, one), append(names, name)
		}
	}
	switch len(found) {
	case 0:
		return endpoint{}, nil
	case 1:
		return found[0], nil
	}
	for _, e := range found {
		e.conn.Close()
	}
	return endpoint{}, usagef("pick one: agentctl --lab "+names[0]+" …",
		"%d labs run on this machine: %s", len(names), strings.Join(names, ", "))
}

// labNames lists the labs that have a controller's socket, running or left behind.
func (a *app) labNames() []string {
	sockets, _ := fs.Glob(a.root, path.Join(labDir[1:], "*", "controller.sock"))
	names := make([]string, 0, len(sockets))
	for _, s := range sockets {
		names = append(names, path.Base(path.Dir(s)))
	}
	return names
}

// dialReason is the last and telling part of a dial error: "no such file or directory".
func dialReason(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err.Error()
}

func dialHint(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "only root may ask: use sudo"
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "is the path right, and has the controller or agent been started?"
	}
	return "the socket is there but its owner is gone: restart the controller or agent"
}
