package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"time"
)

// bareEnv makes a test's binary serve as the other end of a [Bare]; its value is what the end needs to know.
const bareEnv = "WARREN_E2E_BARE"

// BarePod is a pod without containers: a network namespace on a node, joined to it as the plug-in ptp joins pods, and the
// sample app's HTTP server in it on port 8080. Only what makes containers is left out: starting and ending one costs
// milliseconds.
type BarePod struct {
	UID, Namespace, Name string
	Addrs                []netip.Addr // of the node's ranges, of each family at most one
}

// Bare makes bare pods on one node, by a process there. Its methods may be called concurrently.
type Bare struct {
	client *rpc.Client
	cmd    *exec.Cmd
}

// BareMain is to be called first thing in the main of a binary that calls [Node.StartBare]. In the process that this
// starts it does not return.
func BareMain() {
	if conf := os.Getenv(bareEnv); conf != "" {
		os.Exit(serveBare(conf, stdio{os.Stdin, os.Stdout}))
	}
}

// StartBare starts what makes bare pods on the node. plugin is the type of the CNI plug-in that is told of each, with the
// configuration that it has in the node's chain; it writes its log to the file that BareLog names.
func (n *Node) StartBare(plugin string) (*Bare, error) {
	conf, err := bareConf{Plugin: plugin, Log: n.BareLog(), Ranges: n.pods}.encode()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd, err := n.Command(context.Background(), self)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(cmd.Env, bareEnv+"="+conf)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &Bare{client: rpc.NewClient(stdio{out, in}), cmd: cmd}, nil
}

// BareLog is the file, seen from outside, with a line for each call of the CNI plug-in about bare pods.
func (n *Node) BareLog() string { return n.path("bare-cni.log") }

// Add makes a pod, whose server then serves, and returns how long its plug-in took to let it start. If that refuses,
// nothing is left.
func (b *Bare) Add(p BarePod) (took time.Duration, err error) {
	err = b.client.Call("Bare.Add", p, &took)
	return took, err
}

// Remove ends a pod's server, once it has answered what it was asked, and removes the pod. It returns how many requests
// were answered in the pod's life.
func (b *Bare) Remove(uid string) (answered int, err error) {
	err = b.client.Call("Bare.Remove", uid, &answered)
	return answered, err
}

// Close ends the process, which removes all pods that are left.
func (b *Bare) Close() error {
	if err := b.client.Close(); err != nil && !errors.Is(err, rpc.ErrShutdown) {
		return err
	}
	kill := time.AfterFunc(20*time.Second, func() { _ = b.cmd.Cancel() })
	defer kill.Stop()
	if err := b.cmd.Wait(); err != nil {
		return fmt.Errorf("what makes bare pods: %w", err)
	}
	return nil
}

// stdio is a connection of a pipe for each direction.
type stdio struct {
	io.Reader
	io.WriteCloser
}
