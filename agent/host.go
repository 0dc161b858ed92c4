package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/warren-mesh/warren/agent/kubelet"
	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/cni/cnichain"
	"github.com/warren-mesh/warren/cni/netconf"
)

// CNI says where a Kubernetes node's CNI chain is, as the agent sees it. Without ConfDir there is none.
type CNI struct {
	ConfDir, BinDir string
	// Plugin is the plug-in's file that comes with the agent.
	Plugin string
	// ExemptNamespaces start pods without the mesh's leave: what the mesh itself needs to come up.
	ExemptNamespaces []string
}

// host is what the agent looks after on its node beside pods: the CNI chain, and who the kubelet is.
type host struct {
	chain *cnichain.Chain // nil without a chain

	mu      sync.Mutex
	kubelet error // why nobody is taken for the kubelet, nil if somebody is
}

func newHost(cfg Config) (*host, error) {
	h := &host{}
	if cfg.CNI.ConfDir == "" {
		return h, nil
	}
	var err error
	h.chain, err = cnichain.New(cnichain.Config{
		ConfDir: cfg.CNI.ConfDir, BinDir: cfg.CNI.BinDir, Plugin: cfg.CNI.Plugin,
		Conf: netconf.Conf{Socket: cfg.Socket, ExemptNamespaces: cfg.CNI.ExemptNamespaces}, Log: cfg.Log,
	})
	return h, err
}

// keepChain keeps the plug-in in the CNI chain while there is a mesh, and takes it out while the mesh leaves. When the
// agent stops it stays: a pod that starts without an agent would start outside the mesh.
func (a *Agent) keepChain(ctx context.Context) error {
	if a.host.chain == nil {
		return nil
	}
	for ctx.Err() == nil {
		if a.leaving() {
			if err := a.host.chain.Remove(); err != nil {
				a.cfg.Log.Error("the plug-in stays in the CNI chain: it is tried again", "err", err)
			}
			a.waitLeaving(ctx, false, 10*time.Second)
			continue
		}
		if err := a.runChain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// runChain keeps the plug-in in the chain until the mesh leaves or ctx ends.
func (a *Agent) runChain(ctx context.Context) error {
	cctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		a.waitLeaving(cctx, true, 0)
		stop()
	}()
	return a.host.chain.Run(cctx)
}

// leaving tells whether the mesh is being taken away.
func (a *Agent) leaving() bool { return a.world.Load().Mesh.Leaving() }

// waitLeaving waits until leaving is as wanted, ctx ends, or timeout passes if it is not 0.
func (a *Agent) waitLeaving(ctx context.Context, want bool, timeout time.Duration) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	for {
		changed := a.world.Changed()
		if a.leaving() == want {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// followKubelet tells the kernel who the kubelet is, so that its probes reach pods' apps.
func (a *Agent) followKubelet(ctx context.Context) error {
	if a.cfg.ProcDir == "" {
		return nil
	}
	finder := kubelet.Finder{Proc: a.cfg.ProcDir, Names: a.cfg.KubeletNames}
	return finder.Run(ctx, func(p kubelet.Process, err error) {
		if err == nil {
			err = a.capture.SetKubelet(p.ID)
		} else {
			err = errors.Join(err, a.capture.ForgetKubelet())
		}
		if err != nil {
			a.cfg.Log.Warn("nobody is taken for the kubelet: its probes are connections like any", "err", err)
		} else {
			a.cfg.Log.Info("the kubelet's probes pass", "pid", p.ID.Pid, "exe", p.Exe)
		}
		a.host.mu.Lock()
		a.host.kubelet = err
		a.host.mu.Unlock()
	})
}

// wantSpeed counts the node's pods that ask for acceleration.
func (a *Agent) wantSpeed() (n int) {
	for _, w := range a.world.Load().Mesh.Workloads() {
		if w.Node == a.cfg.Node && w.Accelerate {
			n++
		}
	}
	return n
}

// hostProblems are the host's, for status.
func (a *Agent) hostProblems() (out []*adminv1.Problem) {
	add := func(severity adminv1.Problem_Severity, subject, text, hint string) {
		out = append(out, &adminv1.Problem{Severity: severity, Node: a.cfg.Node, Subject: subject, Text: text, Hint: hint})
	}
	if a.host.chain != nil && !a.leaving() {
		switch st := a.host.chain.Status(); st.State {
		case cnichain.Failed:
			add(adminv1.Problem_ERROR, "CNI chain", st.Text, "pods that start now may start outside the mesh until they are found running; see the agent's log")
		case cnichain.Waiting:
			add(adminv1.Problem_WARNING, "CNI chain", st.Text, "install a CNI plug-in on the node; ours goes after it")
		}
	}
	if text := othersText(a.others()); text != "" {
		add(adminv1.Problem_WARNING, "cgroup hooks", text, "one that runs first may put another address in place of a service's, whose rules are then lost; "+
			"find its owner on the node: bpftool cgroup show /sys/fs/cgroup")
	}
	if why := a.capture.Accelerates(); why != nil {
		if n := a.wantSpeed(); n > 0 {
			add(adminv1.Problem_WARNING, "acceleration", fmt.Sprintf("%d pods ask for it: %v", n, why), "their connections go the usual way; a newer kernel, or take the annotation away")
		}
	}
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	if a.host.kubelet != nil {
		add(adminv1.Problem_WARNING, "kubelet", a.host.kubelet.Error(), "probes of pods under STRICT fail until the kubelet is found")
	}
	for _, pod := range a.enroller.Lost() {
		add(adminv1.Problem_ERROR, "pod "+pod.FullName(), "it should be in the mesh and its network namespace was not found on this node: it is not captured",
			"restart the pod; if that does not help, see the agent's log")
	}
	return out
}

// clearNode removes what an agent leaves on its node on purpose: pins, by which pods stay captured, and its state.
func clearNode(cfg Config) error {
	return errors.Join(bpf.Remove(cfg.PinDir), os.RemoveAll(cfg.StateDir))
}

// Cleanup removes everything that agents leave on a node: the plug-in, every pod's capture, state. For a node where no
// agent runs any more.
func Cleanup(cfg Config) error {
	h, err := newHost(cfg)
	if err != nil {
		return err
	}
	if h.chain != nil {
		err = h.chain.Remove()
	}
	if err = errors.Join(err, clearNode(cfg)); err != nil {
		return fmt.Errorf("clean up the node: %w", err)
	}
	return nil
}
