package cni_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/cni/netconf"
	"github.com/warren-mesh/warren/internal/nettest"
)

func TestPodStartsAndEnds(t *testing.T) {
	t.Parallel()
	k, agent := newKubelet(t), &fakeAgent{}
	agent.serve(t, k.socket)
	s := k.sandbox(t, "shop", "web")
	result, err := s.add()
	if err != nil {
		t.Fatal(err)
	}
	r, err := types100.NewResultFromResult(result)
	if err != nil || len(r.IPs) != 1 || !s.hasNetwork() || len(r.Interfaces) != 2 {
		t.Errorf("result %+v (%v)", r, err)
	}
	if len(agent.added) != 1 {
		t.Fatalf("the agent was told %v", agent.added)
	}
	if q := agent.added[0]; q.Uid != "uid-web" || q.Namespace != "shop" || q.Name != "web" || q.Netns != s.ns.Path {
		t.Errorf("the agent was told %v", q)
	}
	for range 2 { // a runtime may repeat it
		if err := s.del(false); err != nil {
			t.Error(err)
		}
	}
	if s.hasNetwork() || len(agent.removed) != 2 || agent.removed[0] != "uid-web" {
		t.Errorf("after DEL: %v", agent.removed)
	}
	if err := s.del(true); err != nil {
		t.Error(err)
	}
	if len(agent.removed) != 2 {
		t.Error("a DEL for a sandbox that is long gone let a pod go that may run in another")
	}
}

// TestWhoMayStart: what the agent says, or not, against what the configuration wants.
func TestWhoMayStart(t *testing.T) {
	t.Parallel()
	answer := func(state string, err error) func(context.Context, *adminv1.AddPodRequest) (string, error) {
		return func(context.Context, *adminv1.AddPodRequest) (string, error) { return state, err }
	}
	hang := func(ctx context.Context, _ *adminv1.AddPodRequest) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}
	unknown := answer("", status.Error(codes.NotFound, "the controller does not know this pod"))
	pending := answer("", status.Error(codes.Unavailable, "add pod shop/web: still pending: no \x1b[31mred\n BPF"))
	absent, later := "asking the Warren agent of this node: no answer: dial unix", "kubectl -n warren-system get pods -o wide"
	for _, row := range []struct {
		name      string
		onAdd     func(context.Context, *adminv1.AddPodRequest) (string, error)
		noAgent   bool
		namespace string
		absent    netconf.Absent
		want      []string // of the error; none: it starts
		least     time.Duration
		most      time.Duration
	}{
		{name: "not in the mesh", onAdd: answer("unmanaged", nil), most: 2 * time.Second},
		{name: "no agent", noAgent: true, want: []string{"pod shop/web is not started", absent, later, "/etc/cni/net.d"}, least: 3 * time.Second, most: 6 * time.Second},
		{name: "no agent allowed", noAgent: true, absent: netconf.Allow, least: 3 * time.Second, most: 6 * time.Second},
		{name: "no agent exempt", noAgent: true, namespace: "kube-system", most: 2 * time.Second},
		{name: "hangs", onAdd: hang, want: []string{"no answer on ", "for 12", later}, least: 11 * time.Second, most: 16 * time.Second},
		{name: "hangs allowed", onAdd: hang, absent: netconf.Allow, least: 11 * time.Second, most: 16 * time.Second},
		{name: "hangs exempt", onAdd: hang, namespace: "warren-system", least: time.Second, most: 5 * time.Second},
		{name: "unknown", onAdd: unknown, want: []string{"nobody knows yet whether it is in the mesh", "the controller does not know this pod", later, "agentctl status"}, most: 2 * time.Second},
		{name: "unknown allowed", onAdd: unknown, absent: netconf.Allow, most: 2 * time.Second},
		{name: "unknown exempt", onAdd: unknown, namespace: "kube-system", most: 2 * time.Second},
		{name: "pending", onAdd: pending, want: []string{"could not capture it", `no \x1b[31mred\n BPF`, "agentctl status"}, most: 2 * time.Second},
		{name: "pending allowed", onAdd: pending, absent: netconf.Allow, want: []string{"could not capture it"}, most: 2 * time.Second},
		{name: "pending exempt", onAdd: pending, namespace: "kube-system", most: 2 * time.Second},
		{name: "another version", onAdd: answer("halfway", nil), want: []string{"has the pod as halfway", "different versions"}, most: 2 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			k := newKubelet(t)
			k.conf.AgentAbsent = row.absent
			if !row.noAgent {
				(&fakeAgent{onAdd: row.onAdd}).serve(t, k.socket)
			}
			namespace := "shop"
			if row.namespace != "" {
				namespace = row.namespace
			}
			s := k.sandbox(t, namespace, "web")
			started := time.Now()
			_, err := s.add()
			took := time.Since(started)
			if (err != nil) != (row.want != nil) || took < row.least || took > row.most {
				t.Errorf("after %s: %v", took, err)
			}
			for _, part := range row.want {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("%v, want a word on %q", err, part)
				}
			}
			if err != nil {
				t.Log(err)
			}
			if err := s.del(false); err != nil || s.hasNetwork() {
				t.Errorf("DEL: %v", err)
			}
		})
	}
}

