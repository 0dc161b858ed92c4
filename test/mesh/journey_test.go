package mesh

import (
	"strings"
	"testing"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
)

func TestServicesAnswerByNameOnTheSameNodeAndAcrossNodesUnreadably(t *testing.T) {
	m := labtest.Up(t, labtest.Shop)
	m.Tap(canary)
	for _, dst := range []string{"cart", "pay"} {
		for _, family := range []string{"-4", "-6"} {
			out := m.MustRun("shop/web", "curl", "-sS", family, "--max-time", "10", "-H", "X-Canary: "+canary,
				"http://"+dst+".shop.svc.cluster.local/")
			if !strings.Contains(out, canary) {
				t.Errorf("%s %s: the server did not get the header: %s", dst, family, out)
			}
		}
	}
	f := m.AwaitFlow("flow of web to pay", &adminv1.FlowsRequest{From: "shop/web", To: "shop/pay"},
		func(f *adminv1.Flow) bool { return f.Reporter == "inbound" && f.EndUnixNano != 0 })
	if f.Src.SpiffeId != "spiffe://cluster.local/ns/shop/sa/web" || f.Dst.SpiffeId != "spiffe://cluster.local/ns/shop/sa/pay" {
		t.Errorf("flow has ids %q and %q", f.Src.SpiffeId, f.Dst.SpiffeId)
	}
	if f.Security != "mtls" || f.Verdict != "forwarded" {
		t.Errorf("flow is %s, %s", f.Security, f.Verdict)
	}
}

func TestTheWiretapHearsPlaintext(t *testing.T) {
	m := labtest.Up(t, labtest.Shop)
	w := m.Listen(canary)
	m.MustRun("legacy/client", "curl", "-sS", "--max-time", "10", "-H", "X-Canary: "+canary, "http://pay.shop.svc.cluster.local/")
	labtest.Await(t, "the wiretap hears an unmeshed client", 5e9, func() bool { return w.Readable.Load() > 0 })
}
