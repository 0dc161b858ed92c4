// Package scene is the ground on which a bench measures: a lab of this tree's binaries, and who is where in it.
package scene

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/warren-mesh/warren/bench/proc"
	"github.com/warren-mesh/warren/lab"
)

// removePatience is how long the lab may take to go.
const removePatience = time.Minute

// Scene is a lab while it is up.
type Scene struct {
	Lab *lab.Lab
	Dir string // for configuration files of peers
}

// Options say what to put up.
type Options struct {
	Name      string // tells this process's labs apart
	Dir       string // a folder of its own
	Bin       string // where agent, controller and waypoint are
	Manifests string
	AgentArgs []string
}

// Up makes the lab. The caller must Remove it.
func Up(ctx context.Context, o Options) (*Scene, error) {
	folder := filepath.Join(o.Dir, "manifests-"+o.Name)
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(folder, "mesh.yaml"), []byte(o.Manifests), 0o644); err != nil {
		return nil, err
	}
	l, err := lab.Up(ctx, lab.Options{
		Name: fmt.Sprintf("%s-%d", o.Name, os.Getpid()), Manifests: folder, BinDir: o.Bin, AgentArgs: o.AgentArgs,
	})
	if err != nil {
		return nil, err
	}
	return &Scene{l, o.Dir}, nil
}

// Remove does so even after the run was interrupted.
func (s *Scene) Remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), removePatience)
	defer cancel()
	return s.Lab.Down(ctx)
}

// Addr is a pod's IPv4 address.
func (s *Scene) Addr(pod string) (netip.Addr, error) {
	addrs, err := s.Lab.PodAddrs(pod)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if a.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("pod %s has no IPv4 address", pod)
}

// VIP is the IPv4 address of a service, "namespace/name".
func (s *Scene) VIP(service string) (netip.Addr, error) {
	info, err := s.Lab.Info()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, svc := range info.Services {
		if svc.FullName() != service {
			continue
		}
		for _, a := range svc.VIPs {
			if a.Is4() {
				return a, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("service %s has no IPv4 address", service)
}

// Agent is the process of a node's agent.
func (s *Scene) Agent(node string) (proc.Process, error) {
	found, err := s.Lab.AgentProcesses(node)
	return only("agent "+node, found, err)
}

// Pod is the process of a pod's only container, and what that started.
func (s *Scene) Pod(name, pod string) (proc.Process, error) {
	found, err := s.Lab.PodProcesses(pod)
	return only(name, found, err)
}

func only(name string, found []lab.Process, err error) (proc.Process, error) {
	if err != nil {
		return proc.Process{}, err
	}
	if len(found) != 1 {
		return proc.Process{}, fmt.Errorf("%s: %d processes, want 1", name, len(found))
	}
	return proc.Of(name, found[0].PID)
}

// AddPod starts a pod outside the mesh, in the namespace bare, whose only container runs a command.
func (s *Scene) AddPod(ctx context.Context, name, node string, command []string) error {
	manifest, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "namespace": "bare"},
		"spec": map[string]any{"nodeName": node, "containers": []any{map[string]any{
			"name": "peer", "image": "peer", "command": command,
		}}},
	})
	if err != nil {
		return err
	}
	_, err = s.Lab.AddPod(ctx, manifest)
	return err
}

// PodLog is the end of what a pod's processes wrote, in one line.
func (s *Scene) PodLog(pod string) string {
	const enough = 300
	text, err := os.ReadFile(s.Lab.LogFile(strings.Replace(pod, "/", "_", 1)))
	if err != nil {
		return err.Error()
	}
	line := strings.Join(strings.Fields(string(text)), " ")
	return line[max(0, len(line)-enough):]
}
