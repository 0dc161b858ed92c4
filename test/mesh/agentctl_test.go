package mesh

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
)

// flowLine is what of `agentctl flows -o json` these tests read.
type flowLine struct {
	ID, Node, Reporter, Verdict, Reason, Rule, Security string
	Src, Dst                                            struct{ Namespace, Workload, SpiffeID string }
	EndUnixNano                                         json.Number
}

// flowLines runs agentctl flows and reads its lines.
func flowLines(t *testing.T, m *labtest.Mesh, args ...string) (out []flowLine) {
	t.Helper()
	r := m.Agentctl(append([]string{"flows", "-o", "json", "--last", "1000"}, args...)...)
	if r.Code != 0 {
		t.Fatalf("flows %q ends with %d: %s", args, r.Code, r.Err)
	}
	for line := range strings.Lines(r.Out) {
		out = append(out, parseFlow(t, line))
	}
	return out
}

func parseFlow(t *testing.T, line string) (f flowLine) {
	t.Helper()
	if err := json.Unmarshal([]byte(line), &f); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	return f
}

// busyCity is a city in which web may reach pay, the guest may not, and a neighbour without identity may.
func busyCity(t *testing.T) *labtest.Mesh {
	t.Helper()
	m := up(t, city())
	apply(t, m, func() {
		m.Write("policy.yaml", authzYAML("shop", "no-guests", "{"+toPay+", action: DENY, rules: [{from: [{source: {namespaces: [guest]}}]}]}"))
	})
	for _, to := range bothOf(t, m, "shop/pay") {
		must(t, ping(t, m, "shop/web", to))
		must(t, pingPlain(t, m, "legacy/near", to))
		if err := ping(t, m, "guest/app", to); err == nil {
			t.Error("the guest was let in")
		}
	}
	must(t, ping(t, m, "shop/web", at(t, m, "shop/cart", false, 9001)))
	m.AwaitFlow("the last flow", &adminv1.FlowsRequest{Port: 9001}, func(f *adminv1.Flow) bool { return f.Reporter == "inbound" && f.EndUnixNano != 0 })
	labtest.Await(t, "all flows have ended", 5*time.Second, func() bool {
		s := status(t, m)
		return s.Nodes[0].OpenConnections+s.Nodes[1].OpenConnections == 0
	})
	return m
}

func TestFlowsFilterWhatTheWholeMeshSaw(t *testing.T) {
	m := busyCity(t)
	const guestID = "spiffe://cluster.local/ns/guest/sa/app"
	for _, c := range []struct {
		name string
		args []string
		want int
		all  func(flowLine) bool
	}{
		{"from", []string{"--from", "shop/web"}, 6, func(f flowLine) bool { return f.Src.Workload == "web" }},
		{"to", []string{"--to", "shop/pay"}, 10, func(f flowLine) bool { return f.Dst.Workload == "pay" }},
		{"from and to", []string{"--from", "shop/web", "--to", "shop/pay"}, 4, func(f flowLine) bool {
			return f.Src.SpiffeID == webID && f.Dst.SpiffeID == payID && f.Security == "mtls" && f.Verdict == "forwarded"
		}},
		{"namespace", []string{"--from", "guest/"}, 4, func(f flowLine) bool { return f.Src.SpiffeID == guestID }},
		{"denied", []string{"--verdict", "denied"}, 4, func(f flowLine) bool { return f.Src.Workload == "app" }},
		{"denied, at the server", []string{"--verdict", "denied", "--reporter", "inbound"}, 2, func(f flowLine) bool {
			return strings.Contains(f.Rule, "shop/no-guests") && f.Dst.SpiffeID == payID
		}},
		{"denied, at the client, whose node is told the rule", []string{"--verdict", "denied", "--reporter", "outbound"}, 2, func(f flowLine) bool {
			return strings.Contains(f.Rule, "shop/no-guests") && f.Src.SpiffeID == guestID
		}},
		{"port", []string{"--port", "9001"}, 2, func(f flowLine) bool { return f.Dst.Workload == "cart" && f.Security == "local" }},
		{"without identity", []string{"--from", "legacy/near"}, 2, func(f flowLine) bool { return f.Src.SpiffeID == "" && f.Security == "plaintext" }},
		{"node", []string{"--node", "n2"}, 6, func(f flowLine) bool { return f.Node == "n2" && f.Reporter == "inbound" }},
		{"since a minute", []string{"--since", "1m"}, 12, func(flowLine) bool { return true }},
		{"since later", []string{"--since", time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}, 0, nil},
		{"last", []string{"--last", "3"}, 3, func(flowLine) bool { return true }},
		{"agent", []string{"--socket", m.AgentSocket("n2")}, 6, func(f flowLine) bool { return f.Node == "n2" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := m.With(t)
			got := flowLines(t, m, c.args...)
			if len(got) != c.want {
				t.Errorf("%d flows, want %d: %+v", len(got), c.want, got)
			}
			for _, f := range got {
				if !c.all(f) {
					t.Errorf("flow does not belong here: %+v", f)
				}
			}
		})
	}
	t.Run("id", func(t *testing.T) {
		m := m.With(t)
		id := flowLines(t, m, "--from", "shop/web", "--to", "shop/pay")[0].ID
		got := flowLines(t, m, "--id", id)
		if len(got) != 2 || got[0].ID != id || got[1].ID != id || got[0].Reporter == got[1].Reporter {
			t.Errorf("of one connection there is %+v, want one record of each end", got)
		}
	})
	if r := m.Agentctl("flows", "-o", "wide", "--from", "shop/web"); grep(r.Out, webID, payID, "forwarded") == "" {
		t.Errorf("the table has no row with both identities:\n%s", r.Out)
	}
	if r := m.Agentctl("flows", "--verdict", "bogus"); r.Code != 2 {
		t.Errorf("a verdict that does not exist: exit code %d", r.Code)
	}
}

