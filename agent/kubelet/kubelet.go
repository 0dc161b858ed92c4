// Package kubelet finds this node's kubelet among the node's processes and follows it, so that the kernel can tell its
// probes from all other connections (bpf.Capture.SetKubelet).
//
// The kubelet is the process that has the listening socket of the kubelet's port in the node's network namespace. Its name
// and its port are no proof: both are free to take while it is down. So it must also be what no pod can be: root, in the
// node's own pid namespace, and in no pod's cgroup. Whoever is that without being the kubelet has the node anyway. If
// anything does not fit, nobody is the kubelet.
//
// The agent need not share the node's pid namespace, only see its /proc; but it must be in its network namespace.
// Formats: proc(5), pid_namespaces(7).
package kubelet

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/bpf"
)

// ErrNotListening is returned by Find while nothing listens on the kubelet's port.
var ErrNotListening = errors.New("nothing listens on the kubelet's port")

// Process is a kubelet.
type Process struct {
	// ID is what the kernel knows it by. Its pid is that of Finder.Proc.
	ID bpf.Kubelet
	// Exe is the path of its program, for people.
	Exe string
}

// Finder looks for the kubelet. The zero value of a field is its default.
type Finder struct {
	// Proc is the node's /proc; default /proc.
	Proc string
	// Port is where the kubelet serves its API; default 10250.
	Port uint16
	// Names are what the kubelet's program may be called; default kubelet, kubelite (MicroK8s), k3s and hyperkube. They
	// keep another daemon on that port from being taken for it.
	Names []string
}

func (f Finder) withDefaults() Finder {
	if f.Proc == "" {
		f.Proc = "/proc"
	}
	if f.Port == 0 {
		f.Port = 10250
	}
	if f.Names == nil {
		f.Names = []string{"kubelet", "kubelite", "k3s", "hyperkube"}
	}
	return f
}

// Find returns the kubelet. Returns ErrNotListening if nothing listens on its port, and an error that names the process
// and what does not fit if somebody else does.
func (f Finder) Find() (Process, error) {
	f = f.withDefaults()
	sockets, err := listeningOn(f.Port)
	if err != nil {
		return Process{}, fmt.Errorf("find the kubelet: %w", err)
	}
	if len(sockets) == 0 {
		return Process{}, fmt.Errorf("find the kubelet: %w, %d, in the node's network namespace", ErrNotListening, f.Port)
	}
	node, err := ownNetns()
	if err != nil {
		return Process{}, fmt.Errorf("find the kubelet: %w", err)
	}
	owners, err := f.owners(node.inode, sockets)
	if err != nil {
		return Process{}, fmt.Errorf("find the kubelet: %w", err)
	}
	return f.only(owners, node.cookie)
}

// only returns the one of the owners that is the kubelet.
func (f Finder) only(owners []process, netns uint64) (Process, error) {
	if len(owners) == 0 {
		return Process{}, fmt.Errorf("find the kubelet: no process under %s has the socket that listens on port %d: "+
			"is it the node's /proc, and has the agent CAP_SYS_PTRACE?", f.Proc, f.Port)
	}
	var found []Process
	var errs []error
	for _, o := range owners {
		p, err := f.check(o)
		if err != nil {
			errs = append(errs, fmt.Errorf("process %d listens on port %d but is not taken for the kubelet: %w", o.pid, f.Port, err))
			continue
		}
		p.ID.Netns = netns
		found = append(found, p)
	}
	switch len(found) {
	case 0:
		return Process{}, fmt.Errorf("find the kubelet: %w", errors.Join(errs...))
	case 1:
		return found[0], nil
	}
	return Process{}, fmt.Errorf("find the kubelet: processes %d and %d both have the socket that listens on port %d",
		found[0].ID.Pid, found[1].ID.Pid, f.Port)
}

// check tells whether a process that listens on the kubelet's port can be the kubelet.
func (f Finder) check(o process) (Process, error) {
	start, err := o.start()
	if err != nil {
		return Process{}, err
	}
	status, err := o.status()
	if err != nil {
		return Process{}, err
	}
	if len(status.nsPids) != 1 {
		return Process{}, errors.New("it is in a pid namespace of its own, as containers are")
	}
	if status.uids != [2]string{"0", "0"} {
		return Process{}, fmt.Errorf("it runs as user %s, not as root", status.uids[1])
	}
	if group := o.podCgroup(); group != "" {
		return Process{}, fmt.Errorf("it belongs to a pod: its cgroup is %s", group)
	}
	exe, err := o.exe()
	if err != nil {
		return Process{}, err
	}
	if names := []string{filepath.Base(exe), o.calledAs()}; !slices.ContainsFunc(names, f.isName) {
		return Process{}, fmt.Errorf("its program is %s, not one of %s", exe, strings.Join(f.Names, ", "))
	}
	pidns, err := o.pidns()
	if err != nil {
		return Process{}, err
	}
	if again, err := o.start(); err != nil || again != start {
		return Process{}, errors.New("it ended meanwhile")
	}
	return Process{ID: bpf.Kubelet{PidNS: pidns, Pid: status.nsPids[0], Start: start}, Exe: exe}, nil
}

func (f Finder) isName(name string) bool { return slices.Contains(f.Names, name) }
