// Package cni is the plug-in that a container runtime runs for every pod that starts or ends, after the plug-ins that
// make the pod's network. It tells the node's agent about the pod and lets it start once the agent has captured it,
// or knows that it is not in the mesh: so no packet of an enrolled pod, nor of its init containers, escapes. The
// plug-in itself touches neither the pod nor its network; the result of the plug-ins before it goes through
// unchanged.
//
// # When nobody can be asked
//
// A node boots like this. The runtime comes first and finds the chain of before the reboot, ours in it. The agent is
// a pod of the host's network, for which no plug-in runs, so the kubelet starts it whatever the chain says. Until it
// answers, and then until the controller answered it, nobody knows about new pods, and the configuration decides:
//
//   - agentAbsent "deny", the default: the start fails with a reason, the kubelet tries again, and the pod starts when
//     the agent is up. A pod of the mesh never runs outside it.
//   - agentAbsent "allow": the pod starts uncaptured. It is captured when the agent finds it.
//   - Pods of exemptNamespaces, which are told to the agent all the same, start in either case: cluster DNS and the
//     controller, which the agent needs before it can answer for anybody, would else wait for the agent, and it for them.
//     Their first packets may escape; so a namespace whose pods are in the mesh does not belong there.
//
// "Nobody" is an agent that cannot be reached, does not answer in time, or says that the controller has not told it
// about the pod. Any other error is an answer: the pod cannot be captured, and starts only in an exempt namespace.
//
// STATUS does not ask the agent: a runtime makes the whole node not ready if it fails, which keeps away the very pods
// above, and ends the others after minutes. GC has nothing to do: it names containers, of which the agent knows none.
//
// Every call is a process of its own with its own connection and its own bound of time; nothing is shared or locked,
// so one pod's call never waits for another's.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/cni/netconf"
)

const (
	// addWait is a little more than an agent takes to say that it could not capture a pod.
	addWait = 12 * time.Second
	// restartWait is how long ADD keeps looking for an agent that is not there: it may be restarting.
	restartWait = 3 * time.Second
	// shortWait bounds a call whose outcome does not decide whether the pod may start or end.
	shortWait = 2 * time.Second
)

// Plugin answers the runtime.
type Plugin struct {
	// Out takes the result: the standard output, on which nothing else may appear.
	Out io.Writer
}

// Funcs are the plug-in's commands.
func (p Plugin) Funcs() skel.CNIFuncs {
	return skel.CNIFuncs{
		Add:   p.logged("ADD", p.add),
		Check: p.logged("CHECK", p.check),
		Del: func(args *skel.CmdArgs) error {
			_ = p.logged("DEL", p.del)(args) // even with a configuration that somebody broke, a pod can go
			return nil
		},
		Status: func(args *skel.CmdArgs) error { _, err := parse(args.StdinData); return err },
	}
}

// Versions are the versions of the specification that it speaks.
func (p Plugin) Versions() version.PluginInfo { return version.PluginSupports(netconf.Supported()...) }

// request is one call, read and checked.
type request struct {
	conf   netconf.Conf
	prev   json.RawMessage // the result of the plug-in before
	format string          // the version of the specification that the runtime speaks
	pod    pod
	podErr error // why pod is not one that an agent can be asked about
	netns  string
}

// parse reads the configuration that the runtime passes.
func parse(stdin []byte) (*request, error) {
	conf, err := netconf.Parse(stdin)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, err.Error(),
			"The agent writes this configuration: agentctl status says whether it can")
	}
	var given struct {
		CNIVersion string          `json:"cniVersion"`
		PrevResult json.RawMessage `json:"prevResult"`
	}
	if err := json.Unmarshal(stdin, &given); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "configuration: "+err.Error(), "")
	}
	return &request{conf: conf, prev: given.PrevResult, format: given.CNIVersion}, nil
}

// add tells the agent about a pod and waits for its word.
func (p Plugin) add(r *request) (note string, err error) {
	result, err := r.result()
	if err != nil {
		return "", err
	}
	exempt := r.conf.Exempt(r.pod.namespace)
	if r.podErr != nil && !exempt {
		return "", types.NewError(types.ErrInvalidEnvironmentVariables, r.podErr.Error(), "")
	}
	if r.podErr != nil {
		note = r.podErr.Error()
	} else if note, err = r.ask(exempt); err != nil {
		return "", err
	}
	if _, err := p.Out.Write(result); err != nil {
		return "", types.NewError(types.ErrIOFailure, "write the result: "+err.Error(), "")
	}
	return note, nil
}