func TestFlowsFollowShowsConnectionsAsTheyOpenAndEnd(t *testing.T) {
	m := up(t, town(meshed, ""))
	for name, socket := range map[string]string{"controller": m.ControllerSocket(), "agent": m.AgentSocket("n2")} {
		t.Run(name, func(t *testing.T) {
			m := m.With(t)
			cmd := exec.Command(filepath.Join(labtest.BinDir(), "agentctl"), "--socket", socket, "flows", "-f", "-o", "json", "--reporter", "inbound")
			pipe, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			defer func() {
				_ = cmd.Process.Signal(syscall.SIGINT)
				if err := cmd.Wait(); err != nil {
					t.Errorf("an interrupted follow ends with %v", err)
				}
			}()
			lines := make(chan string, 1024)
			go func() {
				defer close(lines)
				for s := bufio.NewScanner(pipe); s.Scan(); {
					lines <- s.Text()
				}
			}()
			opened, ended := map[string]bool{}, map[string]bool{}
			deadline := time.After(10 * time.Second)
			for len(ended) == 0 {
				must(t, ping(t, m, "shop/web", at(t, m, "shop/pay", false, echoPort)))
				select {
				case line := <-lines:
					f := parseFlow(t, line)
					if f.EndUnixNano == "" || f.EndUnixNano == "0" {
						opened[f.ID] = true
					} else if opened[f.ID] {
						ended[f.ID] = true
					}
				case <-deadline:
					t.Fatalf("no connection was seen to open and to end: %v", opened)
				case <-time.After(50 * time.Millisecond): // the rate of the connections
				}
			}
		})
	}
}

