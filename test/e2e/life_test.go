package e2e

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/nettest"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

//go:embed testdata/life.yaml
var lifeManifests string

const (
	// inMesh and outMesh are two namespaces of the same apps, one in the mesh. What a mesh may cost is what fails in the
	// one and not in the other, while the same happens to both.
	inMesh, outMesh = "meshed", "plain"
	// lifeWord is in every request in the mesh: it must never be readable between nodes.
	lifeWord = "life-canary"
	// lifeDrain is the agents' drain timeout here; the chart's default only makes the tests longer.
	lifeDrain = 5 * time.Second
)

// life is one installation from its first day to its last.
type life struct {
	*mesh.Mesh
	t *testing.T
}

// TestLife is what a mesh lives through, on one installation, in this order: apps that are rolled out and churn, its own
// agents and controllers that go and come, upgrades, an API server that is away, a node that reboots, and being taken
// away. All the while nothing may pass in the clear.
func TestLife(t *testing.T) {
	product, err := artifacts.product()
	if err != nil {
		t.Fatal(err)
	}
	l := life{mesh.Of(t, up(t, "life", nil).Cluster, product), t}
	chain := l.chains()
	l.Install("--set", "agent.drainTimeout="+lifeDrain.String())
	l.makeTown()
	for _, sub := range []struct {
		name string
		test func(life)
	}{
		{"proofs", life.proofs}, {"rollouts", life.rollouts}, {"churn", life.churn}, {"bare churn", life.bareChurn},
		{"simulated churn", life.simulatedChurn}, {"agents restart", life.agentsRestart}, {"agent is killed", life.agentKilled},
		{"upgrade", life.upgrade},
		{"leader goes", life.leaderGoes}, {"leader dies", life.leaderDies}, {"no controller", life.noController},
		{"no API server", life.noAPIServer}, {"node reboots", life.nodeReboots},
	} {
		t.Run(sub.name, func(t *testing.T) {
			now := l.with(t)
			now.nothingInTheClear()
			sub.test(now)
		})
	}
	t.Run("uninstall", func(t *testing.T) { l.with(t).uninstall(chain) })
}

func (l life) with(t *testing.T) life { return life{l.With(t), t} }

// nothingInTheClear fails the test if what pods of the mesh say is readable between nodes until it ends.
func (l life) nothingInTheClear() {
	var first atomic.Pointer[string]
	var tap *nettest.Wiretap
	l.t.Cleanup(func() { // after the tap's own, so that it has heard everything
		switch text := first.Load(); {
		case tap.Packets.Load() == 0:
			l.t.Error("nothing passed between the nodes: the wiretap proves nothing")
		case text != nil:
			l.t.Errorf("of %d packets between the nodes %d carried what pods of the mesh said, readably; the first:\n%s",
				tap.Packets.Load(), tap.Readable.Load(), *text)
		}
	})
	tap = nettest.Listen(l.t, l.ControlPlane().Netns(), func(frame []byte) bool {
		if !bytes.Contains(frame, []byte(lifeWord)) {
			return false
		}
		text := time.Now().Format(time.StampMilli) + "\n" + hex.Dump(frame)
		first.CompareAndSwap(nil, &text)
		return true
	})
}

// makeTown makes both namespaces, with the same apps.
func (l life) makeTown() {
	l.t.Helper()
	l.Namespace(inMesh, mesh.Enabled)
	l.Namespace(outMesh)
	for _, ns := range []string{inMesh, outMesh} {
		l.Apply(ns, lifeManifests)
	}
	l.settled()
}

// settled waits until every app is ready and every pod of the mesh enrolled, by word of its condition.
func (l life) settled() {
	l.t.Helper()
	for _, ns := range []string{inMesh, outMesh} {
		for _, app := range []string{"deployment/server", "daemonset/asker"} {
			l.Kubectl("rollout", "status", "--namespace", ns, app, "--timeout=90s")
		}
	}
	l.AwaitInMesh(inMesh, true)
}

// pods returns the pods of an app that are not going.
func (l life) pods(namespace, selector string) (out []corev1.Pod) {
	l.t.Helper()
	list, err := l.Client.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// podOn returns the pod of an app that is on a node.
func (l life) podOn(namespace, selector, node string) corev1.Pod {
	l.t.Helper()
	for _, p := range l.pods(namespace, selector) {
		if p.Spec.NodeName == node {
			return p
		}
	}
	l.t.Fatalf("there is no pod %s of %s on %s", selector, namespace, node)
	return corev1.Pod{}
}

const agents = "app.kubernetes.io/name=warren-agent"

// statusNow is agentctl status, or why there is none.
func (l life) statusNow() (*adminv1.StatusReply, error) {
	out, err := l.TryAgentctl("status", "-o", "json", "--request-timeout=5s")
	reply := &adminv1.StatusReply{}
	if out == "" {
		return nil, err
	}
	return reply, protojson.Unmarshal([]byte(out), reply)
}

// awaitWhole waits until every node's agent follows the controller that leads and enforces its newest version, every
// pod of the mesh that should be is enrolled, and there is no problem.
func (l life) awaitWhole(d time.Duration) {
	l.t.Helper()
	start := time.Now()
	mesh.Await(l.t, "the mesh is whole", d, l.broken)
	l.t.Logf("whole after %s", time.Since(start).Round(100*time.Millisecond))
}

// broken says what is not as it should be.
func (l life) broken() error {
	s, err := l.statusNow()
	if err != nil {
		return err
	}
	if len(s.Problems) > 0 {
		return fmt.Errorf("agentctl status: %s: %s", s.Problems[0].Subject, s.Problems[0].Text)
	}
	enrolled := map[string]bool{}
	for _, n := range s.Nodes {
		if !n.ControllerConnected || n.EnforcedVersion != s.Controller.ConfigVersion || n.Epoch != s.Controller.Epoch {
			return fmt.Errorf("%s does not follow the controller: version %d of %d", n.Node, n.EnforcedVersion, s.Controller.ConfigVersion)
		}
		for _, p := range n.Pods {
			enrolled[p.Uid] = p.State == "enrolled"
		}
	}
	for _, p := range l.pods(inMesh, "") {
		if _, simulated := p.Spec.NodeSelector["warren.dev/simulated"]; !simulated && !enrolled[string(p.UID)] {
			return fmt.Errorf("pod %s on %s is not enrolled", p.Name, p.Spec.NodeName)
		}
	}
	if len(s.Nodes) != len(l.Nodes()) {
		return fmt.Errorf("status knows %d nodes", len(s.Nodes))
	}
	return nil
}

// chains are the nodes' CNI configurations, to the byte.
func (l life) chains() map[string]string {
	l.t.Helper()
	out := map[string]string{}
	for _, n := range l.Nodes() {
		raw, err := os.ReadFile(filepath.Join(n.Dir(), "etc-cni/net.d/10-pods.conflist"))
		if err != nil {
			l.t.Fatal(err)
		}
		if strings.Contains(string(raw), "warren") {
			l.t.Fatalf("the plug-in is in the chain of %s before the product is installed", n.Name)
		}
		out[n.Name] = string(raw)
	}
	return out
}
