package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// The status folder holds what a kubelet and an API server would add to the user's objects. The controller lays it
// over them. A name of Kubernetes holds no underscore, so pods' and services' files never collide.

type statusObject struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   statusMeta     `json:"metadata"`
	Spec       any            `json:"spec,omitempty"`
	Status     *runningStatus `json:"status,omitempty"`
}

type statusMeta struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace,omitempty"`
	UID       string            `json:"uid,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

type runningStatus struct {
	Phase      string         `json:"phase"`
	PodIP      string         `json:"podIP"`
	PodIPs     []podIP        `json:"podIPs"`
	Conditions []podCondition `json:"conditions"`
}

type podIP struct {
	IP string `json:"ip"`
}

type podCondition struct {
	Type   string `json:"type"`
	Status string `json:"status"`
}

func podStatusFile(p paths, pod *Pod) string { return filepath.Join(p.status(), pod.id()+".yaml") }

// writePodStatus tells the controller that a pod runs, where, and with which addresses.
func writePodStatus(p paths, pod *Pod) error {
	status := &runningStatus{
		Phase: "Running", PodIP: pod.Addrs[0].String(),
		Conditions: []podCondition{{Type: "Ready", Status: "True"}},
	}
	for _, addr := range pod.Addrs {
		status.PodIPs = append(status.PodIPs, podIP{addr.String()})
	}
	return writeYAML(podStatusFile(p, pod), statusObject{
		APIVersion: "v1", Kind: "Pod",
		Metadata: statusMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID},
		Spec:     map[string]string{"nodeName": pod.Node},
		Status:   status,
	})
}

func removePodStatus(p paths, pod *Pod) error {
	if err := os.Remove(podStatusFile(p, pod)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("withdraw status of pod %s: %w", pod.FullName(), err)
	}
	return nil
}

// syncServiceStatus tells the controller the virtual addresses of all services, and of none that is gone.
func syncServiceStatus(p paths, pl *plan) error {
	const prefix = "svc_"
	keep := map[string]bool{}
	for _, s := range pl.Services {
		name := prefix + s.Namespace + "_" + s.Name + ".yaml"
		keep[name] = true
		ips := []string{"None"}
		if len(s.VIPs) > 0 {
			ips = texts(s.VIPs)
		}
		err := writeYAML(filepath.Join(p.status(), name), statusObject{
			APIVersion: "v1", Kind: "Service",
			Metadata: statusMeta{Name: s.Name, Namespace: s.Namespace},
			Spec:     map[string]any{"clusterIP": ips[0], "clusterIPs": ips},
		})
		if err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(p.status())
	if err != nil {
		return fmt.Errorf("withdraw services: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) && !keep[e.Name()] {
			err = errors.Join(err, os.Remove(filepath.Join(p.status(), e.Name())))
		}
	}
	return err
}

// writeImpliedNode gives the controller the node that exists although no manifest names it.
func writeImpliedNode(p paths, pl *plan, objects []*object) error {
	for _, o := range objects {
		if o.Kind == "Node" {
			return nil
		}
	}
	return writeYAML(filepath.Join(p.added(), "node.yaml"), statusObject{
		APIVersion: "v1", Kind: "Node", Metadata: statusMeta{Name: pl.Nodes[0].Name},
	})
}

func writeYAML(path string, v any) error {
	text, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeFile(path, text, 0o644)
}

func texts(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}
