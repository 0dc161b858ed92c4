package mesh

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
	"github.com/warren-mesh/warren/lab"
)

const (
	// refusedWithin is how soon an app whose agent is gone learns that it cannot connect.
	refusedWithin = time.Second
	// givenUpWithin is how soon one on another node does, which waits for a moment whether another agent comes.
	givenUpWithin = 4*time.Second + refusedWithin
	// backWithin is how soon a restarted agent serves its pods again, from its process's start.
	backWithin = 2 * time.Second
)

// bothOf are the two addresses of a pod's echo server.
func bothOf(t testing.TB, m *labtest.Mesh, pod string) []netip.AddrPort {
	t.Helper()
	return []netip.AddrPort{at(t, m, pod, false, echoPort), at(t, m, pod, true, echoPort)}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// startAgent starts a node's agent again.
func startAgent(t testing.TB, m *labtest.Mesh, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	must(t, m.StartAgent(ctx, node))
}

func startController(t testing.TB, m *labtest.Mesh) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	must(t, m.StartController(ctx))
}

// awaitPings waits until connections to all addresses are served.
func awaitPings(t testing.TB, m *labtest.Mesh, from string, to ...netip.AddrPort) {
	t.Helper()
	for _, a := range to {
		labtest.Await(t, from+" reaches "+a.String(), 20*time.Second, func() bool { return ping(t, m, from, a) == nil })
	}
}

// mustRefuse fails the test unless a connection is refused in time.
func mustRefuse(t testing.TB, m *labtest.Mesh, from string, to netip.AddrPort) {
	t.Helper()
	mustFailWithin(t, m, from, to, refusedWithin)
}

func mustFailWithin(t testing.TB, m *labtest.Mesh, from string, to netip.AddrPort, limit time.Duration) {
	t.Helper()
	begin := time.Now()
	err := ping(t, m, from, to)
	if took := time.Since(begin); !isReset(err) && !errors.Is(err, syscall.ECONNREFUSED) || took > limit {
		t.Errorf("%s to %s after %s: %v; want a refusal within %s", from, to, took, err, limit)
	}
}

// pids are the processes of a pod.
func pids(t testing.TB, m *labtest.Mesh, pod string) (out []int) {
	t.Helper()
	procs, err := m.PodProcesses(pod)
	must(t, err)
	for _, p := range procs {
		if !p.Alive() {
			t.Errorf("process %d of pod %s has ended", p.PID, pod)
		}
		out = append(out, p.PID)
	}
	return out
}

func TestAKilledAgentLeaksNothingAndServesAgainAtOnce(t *testing.T) {
	m := up(t, town(meshed, ""))
	pay, web := bothOf(t, m, "shop/pay"), bothOf(t, m, "shop/web")
	awaitPings(t, m, "shop/web", pay...)
	apps := pids(t, m, "shop/web")
	out, in := load(t, m, "shop/web", pay...), load(t, m, "shop/pay", web...)
	open(t, m, "shop/web", pay[0])
	labtest.Await(t, "the load runs", 5*time.Second, func() bool { return out.ok.Load() > 20 && in.ok.Load() > 20 })

	must(t, m.KillAgent("n1", syscall.SIGKILL))
	for _, to := range append(pay, bothOf(t, m, "shop/cart")...) {
		mustRefuse(t, m, "shop/web", to)
	}
	for _, to := range web {
		mustFailWithin(t, m, "shop/pay", to, givenUpWithin) // into the node without agent, by tunnel
		mustRefuse(t, m, "legacy/far", to)
	}
	begin := time.Now()
	startAgent(t, m, "n1")
	answered := time.Since(begin)
	awaitPings(t, m, "shop/web", pay...)
	served := time.Since(begin)
	awaitPings(t, m, "shop/pay", web...)
	t.Logf("restarted agent: its socket answers after %s, its pods are served after %s, from other nodes after %s", answered, served, time.Since(begin))
	if took := time.Since(begin); took > backWithin {
		t.Errorf("served again after %s, want %s", took, backWithin)
	}
	now, was := out.ok.Load(), in.ok.Load()
	labtest.Await(t, "the load recovers", 5*time.Second, func() bool { return out.ok.Load() > now+20 && in.ok.Load() > was+20 })
	if after := pids(t, m, "shop/web"); apps[0] != after[0] {
		t.Error("the pod was restarted")
	}
	for _, v6 := range []bool{false, true} {
		mustBe(t, m, "shop/web", "shop/pay", v6, "mtls")
	}
}

