package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/warren-mesh/warren/test/e2e/cluster"
)

const (
	// bareRate is how many pods of each namespace go, and how many come, every second: 20 of both.
	bareRate = 10
	// bareSeconds is how long.
	bareSeconds = 15
	// barePatience is how long a machine may take for as many that makes fewer a second.
	barePatience = 45 * time.Second
	// bareStanding is how many of each namespace serve at any time. Each serves for bareStanding/bareRate seconds.
	bareStanding = 30
	// bareDrain is how long one serves on that was told to go, as those of life.yaml do.
	bareDrain = 5 * time.Second
)

// bareChurn: 20 endpoints a second of the services that are asked go, and 20 come, on one node. Only containers are left
// out, of which a machine of two cores starts one a second: each pod has a network namespace, is announced by the CNI
// plug-in, enrolled by the agent, becomes ready, answers requests, is told to go, serves until nobody comes, and is gone.
func (l life) bareChurn() {
	node := l.Nodes()[0]
	if l.leader(20*time.Second).Spec.NodeName == node.Name { // agentctl asks it, by way of its kubelet
		node = l.Nodes()[1]
	}
	l.awaitWhole(20 * time.Second)
	held := l.namespacesHeld(node)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var b *bareTown
	if err := node.WithoutKubelet(ctx, func() { b = l.churnBare(ctx, node) }); err != nil {
		l.t.Fatal(err)
	}
	b.checkPlugin()
	await(l.t, "the agent of "+node.Name+" has let go of every bare pod", 20*time.Second, func() error {
		if now := l.namespacesHeld(node); now != held {
			return fmt.Errorf("it holds %d network namespaces, %d before", now, held)
		}
		return l.knowsBare(node, "", 0)
	})
	l.awaitWhole(20 * time.Second)
}

// churnBare is what happens while nobody but it makes pods on the node.
func (l life) churnBare(ctx context.Context, node *cluster.Node) *bareTown {
	b := l.newBareTown(ctx, node)
	defer b.clear()
	for range bareStanding {
		b.come(inMesh)
		b.come(outMesh)
	}
	b.tasks.Wait()
	await(l.t, "the agent of "+node.Name+" has enrolled the bare pods of the mesh", 20*time.Second, func() error {
		return l.knowsBare(node, "enrolled", bareStanding)
	})
	all := l.startLoads() // after the pods are there, so that connections that are kept are theirs too
	from, start := all.mark(), time.Now()
	for tick := time.NewTicker(time.Second / bareRate); b.gone < bareRate*bareSeconds && time.Since(start) < barePatience; <-tick.C {
		b.turn()
	}
	took := time.Since(start)
	b.tasks.Wait()
	all.stopAll()
	l.compare(fmt.Sprintf("%d pods with endpoints gone and %d come in %s, %.0f of each a second", 2*b.gone, 2*b.gone,
		took.Round(time.Second), 2*float64(b.gone)/took.Seconds()), all, from)
	if b.gone < bareRate*bareSeconds {
		l.t.Errorf("only %d pods of %d of each namespace went in %s", b.gone, bareRate*bareSeconds, barePatience)
	}
	b.clear()
	for _, ns := range []string{inMesh, outMesh} {
		served := all.since(from, ns).ok
		l.t.Logf("%s: bare pods answered %d of %d requests, %d of %d pods at least one; the plug-in let a pod start after %s at worst",
			ns, b.answered[ns], served, b.answering[ns], b.made[ns], b.slowest[ns].Round(time.Millisecond))
		if b.answered[ns] < served/2 || b.answering[ns] < b.made[ns]/2 {
			l.t.Errorf("%s: bare pods answered %d of %d requests, %d of %d pods at least one: that few prove nothing",
				ns, b.answered[ns], served, b.answering[ns], b.made[ns])
		}
	}
	return b
}

// namespacesHeld is how many network namespaces the node's agent has open: one for each pod that it captures.
func (l life) namespacesHeld(node *cluster.Node) int {
	l.t.Helper()
	out, err := node.Exec(context.Background(), "sh", "-c", `find /proc/$(pgrep -x agent)/fd -lname 'net:*' | wc -l`)
	var n int
	if _, serr := fmt.Sscan(out, &n); err != nil || serr != nil {
		l.t.Fatalf("network namespaces that the agent of %s holds: %q, %v", node.Name, out, err)
	}
	return n
}

// knowsBare says what is wrong unless the node's agent knows so many bare pods of the mesh, all in this state.
func (l life) knowsBare(node *cluster.Node, state string, want int) error {
	s, err := l.statusNow()
	if err != nil && s == nil {
		return err
	}
	known := 0
	for _, n := range s.Nodes {
		for _, p := range n.Pods {
			if n.Node != node.Name || p.Namespace != inMesh || !strings.HasPrefix(p.Name, barePrefix) {
				continue
			}
			if known++; p.State != state {
				return fmt.Errorf("it has %s as %s: %s", p.Name, p.State, p.Reason)
			}
		}
	}
	if known != want {
		return fmt.Errorf("it knows %d, want %d", known, want)
	}
	return nil
}

// checkPlugin fails the test unless the plug-in was told by the agent that each pod of the mesh was enrolled before it
// started, that each other is none of it, and that each is forgotten.
func (b *bareTown) checkPlugin() {
	b.t.Helper()
	raw, err := os.ReadFile(b.node.BareLog())
	if err != nil {
		b.t.Fatal(err)
	}
	count := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m) (ADD|DEL) pod=([a-z]+)/.* ok="(\w+)"$`).FindAllStringSubmatch(string(raw), -1) {
		count[strings.Join(m[1:], " ")]++
	}
	for call, want := range map[string]int{
		"ADD " + inMesh + " enrolled": b.made[inMesh], "ADD " + outMesh + " unmanaged": b.made[outMesh],
		"DEL " + inMesh + " forgotten": b.made[inMesh], "DEL " + outMesh + " forgotten": b.made[outMesh],
	} {
		if count[call] != want {
			b.t.Errorf("the CNI plug-in said %q of %d pods, want %d; all it said: %v", call, count[call], want, count)
		}
	}
}
