package lab

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// On Kubernetes the controller makes pods of a waypoint's Gateway. In a lab the lab does, which is why these names are
// written here too.
const (
	waypointClass = "warren-waypoint"
	waypointImage = "warren.dev/waypoint"
	gatewayLabel  = "gateway.networking.k8s.io/gateway-name"
	// replicasAnnotation on a Gateway is how many pods it has: 1 if it does not say.
	replicasAnnotation = "warren.dev/waypoint-replicas"
	// argsAnnotation on a Gateway are further arguments of cmd/waypoint, separated by spaces.
	argsAnnotation = "warren.dev/lab-args"

	maxReplicas = 16
	// waypointPatience bounds how long a waypoint may take until it is ready.
	waypointPatience = 15 * time.Second
	waypointHealth   = "127.0.0.1:15021"
)

// waypointObjects returns what the Gateways among objects are to have: a Service, a ServiceAccount and Pods each.
func (p paths) waypointObjects(objects []*object, trustDomain string) ([]*object, error) {
	var out []*object
	for _, o := range objects {
		var spec struct {
			GatewayClassName string `json:"gatewayClassName"`
		}
		if o.Kind != "Gateway" || json.Unmarshal(o.Spec, &spec) != nil || spec.GatewayClassName != waypointClass {
			continue // what is wrong with it the controller says
		}
		o.Metadata.Namespace = cmp.Or(o.Metadata.Namespace, "default")
		if !dnsLabel.MatchString(o.Metadata.Name) {
			return nil, o.bad("metadata.name", "%q is not a valid name of a service", o.Metadata.Name)
		}
		made, err := p.objectsOf(o, trustDomain)
		if err != nil {
			return nil, err
		}
		out = append(out, made...)
	}
	return out, nil
}

func (p paths) objectsOf(gateway *object, trustDomain string) ([]*object, error) {
	replicas := 1
	if text := gateway.Metadata.Annotations[replicasAnnotation]; text != "" {
		var err error
		if replicas, err = strconv.Atoi(text); err != nil || replicas < 0 || replicas > maxReplicas {
			return nil, gateway.bad("metadata.annotations["+replicasAnnotation+"]", "%q is not a number from 0 to %d", text, maxReplicas)
		}
	}
	meta := func(name string) map[string]any {
		return map[string]any{
			"name": name, "namespace": gateway.Metadata.Namespace, "labels": map[string]string{gatewayLabel: gateway.Metadata.Name},
		}
	}
	name := gateway.Metadata.Name
	docs := []map[string]any{
		{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(name)},
		{"apiVersion": "v1", "kind": "Service", "metadata": meta(name), "spec": map[string]any{
			"selector": map[string]string{gatewayLabel: name}, "ports": []map[string]any{{"name": "hbone", "port": 15008, "targetPort": 15008}},
		}},
	}
	for i := range replicas {
		pod := fmt.Sprintf("%s-%d", name, i)
		docs = append(docs, map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": meta(pod), "spec": map[string]any{
			"serviceAccountName": name,
			"containers":         []map[string]any{{"name": "waypoint", "image": waypointImage, "args": p.waypointArgs(gateway, pod, trustDomain)}},
		}})
	}
	var out []*object
	for _, doc := range docs {
		raw, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		found, err := decodeObject(gateway.where, raw)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

func (p paths) waypointArgs(gateway *object, pod, trustDomain string) []string {
	namespace := gateway.Metadata.Namespace
	id := namespace + "_" + pod
	args := []string{
		"--gateway=" + namespace + "/" + gateway.Metadata.Name, "--namespace=" + namespace, "--pod=" + pod,
		"--workload-uid=$(" + envUID + ")", "--node=$(" + envNode + ")", "--service-account=" + gateway.Metadata.Name,
		"--controller=" + controllerAddress(), "--trust-bundle=" + p.bundle(), "--trust-domain=" + trustDomain,
		"--token-file=" + filepath.Join(p.waypointDir(id), "token"), "--state-dir=" + filepath.Join(p.waypointDir(id), "state"),
		"--lame-duck=500ms", "--drain=2s",
	}
	return append(args, strings.Fields(gateway.Metadata.Annotations[argsAnnotation])...)
}

// What a waypoint's process is told by its environment: what is decided once the pod is.
const (
	envUID  = "WARREN_POD_UID"
	envNode = "WARREN_POD_NODE"
)

func (p paths) waypointDir(pod string) string { return filepath.Join(p.dir(), "waypoints", pod) }
func (p paths) generated() string             { return filepath.Join(p.dir(), "generated") }

// isWaypoint says whether an image, whatever its tag, is the waypoint.
func isWaypoint(image string) bool {
	return image == waypointImage || strings.HasPrefix(image, waypointImage+":")
}

func (p *Pod) isWaypoint() bool {
	return slices.ContainsFunc(p.Containers, func(c Container) bool { return len(c.Command) == 0 && isWaypoint(c.Image) })
}

// writeGenerated gives the controller the objects that the lab made, and takes away those that it made earlier.
func (p paths) writeGenerated(objects []*object) error {
	if err := os.MkdirAll(p.generated(), 0o755); err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, o := range objects {
		name := strings.ToLower(o.Kind) + "_" + o.Metadata.Namespace + "_" + o.Metadata.Name + ".json"
		keep[name] = true
		if err := writeFile(filepath.Join(p.generated(), name), o.raw, 0o644); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(p.generated())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			err = errors.Join(err, os.Remove(filepath.Join(p.generated(), e.Name())))
		}
	}
	return err
}

// readyWaypoint gives a waypoint's pod what it proves itself by. A process that starts again has its SVID still, but for
// one whose SVID has ended meanwhile: a fresh token costs nothing.
func (r *run) readyWaypoint(ctx context.Context, pod *Pod) error {
	dir := r.waypointDir(pod.id())
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		return err
	}
	return r.makeToken(ctx, "waypoint", pod.FullName(), filepath.Join(dir, "token"))
}

// awaitWaypoint waits until a waypoint serves.
func (r *run) awaitWaypoint(ctx context.Context, pod *Pod) error {
	ctx, cancel := context.WithTimeout(ctx, waypointPatience)
	defer cancel()
	return r.await(ctx, pod.FullName(), func() bool { return inNetNS(r.netns(pod.netns()), probeWaypoint) == nil })
}

// probeWaypoint asks a waypoint of the calling thread's network namespace whether it is ready. net/http would dial from
// another thread.
func probeWaypoint() error {
	c, err := net.DialTimeout("tcp", waypointHealth, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(c, "GET /readyz HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && !strings.Contains(line, " 200 ") {
		err = fmt.Errorf("not ready: %s", strings.TrimSpace(line))
	}
	return err
}

// dropWaypoint forgets a waypoint's pod.
func (r *run) dropWaypoint(pod *Pod) error {
	err := os.RemoveAll(r.waypointDir(pod.id()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