func TestAFailOpenNamespacePassesInPlaintextWhileItsAgentIsAbsent(t *testing.T) {
	const open = `, labels: {warren.dev/mesh: enabled}, annotations: {warren.dev/agent-absent: open}`
	m := labtest.Up(t, town(open, ""))
	w := m.Listen(canary)
	for _, v6 := range []bool{false, true} {
		mustBe(t, m, "shop/web", "shop/pay", v6, "mtls")
	}
	if n := w.Readable.Load(); n > 0 {
		t.Fatalf("%d packets were readable while both agents ran", n)
	}
	before := counters(t, m, "n1")
	must(t, m.KillAgent("n1", syscall.SIGKILL))
	for _, to := range append(bothOf(t, m, "shop/pay"), bothOf(t, m, "shop/cart")...) {
		if err := ping(t, m, "shop/web", to); err != nil {
			t.Errorf("out of a fail-open pod without agent: %v", err)
		}
	}
	for _, to := range bothOf(t, m, "shop/cart") {
		if err := ping(t, m, "legacy/far", to); err != nil {
			t.Errorf("into a fail-open pod without agent: %v", err)
		}
	}
	labtest.Await(t, "the wiretap hears the plaintext", 5*time.Second, func() bool { return w.Readable.Load() > 0 })
	startAgent(t, m, "n1")
	after := counters(t, m, "n1")
	for _, reason := range []string{"out_fail_open", "in_fail_open"} {
		if after[reason] < before[reason]+2 {
			t.Errorf("counter %s went from %d to %d: %v", reason, before[reason], after[reason], after)
		}
	}
	labtest.Await(t, "the restarted agent protects again", 5*time.Second, func() bool {
		seen := w.Readable.Load()
		return ping(t, m, "shop/web", at(t, m, "shop/pay", false, echoPort)) == nil && w.Readable.Load() == seen
	})
}

func TestAnAgentStartsWithoutControllerFromWhatItKept(t *testing.T) {
	m := up(t, town(meshed, ""))
	apply(t, m, func() {
		m.Write("policy.yaml", authzYAML("shop", "only-web", "{rules: [{from: [{source: {serviceAccounts: [web, pay]}}]}]}"))
	})
	pay := bothOf(t, m, "shop/pay")
	awaitPings(t, m, "shop/web", pay...)
	labtest.Await(t, "the agents have kept the policy", 5*time.Second, func() bool {
		info, err := m.Info()
		must(t, err)
		for _, n := range []string{"n1", "n2"} {
			raw, err := os.ReadFile(filepath.Join(info.Dir, "nodes", n, "state", "mesh.state"))
			if err != nil || !strings.Contains(string(raw), "only-web") {
				return false
			}
		}
		return true
	})
	must(t, m.KillController(syscall.SIGKILL))
	for _, node := range []string{"n1", "n2"} {
		must(t, m.KillAgent(node, syscall.SIGKILL))
	}
	begin := time.Now()
	startAgent(t, m, "n1")
	startAgent(t, m, "n2")
	awaitPings(t, m, "shop/web", pay...)
	awaitPings(t, m, "shop/pay", bothOf(t, m, "shop/web")...)
	t.Logf("two agents without controller serve after %s", time.Since(begin))
	for _, to := range pay {
		if err := ping(t, m, "shop/cart", to); !isReset(err) {
			t.Errorf("what the kept policy does not allow: %v", err)
		}
	}
	s := statusAt(t, m, m.AgentSocket("n1"))
	if s.Nodes[0].ControllerConnected || len(s.Problems) == 0 {
		t.Errorf("the agent does not say that it has no controller: %v", s.Problems)
	}
	startController(t, m)
	labtest.Await(t, "the agents follow the new controller", 20*time.Second, func() bool { return len(problemsOf(t, m)) == 0 })
}

func problemsOf(t testing.TB, m *labtest.Mesh) []*adminv1.Problem { return status(t, m).Problems }

