package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

// policy is a policy of the namespace; spec is in YAML's flow style.
func policy(kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: warren.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
}

// attempt is a connection from a client to a port of the server, and the rule that forbids it; "" if it may be.
type attempt struct {
	from string // namespace/pod
	port int
	rule string
}

// programmed applies a policy and waits until its status says that it is accepted and enforced.
func programmed(m *mesh.Mesh, namespace, manifest string) {
	m.TB().Helper()
	m.Apply(namespace, manifest)
	kind, name := "authorizationpolicy/", field(manifest, "name: ")
	if strings.Contains(manifest, "PeerAuthentication") {
		kind = "peerauthentication/"
	}
	for _, condition := range []string{"Accepted", "Programmed"} {
		m.Kubectl("wait", "--namespace", namespace, kind+name, "--for=condition="+condition, "--timeout=10s")
	}
}

// field is the word behind a key.
func field(manifest, key string) string {
	_, after, _ := strings.Cut(manifest, key)
	word, _, _ := strings.Cut(after, "}")
	return word
}

// testPolicies: every kind of policy, on the wire, in both families, and the rule's name in the flows.
func testPolicies(m *mesh.Mesh) {
	m.Namespace("guard", mesh.Enabled)
	m.Namespace("guest", mesh.Enabled)
	m.Namespace("stranger")
	const toServer = "selector: {matchLabels: {app: server}}"
	guard := start(m, "guard", pod{name: "server", node: nodeB, args: `http, "--port=8080", "--port=8081"`},
		pod{name: "web", node: nodeA, account: "web"}, pod{name: "near", node: nodeB, account: "near"})
	start(m, "guest", pod{name: "web", node: nodeA})
	start(m, "stranger", pod{name: "web", node: nodeA})
	m.AwaitInMesh("guard", true)
	m.AwaitInMesh("guest", true)
	nodeAPods := m.Node(nodeA).PodRanges()
	authz := func(spec string) string { return policy("AuthorizationPolicy", "case", "{"+toServer+", "+spec+"}") }
	peers := func(spec string) string { return policy("PeerAuthentication", "case", "{"+toServer+", "+spec+"}") }
	const rule0, noRule, strict = "AuthorizationPolicy guard/case rule[0]", "no rule matched of AuthorizationPolicy guard/case", "PeerAuthentication guard/case"
	for _, row := range []struct {
		name, manifest string
		attempts       []attempt
	}{
		{"allow by principal", authz(`rules: [{from: [{source: {principals: ["cluster.local/ns/guard/sa/web"]}}]}]`),
			[]attempt{{"guard/web", 8080, ""}, {"guard/near", 8080, noRule}, {"guest/web", 8080, noRule}, {"stranger/web", 8080, noRule}}},
		{"allow by namespace", authz(`rules: [{from: [{source: {namespaces: [guest]}}]}]`),
			[]attempt{{"guard/web", 8080, noRule}, {"guest/web", 8080, ""}, {"stranger/web", 8080, noRule}}},
		{"allow by service account", authz(`rules: [{from: [{source: {serviceAccounts: [near, guest/default]}}]}]`),
			[]attempt{{"guard/web", 8080, noRule}, {"guard/near", 8080, ""}, {"guest/web", 8080, ""}}},
		{"deny", authz(`action: DENY, rules: [{from: [{source: {namespaces: [guard]}}]}]`),
			[]attempt{{"guard/web", 8080, rule0}, {"guard/near", 8080, rule0}, {"guest/web", 8080, ""}, {"stranger/web", 8080, ""}}},
		{"allow a port", authz(`rules: [{to: [{operation: {ports: ["8081"]}}]}]`),
			[]attempt{{"guard/web", 8080, noRule}, {"guard/web", 8081, ""}, {"guard/near", 8081, ""}, {"stranger/web", 8081, ""}}},
		{"allow by address", authz(fmt.Sprintf(`rules: [{from: [{source: {ipBlocks: [%q, %q]}}]}]`, nodeAPods[0], nodeAPods[1])),
			[]attempt{{"guard/web", 8080, ""}, {"guard/near", 8080, noRule}, {"stranger/web", 8080, ""}}},
		{"STRICT", peers(`mtls: {mode: STRICT}`),
			[]attempt{{"guard/web", 8080, ""}, {"guard/near", 8080, ""}, {"stranger/web", 8080, strict}, {"stranger/web", 8081, strict}}},
		{"STRICT on a port", peers(`mtls: {mode: PERMISSIVE}, portLevelMtls: {"8081": {mode: STRICT}}`),
			[]attempt{{"guard/web", 8081, ""}, {"stranger/web", 8080, ""}, {"stranger/web", 8081, strict}}},
		{"PERMISSIVE", peers(`mtls: {mode: PERMISSIVE}`),
			[]attempt{{"guard/web", 8080, ""}, {"stranger/web", 8080, ""}}},
	} {
		m.TB().(*testing.T).Run(row.name, func(t *testing.T) {
			m := m.With(t)
			programmed(m, "guard", row.manifest)
			t.Cleanup(func() { m.Kubectl("delete", "--namespace=guard", "authorizationpolicies,peerauthentications", "--all") })
			var all sync.WaitGroup
			for _, a := range row.attempts {
				for _, family := range families() {
					all.Go(func() { a.check(m, url(guard["server"], family.index, a.port, "")) })
				}
			}
			all.Wait()
			if t.Failed() {
				return
			}
			a := row.attempts[len(row.attempts)-1]
			for _, a := range append(row.attempts[:1:1], a) {
				m.AwaitFlow("the decision about "+a.from, a.wrong, "--from", a.from, "--port", fmt.Sprint(a.port), "--to", "guard/server", "--since", "20s")
			}
		})
	}
}

