package e2e

import (
	"bufio"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/test/e2e/cluster"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

const (
	// agentGap is for how long a node may refuse new connections after its agent was killed. It includes what a container
	// takes to start on a busy machine.
	agentGap = 8 * time.Second
	// replacedGap is for how long a load may fail while every agent is replaced: not at all, but for a machine so busy that
	// a connection waits longer than its client.
	replacedGap = time.Second
	// servedAgain is how long after its agent is ready a node's pods may still be refused.
	servedAgain = 5 * time.Second
)

// stream is one long answer, which is how a connection is watched.
type stream struct {
	moved atomic.Int64 // when it moved last, Unix nanoseconds
	ended chan struct{}
	stop  func()
}

// startStream makes a pod on one node read a long answer of a pod on the other.
func (l life) startStream(ns string, from, to *cluster.Node) *stream {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	id := strings.TrimPrefix(l.podOn(ns, "app=asker", from.Name).Status.ContainerStatuses[0].ContainerID, "containerd://")
	url := fmt.Sprintf("http://%s:8080/stream?n=9999&word=%s", l.podOn(ns, "app=asker", to.Name).Status.PodIP, words[ns])
	cmd, err := from.Command(ctx, "ctr", "-n", "k8s.io", "tasks", "exec", "--exec-id",
		fmt.Sprintf("stream-%d", time.Now().UnixNano()), id, "/sample", "client", "--timeout=1h", url)
	if err != nil {
		l.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	s := &stream{ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		for r := bufio.NewReader(out); ; {
			if _, err := r.ReadByte(); err != nil {
				break
			}
			s.moved.Store(time.Now().UnixNano())
		}
		_ = cmd.Wait()
	}()
	s.stop = sync.OnceFunc(func() { endExec(cmd, cancel, s.ended) })
	l.t.Cleanup(s.stop)
	await(l.t, "the first part of a long answer in "+ns, 5*time.Second, func() error {
		if s.moved.Load() == 0 {
			return fmt.Errorf("nothing came")
		}
		return nil
	})
	return s
}

// lived tells whether the stream has ended.
func (s *stream) lived() bool {
	select {
	case <-s.ended:
		return false
	default:
		return time.Since(time.Unix(0, s.moved.Load())) < 3*time.Second
	}
}

// gap fails the test if a load in the mesh failed for longer than `longest`, and if one outside failed at all.
func (l life) gap(what string, all loads, from []tally, longest time.Duration) {
	l.t.Helper()
	worst := time.Duration(0)
	for i, one := range all {
		gap := time.Duration(one.tally().failed-from[i].failed) * time.Second / loadRate
		if worst = max(worst, gap); strings.HasPrefix(one.name, inMesh+" ") && gap > longest {
			l.t.Errorf("%s: %s was refused for %s in all, more than %s: %s", what, one.name, gap, longest, one.lastError())
		}
	}
	in, out := all.since(from, inMesh), all.since(from, outMesh)
	l.t.Logf("%s: in the mesh %d served, %d failed, at worst for %s; outside %d served, %d failed",
		what, in.ok, in.failed, worst, out.ok, out.failed)
	if out.failed > 0 {
		l.t.Errorf("%s: %d requests failed outside the mesh: %v", what, out.failed, all.errors(outMesh))
	}
}

// agentsRestart: pods stay captured, nothing passes in the clear, new connections wait for a moment, and open ones
// are cut once their drain timeout is over.
func (l life) agentsRestart() {
	all := l.startLoads()
	nodes := l.Nodes()
	open, outside := l.startStream(inMesh, nodes[0], nodes[1]), l.startStream(outMesh, nodes[0], nodes[1])
	from, start := all.mark(), time.Now()
	l.Kubectl("rollout", "restart", "--namespace", mesh.Namespace, "daemonset/warren-agent")
	l.Kubectl("rollout", "status", "--namespace", mesh.Namespace, "daemonset/warren-agent", "--timeout=120s")
	l.awaitServed(all, inMesh, servedAgain)
	l.gap(fmt.Sprintf("restart of every agent, one after the other, in %s", time.Since(start).Round(time.Second)), all, from,
		replacedGap)
	if open.lived() {
		l.t.Error("a connection lived longer than the agents that carried it")
	}
	if cut := time.Unix(0, open.moved.Load()).Sub(start); cut < lifeDrain-time.Second {
		l.t.Errorf("a connection was cut after %s, before the drain timeout of %s was over", cut, lifeDrain)
	}
	if !outside.lived() {
		l.t.Error("a connection outside the mesh was cut")
	}
	l.awaitWhole(20 * time.Second)
}

// agentKilled: the same without a warning. What was open is cut.
func (l life) agentKilled() {
	all := l.startLoads()
	nodes := l.Nodes()
	open, outside := l.startStream(inMesh, nodes[0], nodes[1]), l.startStream(outMesh, nodes[0], nodes[1])
	from := all.mark()
	before := l.podOn(mesh.Namespace, agents, nodes[0].Name)
	l.signal(nodes[0], "agent", "KILL")
	mesh.Await(l.t, "the agent runs again", time.Minute, func() error {
		now := l.podOn(mesh.Namespace, agents, nodes[0].Name)
		if s := now.Status.ContainerStatuses[0]; s.RestartCount == before.Status.ContainerStatuses[0].RestartCount || !s.Ready {
			return fmt.Errorf("restarts %d, ready %t", s.RestartCount, s.Ready)
		}
		return nil
	})
	l.awaitServed(all, inMesh, servedAgain)
	l.gap("an agent is killed", all, from, agentGap)
	if open.lived() {
		l.t.Error("a connection lived longer than the agent that carried it")
	}
	if !outside.lived() {
		l.t.Error("a connection outside the mesh was cut")
	}
	l.awaitWhole(20 * time.Second)
}

// signal sends a signal to the one process of a name on a node.
func (l life) signal(n *cluster.Node, name, signal string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := n.Exec(ctx, "pgrep", "-x", name)
	if pids := strings.Fields(out); err != nil || len(pids) != 1 {
		l.t.Fatalf("processes called %s on %s: %q, %v", name, n.Name, out, err)
	}
	if _, err := n.Exec(ctx, "kill", "-"+signal, strings.TrimSpace(out)); err != nil {
		l.t.Fatal(err)
	}
}

// upgrade: another version of everything, by agentctl upgrade; what was set before stays set.
func (l life) upgrade() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	next, err := mesh.Build(ctx, filepath.Join(artifacts.dir, "next"), "e2e-next")
	if err == nil {
		err = l.LoadImage(ctx, next.Images...)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	all := l.startLoads()
	from, start := all.mark(), time.Now()
	now := l
	m := *l.Mesh
	m.Product = next
	now.Mesh = &m
	now.Agentctl(append([]string{"upgrade", "--timeout", "110s"}, next.Settings()...)...)
	l.awaitServed(all, inMesh, servedAgain)
	l.gap(fmt.Sprintf("upgrade in %s", time.Since(start).Round(time.Second)), all, from, replacedGap)
	l.awaitWhole(30 * time.Second)
	s := l.Status()
	versions := []string{s.Controller.Version}
	for _, n := range s.Nodes {
		versions = append(versions, n.Version)
	}
	for _, v := range versions {
		if !strings.Contains(v, next.Tag) {
			l.t.Errorf("after the upgrade to %s controller and agents are %q", next.Tag, versions)
			break
		}
	}
	args := l.Kubectl("get", "daemonset/warren-agent", "--namespace", mesh.Namespace,
		"-o", "jsonpath={.spec.template.spec.containers[0].args}")
	if want := "--drain-timeout=" + lifeDrain.String(); !strings.Contains(args, want) {
		l.t.Errorf("the upgrade forgot %s: %s", want, args)
	}
}
