package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/sample"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

// enrolWithin bounds how long a change of a label may take to have its effect on running pods. It takes milliseconds;
// the bound allows for a machine that is busy with everything else.
const enrolWithin = 5 * time.Second

// dialogue is one connection over which a pod asks again and again.
type dialogue struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	answers []sample.Echo
	err     error
}

// talk lets a pod ask ten times a second over one connection, until end is called, at most two minutes.
func talk(m *mesh.Mesh, namespace, from, url string) *dialogue {
	m.TB().Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	cmd := m.KubectlCommand(ctx, "exec", "--namespace", namespace, from, "--",
		"/sample", "client", "--repeat=1200", "--every=100ms", "--timeout=3s", url)
	d := &dialogue{name: from + " to " + url, cancel: cancel, done: make(chan struct{})}
	var stderr strings.Builder
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.TB().Fatal(err)
	}
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		m.TB().Fatal(err)
	}
	go func() {
		defer close(d.done)
		d.read(out)
		err := cmd.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		if ctx.Err() == nil {
			d.err = fmt.Errorf("it ended after %d answers: %w: %s", len(d.answers), err, strings.TrimSpace(stderr.String()))
		}
	}()
	m.TB().Cleanup(d.end)
	return d
}

func (d *dialogue) read(out io.Reader) {
	for dec := json.NewDecoder(out); ; {
		var e sample.Echo
		if dec.Decode(&e) != nil {
			return
		}
		d.mu.Lock()
		d.answers = append(d.answers, e)
		d.mu.Unlock()
	}
}

func (d *dialogue) end() {
	d.cancel()
	<-d.done
}

// state is how many answers came, and what went wrong: it ended, or it is not the same connection any more.
func (d *dialogue) state() (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.answers {
		if e.RemoteAddr != d.answers[0].RemoteAddr {
			return len(d.answers), fmt.Errorf("%s was cut: the server saw %s, then %s", d.name, d.answers[0].RemoteAddr, e.RemoteAddr)
		}
	}
	if d.err != nil {
		return len(d.answers), fmt.Errorf("%s: %w", d.name, d.err)
	}
	return len(d.answers), nil
}

// goOn waits until each dialogue got n more answers.
func goOn(tb testing.TB, dialogues []*dialogue, n int) {
	tb.Helper()
	have := make([]int, len(dialogues))
	for i, d := range dialogues {
		have[i], _ = d.state()
	}
	for i, d := range dialogues {
		mesh.Await(tb, fmt.Sprintf("%s: %d more answers", d.name, n), 15*time.Second, func() error {
			now, err := d.state()
			if err != nil {
				tb.Fatal(err)
			}
			if now < have[i]+n {
				return fmt.Errorf("%d came", now-have[i])
			}
			return nil
		})
	}
}

// testLabelling: a label takes running pods in and lets them go again; connections that are open then are not cut,
// whichever side of the change they are from.
func testLabelling(m *mesh.Mesh) {
	t := m.TB()
	m.Namespace("late")
	pods := start(m, "late", pod{name: "client", node: nodeA}, pod{name: "near", node: nodeA}, pod{name: "far", node: nodeB})
	everywhere := func(word string) (all []*dialogue) {
		for _, family := range families() {
			for _, server := range []string{"near", "far"} {
				all = append(all, talk(m, "late", "client", url(pods[server], family.index, 8080, word)))
			}
		}
		return all
	}
	label := func(value string, in bool) {
		began := time.Now()
		m.Kubectl("label", "namespace", "late", "--overwrite", value)
		m.AwaitInMesh("late", in)
		took := time.Since(began)
		t.Logf("%s: every pod says so after %s, kubectl included", value, took.Round(10*time.Millisecond))
		if took > enrolWithin {
			t.Errorf("%s took %s", value, took)
		}
	}

	bare := network(m, pods["far"], false)
	outside := everywhere(open)
	goOn(t, outside, 3)
	label("warren.dev/mesh=enabled", true)
	if now := network(m, pods["far"], false); now != bare {
		t.Errorf("a pod's links, rules and routes were\n%s\nand in the mesh they are\n%s", bare, now)
	}
	inside := everywhere(canary)
	goOn(t, slices.Concat(inside, outside), 10)
	for _, d := range inside {
		awaitInbound(m, d.answers[0].RemoteAddr, func(f *adminv1.Flow) string { return notMeshed(f) })
	}

	heard := m.Listen("released-word")
	label("warren.dev/mesh-", false)
	if _, err := m.Get("late", "client", url(pods["far"], 0, 8080, "released-word")); err != nil {
		t.Error(err)
	}
	goOn(t, slices.Concat(inside, outside), 10)
	if heard.Readable.Load() == 0 {
		t.Error("a pod that the mesh let go does not talk in the clear: it is still captured")
	}

	label("warren.dev/mesh=enabled", true)
	goOn(t, slices.Concat(inside, outside), 10)
}

