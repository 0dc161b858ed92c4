package mesh

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
)

// authzYAML is an AuthorizationPolicy; spec is in YAML's flow style.
func authzYAML(ns, name, spec string) string {
	return fmt.Sprintf("---\napiVersion: warren.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", name, ns, spec)
}

// city is a town with a third namespace in the mesh, and the root namespace.
func city() string {
	return town(meshed, "") + namespaceYAML("guest", meshed) + namespaceYAML("warren-system", "") + podYAML("guest/app", "n1")
}

// attempt is one connection and what must come of it.
type attempt struct {
	from, to string
	port     uint16
	want     bool
}

const toPay = "selector: {matchLabels: {app: pay}}"

// verdicts are policies and what they make of connections.
func verdicts(webAddrs string) []struct {
	name, ns, spec string
	attempts       []attempt
} {
	web, cart := func(want bool) attempt { return attempt{"shop/web", "shop/pay", 9000, want} }, func(want bool) attempt { return attempt{"shop/cart", "shop/pay", 9000, want} }
	guest, plain := func(want bool) attempt { return attempt{"guest/app", "shop/pay", 9000, want} }, func(want bool) attempt { return attempt{"legacy/near", "shop/pay", 9000, want} }
	return []struct {
		name, ns, spec string
		attempts       []attempt
	}{
		{"allow by principal", "shop", "{" + toPay + `, rules: [{from: [{source: {principals: ["cluster.local/ns/shop/sa/web"]}}]}]}`,
			[]attempt{web(true), cart(false), guest(false), plain(false)}},
		{"allow by namespace", "shop", "{" + toPay + `, rules: [{from: [{source: {namespaces: [shop]}}]}]}`,
			[]attempt{web(true), cart(true), guest(false), plain(false)}},
		{"allow by service account", "shop", "{" + toPay + `, rules: [{from: [{source: {serviceAccounts: ["cart", "guest/app"]}}]}]}`,
			[]attempt{web(false), cart(true), guest(true), plain(false)}},
		{"deny by namespace", "shop", "{" + toPay + `, action: DENY, rules: [{from: [{source: {namespaces: [guest]}}]}]}`,
			[]attempt{web(true), cart(true), guest(false), plain(true)}},
		{"allow by address", "shop", "{" + toPay + `, rules: [{from: [{source: {ipBlocks: [` + webAddrs + `]}}]}]}`,
			[]attempt{web(true), cart(false), guest(false), plain(false)}},
		{"allow by other addresses", "shop", "{" + toPay + `, rules: [{from: [{source: {notIpBlocks: [` + webAddrs + `]}}]}]}`,
			[]attempt{web(false), cart(true), guest(true), plain(true)}},
		{"allow a port", "shop", "{" + toPay + `, rules: [{to: [{operation: {ports: ["9000"]}}]}]}`,
			[]attempt{web(true), {"shop/web", "shop/pay", 9001, false}, plain(true), {"legacy/near", "shop/pay", 9001, false}}},
		{"deny other ports", "shop", "{" + toPay + `, action: DENY, rules: [{to: [{operation: {notPorts: ["9001"]}}]}]}`,
			[]attempt{web(false), {"shop/web", "shop/pay", 9001, true}}},
		{"audit", "shop", "{" + toPay + `, action: AUDIT, rules: [{from: [{source: {namespaces: [shop]}}]}]}`,
			[]attempt{web(true), guest(true), plain(true)}},
		{"whole mesh", "warren-system", `{action: DENY, rules: [{to: [{operation: {ports: ["9001"]}}]}]}`,
			[]attempt{web(true), {"shop/web", "shop/pay", 9001, false}, {"shop/web", "shop/cart", 9001, false}, {"shop/web", "guest/app", 9001, false},
				{"shop/web", "legacy/far", 9001, true}}},
		{"whole namespace", "shop", `{}`,
			[]attempt{web(false), {"shop/web", "shop/cart", 9000, false}, {"shop/pay", "shop/cart", 9000, false}, {"shop/web", "guest/app", 9000, true}}},
		{"one workload", "shop", `{selector: {matchLabels: {app: cart}}}`,
			[]attempt{{"shop/web", "shop/cart", 9000, false}, {"shop/pay", "shop/cart", 9000, false}, web(true)}},
	}
}