// check makes the connection.
func (a attempt) check(m *mesh.Mesh, url string) {
	namespace, name, _ := strings.Cut(a.from, "/")
	word := canary
	if namespace == "stranger" {
		word = open
	}
	_, err := m.Get(namespace, name, url+word)
	if (err == nil) != (a.rule == "") {
		m.TB().Errorf("%s to %s: %v; want refusal by %q", a.from, url, err, a.rule)
	}
	if err != nil && !cutOff(err) {
		m.TB().Errorf("%s to %s: it failed otherwise than by policy: %v", a.from, url, err)
	}
}

// cutOff tells whether a connection ended as one does that is refused. A RST that comes before the request is written is a
// broken pipe to whoever writes.
func cutOff(err error) bool {
	return slices.ContainsFunc([]string{"reset", "EOF", "refused", "broken pipe"}, func(how string) bool {
		return strings.Contains(err.Error(), how)
	})
}

// wrong says what is not as it should be in the server's record of the attempt.
func (a attempt) wrong(f *adminv1.Flow) string {
	want := map[bool]string{true: "forwarded", false: "denied"}[a.rule == ""]
	if f.Reporter != "inbound" || f.Verdict != want || !strings.Contains(f.Rule, a.rule) {
		return fmt.Sprintf("want %s by %q", want, a.rule)
	}
	return ""
}

// testBadPolicies: what means nothing is refused where it is written, and the message says which field and why.
func testBadPolicies(m *mesh.Mesh) {
	m.Namespace("bad")
	files, err := filepath.Glob("testdata/bad-policies/*.yaml")
	if err != nil || len(files) < 10 {
		m.TB().Fatalf("testdata/bad-policies has %d files: %v", len(files), err)
	}
	for _, file := range files {
		m.TB().(*testing.T).Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := bytes.Cut(raw, []byte("\n"))
			want := strings.TrimSpace(strings.TrimPrefix(string(first), "# want:"))
			err = m.TryApply("bad", string(raw))
			if err == nil {
				t.Fatal("it was taken")
			}
			for _, part := range strings.Split(want, " ... ") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v\nwant %q in it", err, part)
				}
			}
		})
	}
}

// testLiveConnections: a change that forbids an open connection ends it within a second, and only that.
func testLiveConnections(m *mesh.Mesh) {
	t := m.TB()
	m.Namespace("live", mesh.Enabled)
	pods := start(m, "live", pod{name: "server", node: nodeB}, pod{name: "web", node: nodeA, account: "web"},
		pod{name: "near", node: nodeB, account: "near"}, pod{name: "other", node: nodeA, account: "other"})
	m.AwaitInMesh("live", true)
	forbidden := map[string]<-chan time.Time{}
	var kept []*dialogue
	for _, family := range families() {
		for _, from := range []string{"web", "near"} {
			forbidden[from+" "+family.name] = startReading(m, "live", from, url(pods["server"], family.index, 8080, "stream?n=600&"+canary))
		}
		kept = append(kept, talk(m, "live", "other", url(pods["server"], family.index, 8080, canary)))
	}
	goOn(t, kept, 5)
	for name, ended := range forbidden {
		select {
		case <-ended:
			t.Fatalf("the connection of %s ended before anything forbade it", name)
		default:
		}
	}
	m.Apply("live", policy("AuthorizationPolicy", "cut", `{selector: {matchLabels: {app: server}}, action: DENY,
  rules: [{from: [{source: {serviceAccounts: [web, near]}}]}]}`))
	applied := time.Now()
	for name, ended := range forbidden {
		select {
		case at := <-ended:
			t.Logf("the connection of %s ended %s after kubectl apply did", name, at.Sub(applied).Round(time.Millisecond))
		case <-time.After(time.Until(applied.Add(time.Second))):
			t.Errorf("the connection of %s is open a second after a policy forbids it", name)
		}
	}
	goOn(t, kept, 5)
	for _, from := range []string{"web", "near"} {
		m.AwaitFlow("the end of "+from+"'s connection", func(f *adminv1.Flow) string {
			if f.Reporter != "inbound" || f.Reason != "policy_changed" || !strings.Contains(f.Rule, "AuthorizationPolicy live/cut") {
				return "want policy_changed by AuthorizationPolicy live/cut"
			}
			return ""
		}, "--from", "live/"+from)
	}
}

// startReading lets a pod read from a server that writes every tenth of a second; the channel says when that ended.
func startReading(m *mesh.Mesh, namespace, from, url string) <-chan time.Time {
	m.TB().Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := m.KubectlCommand(ctx, "exec", "--namespace", namespace, from, "--", "/sample", "client", "--timeout=60s", url)
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.TB().Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.TB().Fatal(err)
	}
	if _, err := out.Read(make([]byte, 100)); err != nil {
		m.TB().Fatalf("nothing comes from %s to %s: %v", url, from, err)
	}
	ended, done := make(chan time.Time, 1), make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 1000); ; {
			if _, err := out.Read(buf); err != nil {
				break
			}
		}
		ended <- time.Now()
		_ = cmd.Wait()
	}()
	m.TB().Cleanup(func() { cancel(); <-done })
	return ended
}