// awaitInbound waits for the record that the server's node has of the connection from an address and port.
func awaitInbound(m *mesh.Mesh, remote string, wrong func(*adminv1.Flow) string) *adminv1.Flow {
	m.TB().Helper()
	return m.AwaitFlow("the connection from "+remote, func(f *adminv1.Flow) string {
		if f.Reporter != "inbound" || remoteOf(f) != remote {
			return "another connection"
		}
		return wrong(f)
	}, "--reporter", "inbound")
}

// notMeshed says what is wrong with the record of a connection that must be of the mesh.
func notMeshed(f *adminv1.Flow) string {
	switch {
	case f.Security != "mtls" && f.Security != "local":
		return "it is " + f.Security
	case f.Security == "mtls" != (f.Src.Node != f.Dst.Node):
		return fmt.Sprintf("from %s to %s it is %s", f.Src.Node, f.Dst.Node, f.Security)
	case f.Src.SpiffeId == "" || f.Verdict != "forwarded":
		return fmt.Sprintf("%s from %q", f.Verdict, f.Src.SpiffeId)
	}
	return ""
}

// testPodLabels: a pod's label is stronger than its namespace's, and a pod in the host's network is never in the mesh.
func testPodLabels(m *mesh.Mesh) {
	t := m.TB()
	host := pod{node: nodeB, spec: "hostNetwork: true", container: "ports: [{containerPort: 18080, hostPort: 18080}]", args: `http, "--port=18080"`}
	hostLabelled := host
	host.name, hostLabelled.name, hostLabelled.labels = "host", "host-labelled", `warren.dev/mesh: enabled`
	hostLabelled.args, hostLabelled.container = `http, "--port=18081"`, ""
	m.Namespace("mixed", mesh.Enabled)
	m.Namespace("plain")
	mixed := start(m, "mixed", pod{name: "in", node: nodeA}, pod{name: "out", node: nodeB, labels: "warren.dev/mesh: disabled"}, host, hostLabelled)
	plain := start(m, "plain", pod{name: "in", node: nodeB, labels: "warren.dev/mesh: enabled"}, pod{name: "out", node: nodeB})

	for _, want := range []struct {
		pod corev1.Pod
		in  bool
	}{
		{mixed["in"], true}, {mixed["out"], false}, {mixed["host"], false}, {mixed["host-labelled"], false},
		{plain["in"], true}, {plain["out"], false},
	} {
		mesh.Await(t, fmt.Sprintf("%s/%s is in the mesh: %t", want.pod.Namespace, want.pod.Name, want.in), enrolWithin, func() error {
			return podState(m, want.pod, want.in)
		})
	}
	for _, row := range []struct {
		from, to corev1.Pod
		port     int
		security string // as the end in the mesh records it
		reporter string
	}{
		{plain["in"], mixed["in"], 8080, "mtls", "inbound"}, {mixed["in"], plain["in"], 8080, "mtls", "inbound"},
		{mixed["out"], mixed["in"], 8080, "plaintext", "inbound"}, {mixed["in"], mixed["out"], 8080, "plaintext", "outbound"},
		{plain["out"], mixed["in"], 8080, "plaintext", "inbound"}, {mixed["in"], plain["out"], 8080, "plaintext", "outbound"},
		{mixed["host"], mixed["in"], 8080, "plaintext", "inbound"}, {mixed["in"], mixed["host"], 18080, "plaintext", "outbound"},
		{mixed["in"], mixed["host-labelled"], 18081, "plaintext", "outbound"},
	} {
		word := map[string]string{"mtls": canary, "plaintext": open}[row.security]
		for _, family := range families() {
			what := fmt.Sprintf("%s/%s to %s/%s, %s", row.from.Namespace, row.from.Name, row.to.Namespace, row.to.Name, family.name)
			since := time.Now()
			if _, err := m.Get(row.from.Namespace, row.from.Name, url(row.to, family.index, row.port, word)); err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			m.AwaitFlow(what, func(f *adminv1.Flow) string {
				if f.Reporter != row.reporter || f.Dst.Address != ip(row.to, family.index) || f.StartUnixNano < since.UnixNano() {
					return "another connection"
				}
				if f.Security != row.security || f.Verdict != "forwarded" {
					return "want " + row.security
				}
				return ""
			})
		}
	}
}

// podState says what is wrong with what the mesh says of a pod.
func podState(m *mesh.Mesh, p corev1.Pod, in bool) error {
	for _, n := range m.Status().Nodes {
		for _, s := range n.Pods {
			if s.Uid != string(p.UID) {
				continue
			}
			if (s.State == "enrolled") != in {
				return fmt.Errorf("agentctl status says %s %s", s.State, s.Reason)
			}
			return nil
		}
	}
	if in {
		return errors.New("agentctl status does not know it")
	}
	return nil
}
