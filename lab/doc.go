// Package lab turns a folder of ordinary Kubernetes manifests into nodes and pods on one Linux machine, and runs
// the real agent and controller binaries in them.
//
// It reads from the outside in, in the order in which a lab comes to be: manifest.go (what the user wrote) →
// plan.go (who gets which address) → netns.go, fabric.go, podlink.go, vip.go (the network) → shim.go, process.go,
// cgroup.go (processes inside it) → dns.go → mesh.go and overlay.go (controller and agents) → lab.go and pods.go
// (what callers ask for).
//
// A node is a network namespace on a bridge, a pod is a network namespace behind its node. Everything lives in
// namespaces that belong to the lab, so neither the machine's own network nor another lab notices: two labs may
// use the same addresses. What a lab leaves on the machine while it is up is
//
//	/run/warren-lab/<lab>/                  state, logs, sockets, bind mounts of its network namespaces
//	<cgroup v2 root>/warren-lab/<lab>/      one cgroup a pod, and one each for its agents, controller and DNS
//	/sys/fs/bpf/warren-lab/<lab>/           what its agents pin
//
// and [Down] needs nothing but the lab's name to remove all three. The only process of the lab's own is its DNS
// server; nothing restarts what stops.
//
// A binary that embeds this package must call [ShimMain] first in main (or TestMain): the lab starts every process
// through a copy of the binary it is part of. Everything here needs root.
package lab

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
)

const (
	runRoot = "/run/warren-lab"
	bpfRoot = "/sys/fs/bpf"
	// maxSocketPath is what sun_path holds without its final NUL, unix(7).
	maxSocketPath = 107
)

var (
	// ErrManifest is wrapped by every error about what the user wrote.
	ErrManifest = errors.New("invalid manifest")
	// ErrExists is returned for a lab or a pod that is already there.
	ErrExists = errors.New("already exists")
	// ErrNotFound is returned for a lab, node or pod that is not there.
	ErrNotFound = errors.New("not found")
)

// A lab's name becomes part of paths, of which a unix socket's is the shortest-limited.
var labName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,22}[a-z0-9])?$`)

func checkName(name string) error {
	if !labName.MatchString(name) {
		return fmt.Errorf("lab name %q: want at most 24 lower-case letters, digits and inner hyphens", name)
	}
	return nil
}

// paths knows where one lab keeps what it owns.
type paths struct {
	name string
}

func (p paths) dir() string              { return filepath.Join(runRoot, p.name) }
func (p paths) state() string            { return filepath.Join(p.dir(), "state.json") }
func (p paths) zone() string             { return filepath.Join(p.dir(), "zone.json") }
func (p paths) netns(name string) string { return filepath.Join(p.dir(), "netns", name) }
func (p paths) log(name string) string   { return filepath.Join(p.dir(), "logs", name+".log") }
func (p paths) etc(pod string) string    { return filepath.Join(p.dir(), "etc", pod) }
func (p paths) status() string           { return filepath.Join(p.dir(), "status") }
func (p paths) added() string            { return filepath.Join(p.dir(), "added") }
func (p paths) controllerState() string  { return filepath.Join(p.dir(), "controller") }
func (p paths) controllerSocket() string { return filepath.Join(p.dir(), "controller.sock") }
func (p paths) node(node string) string  { return filepath.Join(p.dir(), "nodes", node) }
func (p paths) agentSocket(node string) string {
	return filepath.Join(p.node(node), "agent.sock")
}
func (p paths) pins() string { return filepath.Join(bpfRoot, "warren-lab", p.name) }

// Names of network namespaces and cgroups. A Kubernetes name holds no underscore, so pods and the rest never collide.
const (
	fabricNS     = "_fabric"
	dnsNS        = "_dns"
	controllerNS = "_controller"
)

func nodeNS(node string) string { return "_node_" + node }