func TestTheTablesShowTheRealMesh(t *testing.T) {
	m := busyCity(t)
	held := open(t, m, "shop/web", at(t, m, "shop/pay", false, echoPort))
	payAddr := at(t, m, "shop/pay", false, 0).Addr().String()
	for _, c := range []struct {
		args []string
		row  []string
	}{
		{[]string{"status"}, []string{"n1", "connected", "(latest)"}},
		{[]string{"status"}, []string{"n2", "connected", "(latest)"}},
		{[]string{"status", "--pods"}, []string{"shop", "pay", "enrolled"}},
		{[]string{"status", "pods", "-n", "legacy"}, []string{"near", "unmanaged"}},
		{[]string{"workloads", "-o", "wide"}, []string{"shop", "pay", "n2", payID, payAddr}},
		{[]string{"workloads"}, []string{"legacy", "far", "n2"}},
		{[]string{"services", "-n", "shop"}, []string{"pay", "80", "1/1"}},
		{[]string{"policies"}, []string{"shop", "no-guests", "AuthorizationPolicy", "DENY", "1/1"}},
		{[]string{"certs"}, []string{"n1", webID, "valid"}},
		{[]string{"connections"}, []string{"shop/web", "shop/pay:9000", "mtls"}},
		{[]string{"--socket", m.AgentSocket("n1"), "status"}, []string{"n1"}},
		{[]string{"--socket", m.AgentSocket("n1"), "workloads"}, []string{"shop", "pay", "n2"}},
		{[]string{"--socket", m.AgentSocket("n2"), "services"}, []string{"shop", "pay"}},
		{[]string{"--socket", m.AgentSocket("n2"), "policies"}, []string{"shop", "no-guests", "DENY"}},
		{[]string{"--socket", m.AgentSocket("n2"), "connections"}, []string{"shop/web", "shop/pay:9000"}},
		{[]string{"--socket", m.AgentSocket("n2"), "authz", "can", "--from", "shop/web", "--to", "shop/pay:9000"}, []string{"yes"}},
		{[]string{"--socket", m.AgentSocket("n1"), "why", "shop/web", "shop/pay:9000"}, []string{"√", "tls"}},
		{[]string{"check"}, []string{"√", "agents are connected"}},
	} {
		r := m.Agentctl(c.args...)
		if r.Code != 0 || grep(r.Out, c.row...) == "" {
			t.Errorf("agentctl %s ends with %d; want 0 and a row with %q:\n%s%s", strings.Join(c.args, " "), r.Code, c.row, r.Out, r.Err)
		}
	}
	if r := m.Agentctl("--socket", m.AgentSocket("n1"), "policies"); strings.Contains(r.Out, "no-guests") {
		t.Errorf("a node has the policy of another one's pod:\n%s", r.Out)
	}
	r := m.Agentctl("--socket", m.AgentSocket("n1"), "authz", "can", "--from", "shop/web", "--to", "shop/pay:9000")
	if r.Code == 0 || !strings.Contains(r.Err, "shop/pay is on node n2") {
		t.Errorf("a node answers for another one's pod with %d:\n%s%s", r.Code, r.Out, r.Err)
	}
	if r := m.Agentctl("--socket", m.AgentSocket("n1"), "connections"); strings.Contains(r.Out, "n2") && grep(r.Out, "server n2") != "" {
		t.Errorf("an agent shows another node's connections:\n%s", r.Out)
	}
	held.mustMove(t)
}

func TestProblemsComeFirstAndSetTheExitCode(t *testing.T) {
	m := up(t, town(meshed, ""))
	if r := m.Agentctl("check"); r.Code != 0 {
		t.Errorf("check of a healthy mesh ends with %d:\n%s", r.Code, r.Out)
	}
	if r := m.Agentctl("status", "--wait", "--timeout", "5s"); r.Code != 0 {
		t.Errorf("status --wait of a healthy mesh ends with %d:\n%s", r.Code, r.Out+r.Err)
	}
	must(t, ping(t, m, "shop/web", at(t, m, "shop/pay", false, echoPort)))
	must(t, m.KillAgent("n2", syscall.SIGKILL))
	labtest.Await(t, "status notices the agent's absence", 5*time.Second, func() bool { return m.Agentctl("status").Code == 3 })
	out := m.Agentctl("status").Out
	problem, table := strings.Index(out, "not connected"), strings.Index(out, "controller dev")
	if problem < 0 || table < 0 || problem > table {
		t.Errorf("the problem is not before the tables:\n%s", out)
	}
	if r := m.Agentctl("check"); r.Code != 3 || grep(r.Out, "×", "connected") == "" {
		t.Errorf("check ends with %d:\n%s", r.Code, r.Out)
	}
	if r := m.Agentctl("--socket", m.AgentSocket("n2"), "status"); r.Code != 1 || !strings.Contains(r.Err, "n2") {
		t.Errorf("the dead agent's socket: exit code %d, %s", r.Code, r.Err)
	}
	must(t, m.KillController(syscall.SIGKILL))
	if r := m.Agentctl("--socket", m.AgentSocket("n1"), "status"); grep(r.Out, "n1") == "" {
		t.Errorf("an agent without controller: exit code %d\n%s%s", r.Code, r.Out, r.Err)
	}
}
