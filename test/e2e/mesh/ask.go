package mesh

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/nettest"
	"github.com/warren-mesh/warren/internal/sample"
)

// Agentctl runs agentctl, which must succeed, and returns its output.
func (m *Mesh) Agentctl(args ...string) string {
	m.tb.Helper()
	out, err := m.TryAgentctl(args...)
	if err != nil {
		m.tb.Fatal(err)
	}
	return out
}

// TryAgentctl runs agentctl. An error has what it said.
func (m *Mesh) TryAgentctl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	// Said in words: a lab that runs on this machine too would be asked before what KUBECONFIG names.
	cmd := m.ControlPlane().Command(ctx, append([]string{m.Product.Agentctl, "--kubeconfig", m.Kubeconfig()}, args...)...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("agentctl %s: %w: %s%s", strings.Join(args, " "), err, &stderr, &out)
	}
	return out.String(), nil
}

// Status is what agentctl status says of the whole mesh.
func (m *Mesh) Status() *adminv1.StatusReply {
	m.tb.Helper()
	reply := &adminv1.StatusReply{}
	out, err := m.TryAgentctl("status", "-o", "json")
	if out == "" { // with a problem of severity ERROR it exits with 3, and has answered
		m.tb.Fatal(err)
	}
	if err := protojson.Unmarshal([]byte(out), reply); err != nil {
		m.tb.Fatalf("agentctl status: %v\n%s", err, out)
	}
	return reply
}

// Flows are connections as agentctl flows shows them with these arguments, oldest first.
func (m *Mesh) Flows(args ...string) []*adminv1.Flow {
	m.tb.Helper()
	var flows []*adminv1.Flow
	for line := range strings.Lines(m.Agentctl(append([]string{"flows", "-o", "json"}, args...)...)) {
		f := &adminv1.Flow{}
		if err := protojson.Unmarshal([]byte(line), f); err != nil {
			m.tb.Fatalf("agentctl flows: %v\n%s", err, line)
		}
		flows = append(flows, f)
	}
	return flows
}

// AwaitFlow waits for a connection that wrong says nothing about, and returns it. wrong says what is not as wanted.
func (m *Mesh) AwaitFlow(what string, wrong func(*adminv1.Flow) string, args ...string) *adminv1.Flow {
	m.tb.Helper()
	var found *adminv1.Flow
	Await(m.tb, what+" in agentctl flows "+strings.Join(args, " "), 5*time.Second, func() error {
		flows := m.Flows(append([]string{"--since", "2m"}, args...)...)
		why := fmt.Sprintf("of %d flows none fits", len(flows))
		for _, f := range flows {
			text := wrong(f)
			if text == "" {
				found = f
				return nil
			}
			why += "\n  " + Describe(f) + ": " + text
		}
		return fmt.Errorf("%s", why)
	})
	return found
}

// Describe is a flow on one line.
func Describe(f *adminv1.Flow) string {
	return fmt.Sprintf("%s %s/%s(%s) -> %s/%s:%d (%s) dialled %q: %s %s %s %s %s", f.Reporter, f.Src.Namespace, f.Src.Workload,
		f.Src.SpiffeId, f.Dst.Namespace, f.Dst.Workload, f.Dst.Port, f.Dst.SpiffeId, f.Dialled, f.Security, f.Verdict, f.Rule,
		f.Reason, f.Detail)
}

// Exec runs a command in a pod, or in a deployment's: "deployment/web".
func (m *Mesh) Exec(namespace, pod string, argv ...string) (string, error) {
	return m.TryKubectl(append([]string{"exec", "--namespace", namespace, pod, "--"}, argv...)...)
}

// Ask lets a pod of the sample app ask once: a URL, or HOST:PORT by TCP. It returns what came back.
func (m *Mesh) Ask(namespace, pod, target string, flags ...string) (string, error) {
	argv := append([]string{"/sample", "client", "--timeout=3s"}, flags...)
	return m.Exec(namespace, pod, append(argv, target)...)
}

// Get lets a pod of the sample app ask an HTTP server of it.
func (m *Mesh) Get(namespace, pod, url string, flags ...string) (echo sample.Echo, err error) {
	out, err := m.Ask(namespace, pod, url, flags...)
	if err != nil {
		return echo, err
	}
	if err := json.Unmarshal([]byte(out), &echo); err != nil {
		return echo, fmt.Errorf("answer of %s: %w\n%s", url, err, out)
	}
	return echo, nil
}

// InMesh is the condition that says whether a pod is in the mesh.
const InMesh corev1.PodConditionType = "warren.dev/InMesh"