// TestSilence: what listens on the socket, but is no agent that answers.
func TestSilence(t *testing.T) {
	t.Parallel()
	for name, behave := range map[string]func(net.Conn){
		"closes":        func(c net.Conn) { c.Close() },
		"says nothing":  func(net.Conn) {},
		"talks rubbish": func(c net.Conn) { _, _ = c.Write([]byte(strings.Repeat("rubbish ", 1000))) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKubelet(t)
			l := listen(t, k.socket)
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					defer c.Close()
					behave(c)
				}
			}()
			s := k.sandbox(t, "shop", "web")
			started := time.Now()
			_, err := s.add()
			if took := time.Since(started); err == nil || !strings.Contains(err.Error(), "node: no answer on "+k.socket) || took > 16*time.Second {
				t.Errorf("after %s: %v", took, err)
			}
			started = time.Now()
			if err := s.del(false); err != nil || time.Since(started) > 4*time.Second {
				t.Errorf("DEL after %s: %v", time.Since(started), err)
			}
		})
	}
}

// TestAgentRestarts: a pod that starts meanwhile starts a little later, and fails no event.
func TestAgentRestarts(t *testing.T) {
	t.Parallel()
	k := newKubelet(t)
	inCall := make(chan struct{})
	old := &fakeAgent{onAdd: func(ctx context.Context, _ *adminv1.AddPodRequest) (string, error) {
		close(inCall)
		<-ctx.Done()
		return "", ctx.Err()
	}}
	stop := old.serve(t, k.socket)
	s := k.sandbox(t, "shop", "web")
	done := make(chan error)
	go func() { _, err := s.add(); done <- err }()
	<-inCall
	stop()
	agent := &fakeAgent{}
	agent.serve(t, k.socket)
	if err := <-done; err != nil || len(agent.added) != 1 {
		t.Errorf("%v; the new agent was told %v", err, agent.added)
	}
}