func TestAControllersRestartDisturbsNoTraffic(t *testing.T) {
	m := up(t, town(meshed, ""))
	apply(t, m, func() {
		m.Write("policy.yaml", authzYAML("shop", "no-cart", "{"+toPay+", action: DENY, rules: [{from: [{source: {serviceAccounts: [cart]}}]}]}"))
	})
	epoch := status(t, m).Controller.Epoch
	pay := bothOf(t, m, "shop/pay")
	awaitPings(t, m, "shop/web", pay...)
	l := load(t, m, "shop/web", append(pay, bothOf(t, m, "shop/cart")...)...)
	streams := []*stream{open(t, m, "shop/web", pay[0]), open(t, m, "shop/web", at(t, m, "shop/cart", true, echoPort))}
	must(t, m.KillController(syscall.SIGKILL))
	n := l.ok.Load()
	labtest.Await(t, "new connections without controller", 10*time.Second, func() bool { return l.ok.Load() > n+50 })
	if err := ping(t, m, "shop/cart", pay[0]); !isReset(err) {
		t.Errorf("what the policy denies, while the controller is gone: %v", err)
	}
	startController(t, m)
	begin := time.Now()
	labtest.Await(t, "the agents follow the new controller", 20*time.Second, func() bool {
		s := status(t, m)
		for _, node := range s.Nodes {
			if node.Epoch == epoch || !node.ControllerConnected || node.EnforcedVersion != s.Controller.ConfigVersion {
				return false
			}
		}
		return s.Controller.Epoch != epoch && len(s.Nodes) == 2
	})
	t.Logf("agents enforce the new controller's state %s after it answered", time.Since(begin))
	n = l.ok.Load()
	labtest.Await(t, "new connections with the new controller", 10*time.Second, func() bool { return l.ok.Load() > n+50 })
	l.stop()
	moveAll(t, streams)
	if l.failed.Load() > 0 {
		t.Errorf("%d of %d connections failed: %v", l.failed.Load(), l.failed.Load()+l.ok.Load(), l.lastErr.Load())
	}
}

func TestAnAgentThatIsToldToStopDoesSoInTime(t *testing.T) {
	const drain = 2 * time.Second
	m := up(t, town(meshed, ""), func(o *lab.Options) { o.AgentArgs = []string{"--drain-timeout", drain.String()} })
	pay, web := bothOf(t, m, "shop/pay"), bothOf(t, m, "shop/web")
	streams := []*stream{
		open(t, m, "shop/web", pay[0]), open(t, m, "shop/pay", web[1]), open(t, m, "shop/web", at(t, m, "shop/cart", false, echoPort)),
	}
	plain := open(t, m, "legacy/near", listenInNode(t, m, "n1", false))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	follow, err := m.Admin(m.ControllerSocket()).Flows(ctx, &adminv1.FlowsRequest{Follow: true})
	must(t, err)
	go func() {
		for _, err := follow.Recv(); err == nil; _, err = follow.Recv() {
		}
	}()
	if out := m.Agentctl("flows"); out.Code != 0 {
		t.Errorf("flows: %s", out.Err)
	}
	begin := time.Now()
	must(t, m.KillAgent("n1", syscall.SIGTERM)) // returns once it has ended
	took := time.Since(begin)
	t.Logf("an agent with open connections and a drain timeout of %s ended after %s", drain, took)
	if took > drain+2*time.Second {
		t.Errorf("it ended after %s", took)
	}
	for _, s := range streams {
		if end, _ := s.mustEnd(t, time.Second); end.Sub(begin) < drain-100*time.Millisecond {
			t.Errorf("%s was cut after %s, before its time was up", s.name, end.Sub(begin))
		}
	}
	plain.mustMove(t)
	startAgent(t, m, "n1")
	awaitPings(t, m, "shop/web", pay...)
	awaitPings(t, m, "shop/pay", web...)

	begin = time.Now()
	for _, node := range []string{"n1", "n2"} {
		must(t, m.KillAgent(node, syscall.SIGTERM))
	}
	t.Logf("two agents without open connections ended after %s", time.Since(begin))
	if took := time.Since(begin); took > drain {
		t.Errorf("agents without open connections ended after %s", took)
	}
}

// flowAt waits for a flow of one agent's, asked without the controller.
func flowAt(t testing.TB, m *labtest.Mesh, node string, q *adminv1.FlowsRequest, ok func(*adminv1.Flow) bool) (found *adminv1.Flow) {
	t.Helper()
	q.Last = 1000
	labtest.Await(t, "flow at "+node, 10*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stream, err := m.Admin(m.AgentSocket(node)).Flows(ctx, q)
		must(t, err)
		for f, err := stream.Recv(); err == nil; f, err = stream.Recv() {
			if ok(f) {
				found = f
			}
		}
		return found != nil
	})
	return found
}
