package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// What each namespace has.
const servicesEach, policiesEach = 10, 10

type size struct{ pods, nodes, namespaces int }

// world is a folder of manifests, and what in them is not as it was in the beginning.
type world struct {
	size
	dir, aside string // files are written aside and renamed

	notReady map[int]bool // pods
	left     map[int]bool // namespaces
	edits    map[int]int  // how often each policy was changed
}

// newWorld writes the manifests into a new folder below dir: a file for each node with its pods, a file for each policy,
// and one for each namespace with its services.
func newWorld(dir string, s size) (*world, error) {
	w := &world{size: s, dir: filepath.Join(dir, "manifests"), aside: filepath.Join(dir, "aside"),
		notReady: map[int]bool{}, left: map[int]bool{}, edits: map[int]int{}}
	for _, d := range []string{w.aside, w.dir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	for i := range s.nodes {
		if err := w.writeNode(i); err != nil {
			return nil, err
		}
	}
	for i := range s.namespaces {
		if err := w.writeNamespace(i); err != nil {
			return nil, err
		}
	}
	for i := range s.namespaces * policiesEach {
		if err := w.writePolicy(i); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// put replaces a file.
func (w *world) put(name, content string) error {
	tmp := filepath.Join(w.aside, name)
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(w.dir, name))
}

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

// writeNode writes a node and its pods: those whose number is the node's, modulo the number of nodes.
func (w *world) writeNode(node int) error {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: Node
metadata: {name: %s, labels: {topology.kubernetes.io/zone: zone-%d}}
status: {addresses: [{type: InternalIP, address: 192.168.%d.%d}]}
`, nodeName(node), node%3, node>>8, node&255)
	for i := node; i < w.pods; i += w.nodes {
		namespace, service := i%w.namespaces, i/w.namespaces%servicesEach
		ready := "True"
		if w.notReady[i] {
			ready = "False"
		}
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Pod
metadata: {name: pod-%[1]d, namespace: team-%[2]d, uid: 7c9e6679-7425-40de-944b-%012[1]d, labels: {app: app-%[3]d}}
spec: {nodeName: %[4]s, serviceAccountName: app-%[3]d}
status: {phase: Running, podIP: 10.%[5]d.%[6]d.%[7]d, conditions: [{type: Ready, status: "%[8]s"}]}
`, i, namespace, service, nodeName(node), 1+i>>16, i>>8&255, i&255, ready)
	}
	return w.put(nodeName(node)+".yaml", b.String())
}

func (w *world) writeNamespace(i int) error {
	label := "enabled"
	if w.left[i] {
		label = "disabled"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: Namespace
metadata: {name: team-%d, labels: {warren.dev/mesh: %s}}
`, i, label)
	for s := range servicesEach {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: app-%[1]d, namespace: team-%[2]d}
spec: {clusterIP: 10.200.%[2]d.%[3]d, selector: {app: app-%[1]d}, ports: [{name: http, port: 80, targetPort: 8080}]}
`, s, i, s+1)
	}
	return w.put(fmt.Sprintf("team-%d.yaml", i), b.String())
}

// writePolicy writes the policies of a namespace: two for all its pods, DENY and AUDIT, and eight ALLOWs for one app each.
// Of every hundredth the namespace is the mesh's own, so that it is everybody's.
func (w *world) writePolicy(i int) error {
	namespace, selector := fmt.Sprintf("team-%d", i/policiesEach), ""
	action, from := "ALLOW", fmt.Sprintf("principals: [cluster.local/ns/team-%d/sa/app-%d]", i%w.namespaces, w.edits[i])
	switch n := i % policiesEach; {
	case i%100 == 0:
		namespace, action, from = "warren-system", "DENY", fmt.Sprintf("namespaces: [quarantine-%d-%d]", i, w.edits[i])
	case n == 0:
		action, from = "DENY", fmt.Sprintf("namespaces: [quarantine-%d]", w.edits[i])
	case n == 1:
		action, from = "AUDIT", fmt.Sprintf("ipBlocks: [203.0.113.%d/32]", w.edits[i]%250)
	default:
		selector = fmt.Sprintf("selector: {matchLabels: {app: app-%d}}, ", n)
	}
	return w.put(fmt.Sprintf("policy-%d.yaml", i), fmt.Sprintf(`apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: policy-%d, namespace: %s}
spec: {%saction: %s, rules: [{from: [{source: {%s}}], to: [{operation: {ports: ["8080"]}}]}]}
`, i, namespace, selector, action, from))
}

// change is one kind of change, the n-th of its kind.
type change struct {
	name string
	make func(w *world, n int) error
}

func changes() []change {
	return []change{
		{"a policy", func(w *world, n int) error {
			i := n * 37 % (w.namespaces * policiesEach)
			w.edits[i]++
			return w.writePolicy(i)
		}},
		{"a pod's readiness", func(w *world, n int) error {
			i := n * 97 % w.pods
			w.notReady[i] = !w.notReady[i]
			return w.writeNode(i % w.nodes)
		}},
		{"a namespace joins or leaves", func(w *world, n int) error {
			i := n % w.namespaces
			w.left[i] = !w.left[i]
			return w.writeNamespace(i)
		}},
	}
}