// TestOneBadPodBlocksNoOther: while the agent does not get done with one pod, others come and go.
func TestOneBadPodBlocksNoOther(t *testing.T) {
	t.Parallel()
	k := newKubelet(t)
	stuck, release := make(chan struct{}), make(chan struct{})
	agent := &fakeAgent{onAdd: func(_ context.Context, q *adminv1.AddPodRequest) (string, error) {
		if q.Name == "bad" {
			close(stuck)
			<-release
			return "", status.Error(codes.Unavailable, "bad")
		}
		return "enrolled", nil
	}}
	agent.serve(t, k.socket)
	bad := k.sandbox(t, "shop", "bad")
	done := make(chan error)
	go func() { _, err := bad.add(); done <- err }()
	<-stuck
	var all sync.WaitGroup
	for i := range 10 {
		s := k.sandbox(t, "shop", fmt.Sprintf("good-%d", i))
		all.Go(func() {
			if _, err := s.add(); err != nil {
				t.Error(err)
			}
			if err := s.del(false); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	select {
	case err := <-done:
		t.Fatalf("the bad pod was done first: %v", err)
	default:
	}
	close(release)
	if err := <-done; err == nil {
		t.Error("the bad pod started")
	}
}

func TestDelWithoutAgent(t *testing.T) {
	t.Parallel()
	k := newKubelet(t)
	agent := &fakeAgent{}
	stop := agent.serve(t, k.socket)
	s := k.sandbox(t, "shop", "web")
	if _, err := s.add(); err != nil {
		t.Fatal(err)
	}
	stop()
	started := time.Now()
	for range 2 {
		if err := s.del(false); err != nil {
			t.Error(err)
		}
	}
	if s.hasNetwork() || time.Since(started) > 4*time.Second {
		t.Errorf("after %s the network is there: %t", time.Since(started), s.hasNetwork())
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, namespace, state, reason, want string
		absent                               netconf.Absent
		stopped                              bool
	}{
		{name: "enrolled", state: "enrolled"},
		{name: "unmanaged", state: "unmanaged"},
		{name: "pending", state: "pending", reason: "no\nBPF", want: `pod shop/web is not captured: the Warren agent of this node has it as pending ("no\nBPF")`},
		{name: "unknown", want: "pod shop/web is not captured: the Warren agent of this node has it as unknown"},
		{name: "unknown exempt", namespace: "kube-system"},
		{name: "no agent", stopped: true, want: "pod shop/web cannot be checked"},
		{name: "no agent allowed", stopped: true, absent: netconf.Allow},
		{name: "no agent exempt", stopped: true, namespace: "kube-system"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			k, agent := newKubelet(t), &fakeAgent{pods: []*adminv1.PodStatus{{Uid: "another", State: "enrolled"}}}
			if row.state != "" {
				agent.pods = append(agent.pods, &adminv1.PodStatus{Uid: "uid-web", State: row.state, Reason: row.reason})
			}
			if row.namespace == "" {
				row.namespace = "shop"
			}
			k.conf.AgentAbsent = row.absent
			stop := agent.serve(t, k.socket)
			s := k.sandbox(t, row.namespace, "web")
			if _, err := s.add(); err != nil {
				t.Fatal(err)
			}
			if row.stopped {
				stop()
			}
			err := s.check()
			if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("%v, want %q", err, row.want)
			}
			if len(agent.added) != 1 || len(agent.removed) != 0 {
				t.Error("CHECK changed something")
			}
		})
	}
}

// TestVersions: the result of the plug-in before comes out to the byte, fields of nobody's knowledge included.
func TestVersions(t *testing.T) {
	t.Parallel()
	k, agent := newKubelet(t), &fakeAgent{}
	agent.serve(t, k.socket)
	pod := nettest.New(t)
	env := map[string]string{"CNI_NETNS": pod.Path, "CNI_ARGS": "K8S_POD_UID=u;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"}
	stdin := func(version, prev string) string {
		return fmt.Sprintf(`{"cniVersion":%q,"name":"pods","type":"warren-cni","socket":%q%s}`, version, k.socket, prev)
	}
	for _, version := range netconf.Supported() {
		prev := fmt.Sprintf(`{ "ips": [{"version": "4", "address":"10.1.2.3/24"}],  "x-unknown":[1.50,"é"], "cniVersion":%q}`, version)
		out, err := plugin(t, "ADD", stdin(version, `,"prevResult":`+prev), env)
		if err != nil || out != prev {
			t.Errorf("%s: %q (%v), want %q", version, out, err, prev)
		}
		if out, err := plugin(t, "DEL", stdin(version, `,"prevResult":`+prev), env); err != nil || out != "" {
			t.Errorf("%s: DEL: %q (%v)", version, out, err)
		}
	}
	if out, err := plugin(t, "ADD", stdin("0.4.0", `,"prevResult":{"dns":{}}`), env); err != nil || out != `{"cniVersion":"0.4.0","dns":{}}` {
		t.Errorf("a result without version: %q (%v)", out, err)
	}
	if _, err := plugin(t, "ADD", stdin("0.2.0", ""), env); err == nil || err.Code != 1 {
		t.Errorf("0.2.0: %v", err)
	}
	for _, prev := range []string{"", `,"prevResult":null`, `,"prevResult":[]`} {
		if _, err := plugin(t, "ADD", stdin("1.0.0", prev), env); err == nil || !strings.Contains(err.Msg, "it must come after the plug-in that makes the pod's network") {
			t.Errorf("ADD without a plug-in before (%s): %v", prev, err)
		}
	}
	for _, command := range []string{"STATUS", "GC"} {
		if out, err := plugin(t, command, stdin("1.1.0", `,"cni.dev/valid-attachments":[]`), nil); err != nil || out != "" {
			t.Errorf("%s: %q (%v)", command, out, err)
		}
	}
	if _, err := plugin(t, "STATUS", `{"cniVersion":"1.1.0","name":"pods","type":"warren-cni","agentAbsent":"open"}`, nil); err == nil || !strings.Contains(err.Msg, "agentAbsent") {
		t.Errorf("STATUS of a bad configuration: %v", err)
	}
	if _, err := plugin(t, "DEL", `{"cniVersion":"1.1.0","name":"pods","type":"warren-cni","agentAbsent":"open"}`, env); err != nil {
		t.Errorf("DEL with a bad configuration: %v", err)
	}
	if out, err := plugin(t, "VERSION", "", nil); err != nil || !strings.Contains(out, `"0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"`) {
		t.Errorf("VERSION: %q (%v)", out, err)
	}
}

// TestStrangeArgs: CNI_ARGS is not ours; what it holds comes into an event escaped and short, or not at all.
func TestStrangeArgs(t *testing.T) {
	t.Parallel()
	k, agent := newKubelet(t), &fakeAgent{}
	agent.serve(t, k.socket)
	pod := nettest.New(t)
	stdin := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"pods","type":"warren-cni","socket":%q,"prevResult":{"cniVersion":"1.0.0"}}`, k.socket)
	for _, row := range []struct{ name, args, want string }{
		{"none", "", "upgrade the runtime of this node"},
		{"old runtime", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web", "no K8S_POD_UID in CNI_ARGS"},
		{"old runtime exempt", "IgnoreUnknown=1;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=web", ""},
		{"no name", "K8S_POD_UID=u;K8S_POD_NAMESPACE=shop", "no K8S_POD_NAMESPACE or no K8S_POD_NAME"},
		{"control characters", "K8S_POD_UID=u\x1b]0;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web", `K8S_POD_UID is "u\x1b]0"`},
		{"line feed", "K8S_POD_UID=u;K8S_POD_NAMESPACE=kube-system\n;K8S_POD_NAME=web", `K8S_POD_NAMESPACE is "kube-system\n"`},
		{"not UTF-8", "K8S_POD_UID=\xff\xfe;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web", `K8S_POD_UID is "\xff\xfe"`},
		{"slash", "K8S_POD_UID=a/b;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web", `K8S_POD_UID is "a/b"`},
		{"twice", "K8S_POD_UID=u;K8S_POD_NAMESPACE=shop;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=web", "CNI_ARGS has K8S_POD_NAMESPACE twice"},
		{"long", "K8S_POD_UID=" + strings.Repeat("u", 100_000) + ";K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web", "has 100000 bytes, more than 253"},
		{"many", strings.Repeat("A=b;", 25_000) + "K8S_POD_UID=u;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;;=;x", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			env := map[string]string{"CNI_NETNS": pod.Path, "CNI_ARGS": row.args}
			_, err := plugin(t, "ADD", stdin, env)
			if (err == nil) != (row.want == "") {
				t.Fatalf("%v, want %q", err, row.want)
			}
			if err != nil && (!strings.Contains(err.Msg, row.want) || len(err.Msg) > 600 || regexp.MustCompile(`[\x00-\x1f]`).MatchString(err.Msg)) {
				t.Errorf("%q, want %q", err.Msg, row.want)
			}
			if _, err := plugin(t, "DEL", stdin, env); err != nil {
				t.Errorf("DEL: %v", err)
			}
		})
	}
}

// TestLog: one line a call, no stranger's line feeds, and no more than two files of about a megabyte.
func TestLog(t *testing.T) {
	t.Parallel()
	k, agent := newKubelet(t), &fakeAgent{}
	agent.serve(t, k.socket)
	k.conf.Log = filepath.Join(k.dir, "log", "cni.log")
	s := k.sandbox(t, "shop", "web")
	if _, err := s.add(); err != nil {
		t.Fatal(err)
	}
	if err := s.del(false); err != nil {
		t.Error(err)
	}
	raw, err := os.ReadFile(k.conf.Log)
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if err != nil || len(lines) != 2 || !strings.Contains(lines[0], ` ADD pod=shop/web uid=uid-web container=c-web took=`) || !strings.HasSuffix(lines[1], `ok="forgotten"`) {
		t.Errorf("%q (%v)", lines, err)
	}
	if err := os.WriteFile(k.conf.Log, make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.add(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(k.conf.Log); err != nil || info.Size() > 1000 {
		t.Errorf("the log was not turned over: %v", err)
	}
	target := filepath.Join(k.dir, "target")
	_ = os.Remove(k.conf.Log)
	if err := os.Symlink(target, k.conf.Log); err != nil {
		t.Fatal(err)
	}
	if err := s.del(false); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(target); err == nil {
		t.Error("the log followed a link")
	}
}