func TestPoliciesDecideOnTheWireAsAuthzCanSays(t *testing.T) {
	m := up(t, city())
	web := at(t, m, "shop/web", false, 0).Addr().String() + "/32, \"" + at(t, m, "shop/web", true, 0).Addr().String() + "/128\""
	for _, c := range verdicts(web) {
		t.Run(c.name, func(t *testing.T) {
			m := m.With(t)
			apply(t, m, func() { m.Write("policy.yaml", authzYAML(c.ns, "case", c.spec)) })
			for _, a := range c.attempts {
				a.check(t, m)
			}
			apply(t, m, func() { m.Remove("policy.yaml") })
			if err := ping(t, m, "shop/web", at(t, m, "shop/pay", false, 9000)); err != nil {
				t.Errorf("after the policy is gone: %v", err)
			}
		})
	}
}

func (a attempt) check(t *testing.T, m *labtest.Mesh) {
	t.Helper()
	what := fmt.Sprintf("%s to %s:%d", a.from, a.to, a.port)
	can := m.Agentctl("authz", "can", "--from", a.from, "--to", fmt.Sprintf("%s:%d", a.to, a.port))
	if want := map[bool]int{true: 0, false: 3}[a.want]; can.Code != want {
		t.Errorf("%s: authz can ends with %d, want %d:\n%s%s", what, can.Code, want, can.Out, can.Err)
	}
	say := ping
	if strings.HasPrefix(a.from, "legacy/") || strings.HasPrefix(a.to, "legacy/") {
		say = pingPlain
	}
	for _, v6 := range []bool{false, true} {
		err := say(t, m, a.from, at(t, m, a.to, v6, a.port))
		if a.want && err != nil || !a.want && !isReset(err) {
			t.Errorf("%s, IPv6 %v: %v; allowed must be %v", what, v6, err, a.want)
		}
	}
}

func TestAuditedConnectionsPassAndAreMarked(t *testing.T) {
	m := up(t, city())
	apply(t, m, func() {
		m.Write("policy.yaml", authzYAML("shop", "watch", "{"+toPay+`, action: AUDIT, rules: [{from: [{source: {namespaces: [shop]}}]}]}`))
	})
	for _, from := range []string{"shop/web", "guest/app"} {
		if err := ping(t, m, from, at(t, m, "shop/pay", false, 9000)); err != nil {
			t.Fatal(err)
		}
	}
	f := m.AwaitFlow("audited flow", &adminv1.FlowsRequest{Verdict: "audited"}, func(f *adminv1.Flow) bool { return f.Reporter == "inbound" })
	if f.Src.Workload != "web" || !strings.Contains(f.Audit, "shop/watch") {
		t.Errorf("audited is %s by %q", f.Src.Workload, f.Audit)
	}
	if n := len(m.Flows(&adminv1.FlowsRequest{Verdict: "audited", From: "guest/", Last: 10})); n > 0 {
		t.Errorf("%d flows that no audit policy matches are marked", n)
	}
}

// cutWithin is how long after a change of policy a connection that it forbids may live.
const cutWithin = time.Second

func TestAPolicyEndsTheConnectionsThatItForbidsAndNoOther(t *testing.T) {
	m := up(t, city())
	for _, server := range []string{"shop/pay", "shop/cart"} { // another node, the same node
		t.Run(server, func(t *testing.T) {
			m := m.With(t)
			var forbidden, others []*stream
			for _, v6 := range []bool{false, true} {
				forbidden = append(forbidden, open(t, m, "shop/web", at(t, m, server, v6, 9000)))
				others = append(others, open(t, m, "shop/web", at(t, m, server, v6, 9001)), open(t, m, "guest/app", at(t, m, server, v6, 9000)),
					openPlain(t, m, "legacy/near", at(t, m, server, v6, 9000)), openPlain(t, m, "shop/web", at(t, m, "legacy/far", v6, 9000)))
			}
			moveAll(t, append(forbidden, others...))
			begin := time.Now()
			_, app, _ := strings.Cut(server, "/")
			m.Write("policy.yaml", authzYAML("shop", "cut", "{selector: {matchLabels: {app: "+app+`}}, action: DENY, rules: [{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {ports: ["9000"]}}]}]}`))
			for _, s := range forbidden {
				end, err := s.mustEnd(t, 10*time.Second)
				t.Logf("%s ended %s after the policy was written: %v", s.name, end.Sub(begin), err)
				if took := end.Sub(begin); took > cutWithin || !isReset(err) {
					t.Errorf("%s ended after %s with %v, want a RST within %s", s.name, took, err, cutWithin)
				}
			}
			moveAll(t, others)
			f := m.AwaitFlow("flow of what was cut", &adminv1.FlowsRequest{From: "shop/web", To: server},
				func(f *adminv1.Flow) bool { return f.Reporter == "inbound" && f.Reason == "policy_changed" })
			if !strings.Contains(f.Rule, "shop/cut") || f.Verdict != "denied" || f.BytesIn == 0 {
				t.Errorf("it was %s by %q after %d bytes", f.Verdict, f.Rule, f.BytesIn)
			}
			apply(t, m, func() { m.Remove("policy.yaml") })
		})
	}
}

