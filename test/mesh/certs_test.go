package mesh

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
	"github.com/warren-mesh/warren/lab"
)

// shortLived makes the CA issue workloads' certificates for a few seconds only.
func shortLived(ttl time.Duration) func(*lab.Options) {
	return func(o *lab.Options) { o.ControllerArgs = []string{"--workload-ttl", ttl.String()} }
}

// certsAt are the certificates that a controller or an agent tells of, by SPIFFE id.
func certsAt(t testing.TB, m *labtest.Mesh, socket string) map[string]*adminv1.CertInfo {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	reply, err := m.Admin(socket).Certs(ctx, &adminv1.ListRequest{})
	must(t, err)
	out := map[string]*adminv1.CertInfo{}
	for _, c := range reply.Certs {
		out[c.SpiffeId] = c
	}
	return out
}

const webID, payID = "spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/pay"

func TestRenewalUnderLoadFailsNoConnection(t *testing.T) {
	const ttl = 6 * time.Second
	m := up(t, town(meshed, ""), shortLived(ttl))
	pay := bothOf(t, m, "shop/pay")
	awaitPings(t, m, "shop/web", pay...)
	lasting := open(t, m, "shop/web", pay[0])
	out, in := load(t, m, "shop/web", pay...), load(t, m, "shop/pay", bothOf(t, m, "shop/web")...)
	seen := map[string]map[string]bool{webID: {}, payID: {}}
	labtest.Await(t, "each certificate is renewed four times", 10*ttl, func() bool {
		done := true
		for id, serials := range seen {
			c := certsAt(t, m, m.ControllerSocket())[id]
			if c == nil || c.State == "expired" || c.State == "missing" {
				t.Fatalf("certificate of %s is %v", id, c)
			}
			if left := time.Until(time.Unix(c.NotAfterUnix, 0)); left > ttl+time.Second || left < 0 {
				t.Fatalf("%s is good for another %s with a life of %s", id, left, ttl)
			}
			serials[c.Serial] = true
			done = done && len(serials) > 4
		}
		return done
	})
	lasting.mustMove(t) // made with a certificate that has ended since
	out.stop()
	in.stop()
	for name, l := range map[string]*traffic{"web to pay": out, "pay to web": in} {
		t.Logf("%s: %d connections, the slowest took %s", name, l.ok.Load(), time.Duration(l.longest.Load()))
		if l.failed.Load() > 0 {
			t.Errorf("%s: %d of %d connections failed: %v", name, l.failed.Load(), l.failed.Load()+l.ok.Load(), l.lastErr.Load())
		}
	}
}

func TestWithoutCAServiceLastsUntilExpiryAndResumesByItself(t *testing.T) {
	const ttl = 8 * time.Second
	m := up(t, town(meshed, ""), shortLived(ttl))
	pay := bothOf(t, m, "shop/pay")
	awaitPings(t, m, "shop/web", pay...)
	lasting := open(t, m, "shop/web", pay[0])
	must(t, m.KillController(syscall.SIGKILL))
	agent := m.AgentSocket("n1")
	end := time.Unix(certsAt(t, m, agent)[webID].NotAfterUnix, 0)
	served, begin := 0, time.Now()
	for time.Now().Before(end.Add(-time.Second)) {
		if err := ping(t, m, "shop/web", pay[served%2]); err != nil {
			t.Fatalf("%s before the certificate's end: %v", time.Until(end), err)
		}
		served++
	}
	t.Logf("without the CA %d connections were served in %s", served, time.Since(begin))
	labtest.Await(t, "connections are refused once the certificate has ended", 10*time.Second, func() bool { return ping(t, m, "shop/web", pay[0]) != nil })
	if time.Now().Before(end) {
		t.Errorf("refused %s before the certificate's end", time.Until(end))
	}
	for _, to := range pay {
		mustRefuse(t, m, "shop/web", to)
	}
	f := flowAt(t, m, "n1", &adminv1.FlowsRequest{From: "shop/web", To: "shop/pay"}, func(f *adminv1.Flow) bool { return f.Reason == "identity_expired" })
	if f.Verdict != "failed" || !strings.Contains(f.Detail, webID) {
		t.Errorf("flow is %s: %s", f.Verdict, f.Detail)
	}
	if out := m.Agentctl("--socket", agent, "status"); out.Code != 3 || grep(out.Out, "shop/web", "SVID expired") == "" {
		t.Errorf("the agent's status ends with %d and does not say that the SVID expired:\n%s", out.Code, out.Out)
	}
	if out := m.Agentctl("--socket", agent, "certs", "sa/web"); grep(out.Out, webID, "expired") == "" {
		t.Errorf("certs do not say so:\n%s", out.Out)
	}
	lasting.mustMove(t)

	startController(t, m)
	begin = time.Now()
	awaitPings(t, m, "shop/web", pay...)
	awaitPings(t, m, "shop/pay", bothOf(t, m, "shop/web")...)
	t.Logf("service resumed %s after the controller came back", time.Since(begin))
	labtest.Await(t, "no problem is left", 20*time.Second, func() bool { return m.Agentctl("status").Code == 0 })
}

func TestCertsShowsWhatIsInForce(t *testing.T) {
	m := up(t, town(meshed, ""))
	must(t, ping(t, m, "shop/web", at(t, m, "shop/pay", false, echoPort)))
	out := m.Agentctl("certs")
	if out.Code != 0 {
		t.Fatalf("certs ends with %d: %s", out.Code, out.Err)
	}
	for _, row := range [][]string{
		{"n1", webID, "valid", "11h"}, {"n2", payID, "valid", "11h"}, {"n1", "spiffe://cluster.local/node/n1", "valid", "23h"}, {"n2", "spiffe://cluster.local/node/n2", "valid"},
	} {
		if grep(out.Out, row...) == "" {
			t.Errorf("there is no row with %q:\n%s", row, out.Out)
		}
	}
	if strings.Contains(out.Out, "legacy") {
		t.Errorf("a pod outside the mesh has a certificate:\n%s", out.Out)
	}
	root := m.MustRun("controller", "sh", "-c", "openssl x509 -in "+bundleOf(t, m)+" -noout -fingerprint -sha256")
	_, hex, _ := strings.Cut(strings.ToLower(strings.ReplaceAll(strings.TrimSpace(root), ":", "")), "=")
	for _, node := range []string{"n1", "n2"} {
		if grep(out.Out, node, "cluster.local", hex[:12]) == "" {
			t.Errorf("node %s does not show the root %s:\n%s", node, hex[:12], out.Out)
		}
	}
}

func bundleOf(t testing.TB, m *labtest.Mesh) string {
	t.Helper()
	info, err := m.Info()
	must(t, err)
	return info.Dir + "/controller/bundle.pem"
}
