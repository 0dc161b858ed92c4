package mesh

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
)

// failing is one way for a connection to fail: what its app sees, and what the flow of a side says.
type failing struct {
	name, host string
	port       int
	within     time.Duration // that the app must know by
	codes      []int         // of curl(1): 7 could not connect, 52 nothing came back, 56 reset
	reporter   string
	reasons    []string
	to         string // pod of the flow, "" for what is no pod
}

func TestFailuresLookSaneToApps(t *testing.T) {
	web := func(name, node string, plain bool) appPod {
		return appPod{name: name, node: node, plain: plain, ports: []int{8080}, command: []string{"sample", "http", "--name", name, "--port", "8080"}}
	}
	a := appsUp(t, appPod{name: "client", node: "n1"}, web("near", "n1", false), web("far", "n2", false),
		web("silent", "n2", false), web("plain", "n2", true))
	a.Tap(appsCanary)
	a.must(t, "node/n2", "nft", "add table inet apps_cut; add chain inet apps_cut f { type filter hook forward priority -300; };"+
		fmt.Sprintf("add rule inet apps_cut f ip daddr %s drop; add rule inet apps_cut f ip6 daddr %s drop",
			a.addr(t, "silent", false), a.addr(t, "silent", true)))
	a.must(t, client, curl("-H", "X-Canary: "+appsCanary, a.names("far")[0].url(8080, "/"))...)
	gone := []int{7, 52, 56}
	for _, v6 := range []bool{false, true} {
		addr := func(pod string) string { return a.addr(t, pod, v6).String() }
		nobody := map[bool]string{false: "10.251.252.253", true: "fd00:dead::1"}[v6]
		for _, f := range []failing{
			{"nobody listens, same node", addr("near"), 9999, 2 * time.Second, gone, "inbound", []string{"app_unreachable"}, "apps/near"},
			{"nobody listens, same node, as its client's node says", addr("near"), 9998, 2 * time.Second, gone, "outbound", []string{"app_unreachable"}, "apps/near"},
			{"nobody listens, other node", addr("far"), 9999, 2 * time.Second, gone, "inbound", []string{"app_unreachable"}, "apps/far"},
			{"nobody listens, other node, as its client's node says", addr("far"), 9998, 2 * time.Second, gone, "outbound", []string{"peer_failed"}, "apps/far"},
			{"nobody listens, outside the mesh", addr("legacy/plain"), 9999, 2 * time.Second, gone, "outbound", []string{"connect_refused"}, "legacy/plain"},
			{"no route to host", nobody, 9999, 5 * time.Second, gone, "outbound", []string{"connect_failed", "connect_timeout"}, ""},
			{"peer's node does not answer", addr("silent"), 8080, 9 * time.Second, gone, "outbound", []string{"connect_timeout"}, "apps/silent"},
			{"service without that port", "far-" + map[bool]string{false: "v4", true: "v6"}[v6] + ".apps.svc.cluster.local", 9999, 2 * time.Second, gone, "outbound", []string{"no_such_port"}, ""},
		} {
			t.Run(fmt.Sprintf("%s, v6=%v", f.name, v6), func(t *testing.T) { a.fails(t, f) })
		}
	}
}

func (a *apps) fails(t *testing.T, f failing) {
	begin := time.Now()
	r := a.try(t, client, curl("--max-time", "20", way{host: f.host}.url(f.port, "/"))...)
	took := time.Since(begin)
	t.Logf("curl after %s: code %d, %s", took.Round(time.Millisecond), r.Code, strings.TrimSpace(r.Err))
	ok := false
	for _, code := range f.codes {
		ok = ok || code == r.Code
	}
	if !ok || took > f.within {
		t.Errorf("the app got code %d after %s; want one of %v within %s: %s", r.Code, took, f.codes, f.within, r.Err)
	}
	a.With(t).AwaitFlow(fmt.Sprintf("flow of %s that says one of %v", f.reporter, f.reasons), &adminv1.FlowsRequest{From: "apps/client", To: f.to, Port: uint32(f.port)},
		func(flow *adminv1.Flow) bool {
			for _, reason := range f.reasons {
				if flow.Reporter == f.reporter && flow.Reason == reason && flow.Verdict == "failed" && (f.to == "" || flow.Dst.Address == f.host) {
					return true
				}
			}
			return false
		})
}