func TestABadPolicyIsRejectedAndTheLastGoodOneStays(t *testing.T) {
	m := up(t, city())
	to := at(t, m, "shop/pay", false, 9000)
	apply(t, m, func() {
		m.Write("policy.yaml", authzYAML("shop", "only-cart", "{"+toPay+`, rules: [{from: [{source: {serviceAccounts: [cart]}}]}]}`))
	})
	m.Write("policy.yaml", authzYAML("shop", "only-cart", "{"+toPay+`, rules: [{from: [{source: {ipBlocks: ["10.0.0.0/33"]}}]}]}`))
	var out labtest.Result
	labtest.Await(t, "status shows the rejected file", 5*time.Second, func() bool {
		out = m.Agentctl("status")
		return out.Code == 3
	})
	for _, want := range []string{"policy.yaml:", "AuthorizationPolicy shop/only-cart", "spec.rules[0].from[0].source.ipBlocks[0]", `"10.0.0.0/33"`} {
		if !strings.Contains(out.Out, want) {
			t.Errorf("status does not say %q:\n%s", want, out.Out)
		}
	}
	if err := ping(t, m, "shop/cart", to); err != nil {
		t.Errorf("what the last good policy allows: %v", err)
	}
	if err := ping(t, m, "shop/web", to); !isReset(err) {
		t.Errorf("what the last good policy does not allow: %v", err)
	}
	apply(t, m, func() {
		m.Write("policy.yaml", authzYAML("shop", "only-cart", "{"+toPay+`, rules: [{from: [{source: {serviceAccounts: [web]}}]}]}`))
	})
	if out := m.Agentctl("status"); out.Code != 0 {
		t.Errorf("status after the correction ends with %d:\n%s", out.Code, out.Out)
	}
	if err := ping(t, m, "shop/web", to); err != nil {
		t.Error(err)
	}
}

func TestWhyNamesTheStepThatFails(t *testing.T) {
	m := up(t, city()+`
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
`)
	why := func(src, dst string, code int, words ...string) {
		t.Helper()
		out := m.Agentctl("why", src, dst)
		if out.Code != code || grep(out.Out, words...) == "" {
			t.Errorf("why %s %s ends with %d, want %d and a line with %q:\n%s%s", src, dst, out.Code, code, words, out.Out, out.Err)
		}
	}
	must(t, ping(t, m, "shop/web", at(t, m, "shop/pay", false, echoPort)))
	why("shop/web", "shop/pay:9000", 0, "√", "authorize")
	why("shop/web", "pay.shop:80", 0, "√", "resolve", "shop/pay")
	why("legacy/near", "shop/pay:9000", 0, "legacy/near", "not in the mesh")
	why("shop/web", "legacy/far:9000", 0, "legacy/far", "not in the mesh")
	why("shop/web", "nobody.shop:80", 3, "×", "no", "endpoint")
	why("shop/web", "pay.shop:81", 3, "×", "81")
	why("shop/web", "nowhere.shop:81", 3, "×", "resolve", "nowhere.shop")
	apply(t, m, func() {
		m.Write("policy.yaml", authzYAML("shop", "no-web", "{"+toPay+`, action: DENY, rules: [{from: [{source: {serviceAccounts: [web]}}]}]}`))
	})
	why("shop/web", "shop/pay:9000", 3, "×", "authorize", "shop/no-web")
	why("shop/cart", "shop/pay:9000", 0, "√", "authorize")
	if err := m.KillAgent("n2", 9); err != nil {
		t.Fatal(err)
	}
	why("shop/cart", "shop/pay:9000", 3, "×", "connect", "refused")
	why("shop/pay", "shop/cart:9000", 0, "?", "capture", "n2", "did not answer")
}