// ask returns what came of asking the agent, or why the pod may not start.
func (r *request) ask(exempt bool) (note string, err error) {
	wait, patience := addWait, restartWait
	if exempt {
		wait, patience = shortWait, 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	state, err := agent{socket: r.conf.Socket, patience: patience}.add(ctx, r.pod, r.netns)
	switch {
	case err == nil:
		return state, nil
	case exempt:
		return "exempt, started without the agent's word: " + err.Error(), nil
	case r.conf.AgentAbsent == netconf.Allow && nobodyKnows(err):
		return "allowed without the agent's word: " + err.Error(), nil
	}
	return "", r.refusal(err)
}

// nobodyKnows tells an agent that has no answer about a pod from one that has a bad one.
func nobodyKnows(err error) bool {
	return errors.Is(err, errSilent) || status.Code(err) == codes.NotFound
}

// refusal is what the pod's event says.
func (r *request) refusal(err error) error {
	switch {
	case errors.Is(err, errSilent):
		return types.NewError(types.ErrTryAgainLater,
			fmt.Sprintf("pod %s is not started, so that it does not run outside the mesh: asking the Warren agent of "+
				"this node: %v", r.pod, err),
			"The kubelet tries again. If it stays so: kubectl -n warren-system get pods -o wide. If Warren is no longer "+
				"installed, take warren-cni out of the files in this node's CNI configuration (/etc/cni/net.d)")
	case status.Code(err) == codes.NotFound:
		return types.NewError(types.ErrTryAgainLater,
			fmt.Sprintf("pod %s is not started, because nobody knows yet whether it is in the mesh: the Warren agent "+
				"of this node says: %s", r.pod, said(err)),
			"The kubelet tries again. If it stays so: kubectl -n warren-system get pods -o wide, and agentctl status")
	}
	return types.NewError(types.ErrTryAgainLater,
		fmt.Sprintf("pod %s is not started, because the Warren agent of this node could not capture it. It says: %s",
			r.pod, said(err)),
		"The kubelet tries again. If it stays so: agentctl status")
}

// check fails if the agent has not captured a pod that is in the mesh. It changes nothing.
func (p Plugin) check(r *request) (note string, err error) {
	if _, err := r.result(); err != nil {
		return "", err
	}
	exempt := r.conf.Exempt(r.pod.namespace)
	if r.podErr != nil {
		if exempt {
			return r.podErr.Error(), nil
		}
		return "", types.NewError(types.ErrInvalidEnvironmentVariables, r.podErr.Error(), "")
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortWait)
	defer cancel()
	state, reason, err := agent{socket: r.conf.Socket}.state(ctx, r.pod)
	switch {
	case err != nil && errors.Is(err, errSilent) && (exempt || r.conf.AgentAbsent == netconf.Allow):
		return "not checked: " + err.Error(), nil
	case err != nil:
		return "", types.NewError(types.ErrTryAgainLater, fmt.Sprintf("pod %s cannot be checked with the Warren agent of this "+
			"node: %s", r.pod, described(err)), "See kubectl -n warren-system get pods -o wide")
	case state == "enrolled" || state == "unmanaged":
		return state, nil
	case exempt && state == "unknown":
		return "the agent does not know it", nil
	}
	return "", types.NewError(types.ErrInternal, fmt.Sprintf("pod %s is not captured: the Warren agent of this node has "+
		"it as %s %s", r.pod, state, reason), "See agentctl status; a pod that is started anew is captured before it runs")
}

// del tells the agent that a pod goes. It never fails: a pod must be able to go whatever state the mesh is in.
//
// A runtime repeats DEL for a sandbox that is long gone, without a network namespace, even when the same pod runs in
// a new sandbox already. Only a DEL that names a namespace is about the pod that the agent knows: the rest is not
// told.
func (p Plugin) del(r *request) (note string, err error) {
	if r.podErr != nil {
		return r.podErr.Error(), nil
	}
	if r.netns == "" {
		return "its network namespace is gone already: nothing to tell the agent", nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortWait)
	defer cancel()
	if err := (agent{socket: r.conf.Socket}).remove(ctx, r.pod, r.netns); err != nil {
		return "the agent was not told: " + err.Error(), nil
	}
	return "forgotten", nil
}

// result is the output: what the plug-in before gave, to the byte.
func (r *request) result() ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(r.prev, &fields); err != nil || fields == nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "there is no result of a plug-in before warren-cni: it must "+
			"come after the plug-in that makes the pod's network", "The agent repairs the chain: see agentctl status")
	}
	if _, ok := fields["cniVersion"]; ok {
		return r.prev, nil
	}
	fields["cniVersion"], _ = json.Marshal(r.format)
	return json.Marshal(fields)
}
