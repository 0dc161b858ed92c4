package mesh

import (
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
)

const strictPay = `
apiVersion: warren.dev/v1alpha1
kind: PeerAuthentication
metadata: {name: pay-strict, namespace: shop}
spec:
  selector: {matchLabels: {app: pay}}
  mtls: {mode: STRICT}
  portLevelMtls: {"9001": {mode: PERMISSIVE}}
---
apiVersion: warren.dev/v1alpha1
kind: PeerAuthentication
metadata: {name: cart-strict, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  mtls: {mode: STRICT}
  portLevelMtls: {"9001": {mode: PERMISSIVE}}
`

func TestUnenrolledClientsAreServedUnderPermissiveAndRefusedUnderStrict(t *testing.T) {
	m := up(t, town(meshed, ""))
	servers := map[string]string{"same node": "shop/cart", "other node": "shop/pay"}
	for place, server := range servers {
		t.Run("permissive "+place, func(t *testing.T) {
			families(t, func(t *testing.T, v6 bool) {
				m := m.With(t)
				if err := pingPlain(t, m, "legacy/near", at(t, m, server, v6, echoPort)); err != nil {
					t.Fatal(err)
				}
				f := m.AwaitFlow("plaintext flow", &adminv1.FlowsRequest{From: "legacy/near", To: server}, func(f *adminv1.Flow) bool {
					return f.Reporter == "inbound" && f.EndUnixNano != 0 && isV6(f.Dst.Address) == v6
				})
				if f.Security != "plaintext" || f.Verdict != "forwarded" || f.Src.SpiffeId != "" {
					t.Errorf("flow is %s, %s, source id %q; want plaintext, forwarded and none", f.Security, f.Verdict, f.Src.SpiffeId)
				}
			})
		})
	}
	t.Logf("STRICT was enforced after %s", apply(t, m, func() { m.Write("strict.yaml", strictPay) }))
	for place, server := range servers {
		t.Run("strict "+place, func(t *testing.T) {
			families(t, func(t *testing.T, v6 bool) { refusedUnderStrict(t, m.With(t), server, v6) })
		})
	}
}

func refusedUnderStrict(t *testing.T, m *labtest.Mesh, server string, v6 bool) {
	to := at(t, m, server, v6, echoPort)
	if err := pingPlain(t, m, "legacy/near", to); !isReset(err) {
		t.Errorf("plaintext to a STRICT workload: %v, want a RST", err)
	}
	f := m.AwaitFlow("denied flow", &adminv1.FlowsRequest{From: "legacy/near", To: server, Verdict: "denied", Port: echoPort},
		func(f *adminv1.Flow) bool { return f.Reporter == "inbound" && isV6(f.Dst.Address) == v6 })
	want := "PeerAuthentication " + server + "-strict"
	if f.Reason != "mtls_required" || f.Rule != want {
		t.Errorf("denied for %q by %q, want mtls_required by %q", f.Reason, f.Rule, want)
	}
	if err := pingPlain(t, m, "legacy/near", netip.AddrPortFrom(to.Addr(), 9001)); err != nil {
		t.Errorf("the port that is PERMISSIVE by override: %v", err)
	}
	if err := ping(t, m, "shop/web", to); err != nil {
		t.Errorf("an enrolled client of a STRICT workload: %v", err)
	}
}

func isV6(addr string) bool { return netip.MustParseAddr(addr).Is6() }

func TestEnrolledClientsReachWhatIsOutsideInPlaintext(t *testing.T) {
	m := up(t, town(meshed, ""))
	families(t, func(t *testing.T, v6 bool) {
		m := m.With(t)
		mustBe(t, m, "shop/web", "shop/pay", v6, "mtls")
		for place, to := range map[string]netip.AddrPort{
			"unenrolled pod, same node":  at(t, m, "legacy/near", v6, echoPort),
			"unenrolled pod, other node": at(t, m, "legacy/far", v6, echoPort),
			"outside the cluster":        listenInNode(t, m, "n2", v6),
		} {
			t.Run(place, func(t *testing.T) {
				m := m.With(t)
				if err := pingPlain(t, m, "shop/web", to); err != nil {
					t.Fatal(err)
				}
				f := m.AwaitFlow("flow to the outside", &adminv1.FlowsRequest{From: "shop/web", To: to.Addr().String()},
					func(f *adminv1.Flow) bool { return f.Reporter == "outbound" && f.EndUnixNano != 0 })
				if f.Security != "plaintext" || f.Verdict != "forwarded" || f.Dst.SpiffeId != "" {
					t.Errorf("flow is %s, %s, to id %q", f.Security, f.Verdict, f.Dst.SpiffeId)
				}
			})
		}
	})
	t.Run("between pods outside the mesh nothing is touched", func(t *testing.T) {
		m := m.With(t)
		before := counters(t, m, "n1")
		for _, v6 := range []bool{false, true} {
			if err := pingPlain(t, m, "legacy/near", at(t, m, "legacy/far", v6, echoPort)); err != nil {
				t.Error(err)
			}
		}
		if state := podState(t, m, "legacy/near"); state != "unmanaged" {
			t.Errorf("pod is %q", state)
		}
		for reason, n := range counters(t, m, "n1") {
			if n != before[reason] {
				t.Errorf("the kernel decided %d connections as %s", n-before[reason], reason)
			}
		}
		if flows := m.Flows(&adminv1.FlowsRequest{From: "legacy/near", To: "legacy/far", Last: 100}); len(flows) > 0 {
			t.Errorf("there is a flow: %v", flows[0])
		}
	})
}