// AwaitInMesh waits until every pod of a namespace that is not being deleted says that it is in the mesh, or is not, and
// returns how long that took.
func (m *Mesh) AwaitInMesh(namespace string, want bool) time.Duration {
	m.tb.Helper()
	start := time.Now()
	Await(m.tb, fmt.Sprintf("pods of %s are in the mesh: %t", namespace, want), 30*time.Second, func() error {
		list, err := m.Client.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			if in, why := inMesh(p); in != want && p.DeletionTimestamp == nil {
				return fmt.Errorf("%s: %s", p.Name, why)
			}
		}
		return nil
	})
	took := time.Since(start)
	if want {
		m.awaitKnown(namespace)
	}
	return took
}

// awaitKnown waits until every agent knows the addresses of a namespace's pods. A pod's own agent has it in the mesh before
// it has an address; whoever dials that before its own node's agent knows it dials it as one outside the mesh.
func (m *Mesh) awaitKnown(namespace string) {
	m.tb.Helper()
	Await(m.tb, "the addresses of the pods of "+namespace+" are known", 30*time.Second, func() error {
		list, err := m.Client.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		out, err := m.TryAgentctl("workloads", "--namespace", namespace, "-o", "json")
		if err != nil {
			return err
		}
		known := &adminv1.WorkloadsReply{}
		if err := protojson.Unmarshal([]byte(out), known); err != nil {
			return fmt.Errorf("agentctl workloads: %w", err)
		}
		for _, p := range list.Items {
			for _, ip := range p.Status.PodIPs {
				if p.DeletionTimestamp == nil && !slices.ContainsFunc(known.Workloads, func(w *adminv1.WorkloadInfo) bool {
					return w.Name == p.Name && slices.Contains(w.Addresses, ip.IP)
				}) {
					return fmt.Errorf("not %s of %s", ip.IP, p.Name)
				}
			}
		}
		return nil
	})
	m.Agentctl("wait", "config")
}

func inMesh(p corev1.Pod) (in bool, why string) {
	for _, c := range p.Status.Conditions {
		if c.Type == InMesh {
			return c.Status == corev1.ConditionTrue, fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
		}
	}
	return false, "it has no condition " + string(InMesh)
}

// Listen hears everything that passes between nodes, until the test ends, and counts the packets with one of the words.
func (m *Mesh) Listen(words ...string) *Tap {
	m.tb.Helper()
	t := &Tap{}
	t.Wiretap = nettest.Listen(m.tb, m.ControlPlane().Netns(), func(frame []byte) bool {
		if onLoopback(frame) {
			return false // the API server tells etcd what a pod's command is
		}
		for _, w := range words {
			if bytes.Contains(frame, []byte(w)) {
				t.keep(frame)
				return true
			}
		}
		return false
	})
	return t
}

// Tap fails the test if any of the words passes readably between nodes until it ends, or if nothing passes at all.
func (m *Mesh) Tap(words ...string) *Tap {
	m.tb.Helper()
	var t *Tap
	m.tb.Cleanup(func() { // after the tap's own, so that it has heard everything
		switch {
		case t == nil:
		case t.Packets.Load() == 0:
			m.tb.Error("the wiretap between the nodes saw no packet: it proves nothing")
		case t.Readable.Load() > 0:
			m.tb.Errorf("%d packets between the nodes carried the payload readably: %s", t.Readable.Load(), t)
		}
	})
	t = m.Listen(words...)
	return t
}

// state is what a person would look at first.
func (m *Mesh) state() string {
	var b strings.Builder
	for _, args := range [][]string{{"status", "--pods", "-o", "wide"}, {"policies"}, {"flows", "--last", "30"}} {
		out, err := m.TryAgentctl(append(args, "--request-timeout=5s")...)
		fmt.Fprintf(&b, "--- agentctl %s\n%s\n", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	out, err := m.TryKubectl("get", "pods", "--all-namespaces", "-o", "wide", "--request-timeout=5s")
	fmt.Fprintf(&b, "--- kubectl get pods\n%s", out)
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	return b.String()
}

// logs are the last lines of what agents and controllers said.
func (m *Mesh) logs() string {
	var b strings.Builder
	list, err := m.Client.CoreV1().Pods(Namespace).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for _, p := range list.Items {
		for _, previous := range []string{"false", "true"} {
			out, err := m.TryKubectl("logs", "--namespace", Namespace, p.Name, "--tail=80", "--previous="+previous, "--request-timeout=5s")
			if previous == "true" && err != nil {
				continue // it never restarted
			}
			fmt.Fprintf(&b, "--- log of %s on %s, previous: %s\n%s", p.Name, p.Spec.NodeName, previous, out)
		}
	}
	return b.String()
}
