package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/test/e2e/cluster"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

// loadRate is a load's requests a second: eight loads share two cores with a cluster.
const loadRate = 20

// words are what requests in each namespace carry.
var words = map[string]string{inMesh: lifeWord, outMesh: "anybody-may-read"}

// load is requests at a steady rate from one pod to the service of its namespace. It is started by the container
// runtime itself, so that it lives without an API server.
type load struct {
	name string
	stop func()

	mu      sync.Mutex
	now     tally
	changed time.Time // when a request failed last
	served  time.Time // when one was served last
	err     string    // of the last that failed
}

// tally counts requests.
type tally struct{ ok, failed, late int }

// loads are all of them: both namespaces, both nodes, with a connection for each request and with kept ones.
type loads []*load

// startLoads starts requests in both namespaces until the test ends, and returns when all are served.
func (l life) startLoads() loads {
	l.t.Helper()
	var all loads
	for _, ns := range []string{inMesh, outMesh} {
		for _, n := range l.Nodes() {
			for _, how := range []string{"--new-connections=true", "--new-connections=false"} {
				all = append(all, l.startLoad(n, ns, "http://server/"+words[ns], how))
			}
		}
	}
	await(l.t, "every load is served", 30*time.Second, func() error {
		for _, one := range all {
			if one.tally().ok == 0 {
				return fmt.Errorf("%s: %s", one.name, one.lastError())
			}
		}
		return nil
	})
	return all
}

func (l life) startLoad(n *cluster.Node, ns, url string, flags ...string) *load {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	id := strings.TrimPrefix(l.podOn(ns, "app=asker", n.Name).Status.ContainerStatuses[0].ContainerID, "containerd://")
	argv := []string{"ctr", "-n", "k8s.io", "tasks", "exec", "--exec-id", fmt.Sprintf("load-%d", time.Now().UnixNano()), id,
		"/sample", "load", "--duration=0", "--report=100ms", "--connections=8", fmt.Sprintf("--rate=%d", loadRate)}
	cmd, err := n.Command(ctx, append(append(argv, flags...), url)...)
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
	one := &load{name: ns + " on " + n.Name + " " + strings.Join(flags, " ")}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			one.heard(lines.Text())
		}
		_ = cmd.Wait()
	}()
	one.stop = sync.OnceFunc(func() { endExec(cmd, cancel, done) })
	l.t.Cleanup(one.stop)
	return one
}

// endExec ends a process that ctr runs in a container. ctr hands a signal on; killed, it would leave the process running.
func endExec(cmd *exec.Cmd, cancel context.CancelFunc, done <-chan struct{}) {
	group := -cmd.Process.Pid
	kill := time.AfterFunc(5*time.Second, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
	defer kill.Stop()
	cmd.Cancel = func() error { return syscall.Kill(group, syscall.SIGTERM) }
	cancel()
	<-done
}

// heard takes in a line that the load printed.
func (o *load) heard(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if text, ok := strings.CutPrefix(line, "last error: "); ok {
		o.err = text
		return
	}
	var now tally
	if n, _ := fmt.Sscanf(line, "%d ok, %d failed, %d late", &now.ok, &now.failed, &now.late); n != 3 {
		o.err = line
		return
	}
	if now.failed > o.now.failed {
		o.changed = time.Now()
	}
	if now.ok > o.now.ok {
		o.served = time.Now()
	}
	o.now = now
}

func (o *load) tally() tally {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

func (o *load) lastError() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// mark is how far every load is.
func (all loads) mark() []tally {
	out := make([]tally, len(all))
	for i, one := range all {
		out[i] = one.tally()
	}
	return out
}

// since sums up what happened in a namespace after a mark.
func (all loads) since(from []tally, namespace string) (sum tally) {
	for i, one := range all {
		if now := one.tally(); strings.HasPrefix(one.name, namespace+" ") {
			sum.ok += now.ok - from[i].ok
			sum.failed += now.failed - from[i].failed
			sum.late += now.late - from[i].late
		}
	}
	return sum
}

// stopAll stops every load.
func (all loads) stopAll() {
	for _, one := range all {
		one.stop()
	}
}

// errors are what the loads of a namespace said last.
func (all loads) errors(namespace string) (out []string) {
	for _, one := range all {
		if err := one.lastError(); err != "" && strings.HasPrefix(one.name, namespace+" ") {
			out = append(out, one.name+": "+err)
		}
	}
	return out
}

// compare fails the test if more requests failed in the mesh than outside of it, since the mark, and says how many.
func (l life) compare(what string, all loads, from []tally) {
	l.t.Helper()
	l.compareBut(what, all, from, 0)
}

// compareBut is compare that lets some more fail. Where requests fail outside too, because the machine is too busy for
// its pods, chance has its share of those.
func (l life) compareBut(what string, all loads, from []tally, more int) {
	l.t.Helper()
	in, out := all.since(from, inMesh), all.since(from, outMesh)
	l.t.Logf("%s: in the mesh %d served, %d failed, %d late; outside %d served, %d failed, %d late",
		what, in.ok, in.failed, in.late, out.ok, out.failed, out.late)
	if in.ok < 50 || out.ok < 50 {
		l.t.Errorf("%s: that few requests prove nothing", what)
	}
	if in.failed > out.failed+out.failed/2+more {
		l.t.Errorf("%s: %d requests failed in the mesh that would have been served without one (outside %d failed):\n%s",
			what, in.failed-out.failed, out.failed, strings.Join(all.errors(inMesh), "\n"))
		l.t.Cleanup(l.whatAgentsSay) // by then there is an API server again
	}
}

// whatAgentsSay logs the connections that failed by the agents' word. Their flows do not reach back that far.
func (l life) whatAgentsSay() {
	var said []string
	for _, p := range l.pods(mesh.Namespace, agents) {
		out, err := l.TryKubectl("logs", "--namespace", mesh.Namespace, p.Name, "--since=10m")
		if err != nil {
			said = append(said, err.Error())
		}
		for line := range strings.Lines(out) {
			if strings.Contains(line, "msg=connection") && !strings.Contains(line, "reason=closed") || strings.Contains(line, "level=ERROR") {
				said = append(said, p.Spec.NodeName+": "+strings.TrimSpace(line))
			}
		}
	}
	l.t.Logf("%d lines of agents about connections that did not just close, the last of them:\n%s",
		len(said), strings.Join(said[max(0, len(said)-20):], "\n"))
}

// awaitServed waits until every load of a namespace has been served for a second without a failure.
func (l life) awaitServed(all loads, namespace string, d time.Duration) {
	l.t.Helper()
	start := time.Now()
	await(l.t, "every request in "+namespace+" is served", d, func() error {
		for _, one := range all {
			if !strings.HasPrefix(one.name, namespace+" ") {
				continue
			}
			one.mu.Lock()
			failed, served := time.Since(one.changed), time.Since(one.served)
			one.mu.Unlock()
			if failed < time.Second || served > time.Second || time.Since(start) < time.Second {
				return fmt.Errorf("%s: served %s ago, failed %s ago: %s", one.name, served, failed, one.lastError())
			}
		}
		return nil
	})
}