// turnedWithin is how long the pods of a namespace may take to follow its label.
const turnedWithin = 2 * time.Second

func TestANamespaceJoinsAndLeavesWhileItsConnectionsGoOn(t *testing.T) {
	m := up(t, town("", meshed))
	families6 := []bool{false, true}
	var before, during []*stream
	for _, v6 := range families6 {
		for _, pair := range [][2]string{{"shop/web", "shop/cart"}, {"shop/web", "shop/pay"}, {"shop/pay", "legacy/near"}, {"legacy/near", "shop/pay"}} {
			before = append(before, openPlain(t, m, pair[0], at(t, m, pair[1], v6, echoPort)))
		}
	}
	begin := time.Now()
	m.Write("mesh.yaml", town(meshed, meshed))
	awaitStates(t, m, "enrolled")
	t.Logf("three pods of a labelled namespace were enrolled after %s", time.Since(begin))
	if took := time.Since(begin); took > turnedWithin {
		t.Errorf("enrolled after %s, want %s", took, turnedWithin)
	}
	moveAll(t, before)
	for _, v6 := range families6 {
		mustBe(t, m, "shop/web", "shop/pay", v6, "mtls")
		mustBe(t, m, "shop/web", "shop/cart", v6, "local")
		for _, pair := range [][2]string{{"shop/web", "shop/cart"}, {"shop/web", "shop/pay"}, {"shop/pay", "legacy/near"}, {"legacy/near", "shop/pay"}} {
			during = append(during, open(t, m, pair[0], at(t, m, pair[1], v6, echoPort)))
		}
	}

	begin = time.Now()
	m.Write("mesh.yaml", town("", meshed))
	awaitStates(t, m, "unmanaged")
	t.Logf("three pods were released after %s", time.Since(begin))
	if took := time.Since(begin); took > turnedWithin {
		t.Errorf("released after %s, want %s", took, turnedWithin)
	}
	for _, v6 := range families6 {
		mustBe(t, m, "legacy/near", "shop/pay", v6, "plaintext")
	}
	awaitReleased(t, m)
	for end := time.Now().Add(tunnelPatience); time.Now().Before(end); {
		moveAll(t, before)
		moveAll(t, during)
	}
}

// tunnelPatience is longer than what HBONE grants streams by default once their tunnel drains.
const tunnelPatience = 6 * time.Second

func awaitStates(t *testing.T, m *labtest.Mesh, state string) {
	t.Helper()
	labtest.Await(t, "the shop is "+state, 10*time.Second, func() bool {
		return podState(t, m, "shop/web") == state && podState(t, m, "shop/cart") == state && podState(t, m, "shop/pay") == state
	})
}

// awaitReleased waits until an agent has let go of a released pod for good: it says so by having no SVID for it any more.
func awaitReleased(t *testing.T, m *labtest.Mesh) {
	t.Helper()
	labtest.Await(t, "nothing of the released pods is left", 15*time.Second, func() bool {
		return grep(m.Agentctl("certs").Out, "/ns/shop/") == ""
	})
}

func moveAll(t *testing.T, all []*stream) {
	t.Helper()
	for _, s := range all {
		s.mustMove(t)
	}
}

// mustBe makes a connection and looks up how it was protected.
func mustBe(t *testing.T, m *labtest.Mesh, from, to string, v6 bool, security string) {
	t.Helper()
	since := time.Now().UnixNano()
	say := ping
	if security == "plaintext" {
		say = pingPlain
	}
	if err := say(t, m, from, at(t, m, to, v6, echoPort)); err != nil {
		t.Errorf("%s to %s: %v", from, to, err)
		return
	}
	f := m.AwaitFlow("flow of "+from+" to "+to, &adminv1.FlowsRequest{From: from, To: to},
		func(f *adminv1.Flow) bool { return f.StartUnixNano >= since && isV6(f.Dst.Address) == v6 })
	if f.Security != security {
		t.Errorf("%s to %s is %s, want %s", from, to, f.Security, security)
	}
}

func TestAPodsLabelOverridesItsNamespace(t *testing.T) {
	const out, in = "warren.dev/mesh: disabled", "warren.dev/mesh: enabled"
	world := func(pay, far []string) string {
		return nodesYAML + namespaceYAML("shop", meshed) + namespaceYAML("legacy", "") +
			podYAML("shop/web", "n1") + podYAML("shop/pay", "n2", pay...) + podYAML("legacy/far", "n2", far...)
	}
	m := up(t, world([]string{out}, []string{in}))
	for pod, want := range map[string]string{"shop/web": "enrolled", "shop/pay": "unmanaged", "legacy/far": "enrolled"} {
		if got := podState(t, m, pod); got != want {
			t.Errorf("%s is %q, want %s", pod, got, want)
		}
	}
	for _, v6 := range []bool{false, true} {
		mustBe(t, m, "shop/web", "shop/pay", v6, "plaintext")
		mustBe(t, m, "shop/web", "legacy/far", v6, "mtls")
	}
	m.Write("mesh.yaml", world(nil, nil))
	labtest.Await(t, "the labels' absence takes effect", turnedWithin, func() bool {
		return podState(t, m, "shop/pay") == "enrolled" && podState(t, m, "legacy/far") == "unmanaged"
	})
	for _, v6 := range []bool{false, true} {
		mustBe(t, m, "shop/web", "shop/pay", v6, "mtls")
		mustBe(t, m, "shop/web", "legacy/far", v6, "plaintext")
	}
}
