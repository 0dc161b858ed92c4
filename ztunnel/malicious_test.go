package ztunnel_test

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/ztunnel"
)

// TestATunnelReachesItsOwnWorkloadOnly: an authenticated peer asks the victim for every other target it can think of.
func TestATunnelReachesItsOwnWorkloadOnly(t *testing.T) {
	m := meshtest.New(t, shop)
	victim, other := m.Pod("shop/pay"), m.Pod("shop/cart")
	web := workloadID(t, "spiffe://cluster.local/ns/shop/sa/web")
	attacker := presenting(*m.SVID(web, time.Hour).Certificate())
	reached := map[string]*atomic.Int64{"victim": tripwire(t, victim.NS, 8080), "other pod": tripwire(t, other.NS, 8080), "attacker's node": tripwire(t, m.Pod("legacy/client").NS, 8080)}
	ip := victim.Addrs[0].String()
	const noFlow = ztunnel.Reason("") // refused by the wire format already

	cases := []struct {
		name, authority, answer string
		reason                  ztunnel.Reason
	}{
		{"another pod", other.Addrs[0].String() + ":8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"another pod, IPv6", "[" + other.Addrs[1].String() + "]:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"the pod's other address", "[" + victim.Addrs[1].String() + "]:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"its own, IPv4-mapped", "[::ffff:" + ip + "]:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"loopback", "127.0.0.1:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"another loopback", "127.1.2.3:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"loopback, IPv6", "[::1]:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"unspecified", "0.0.0.0:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"unspecified, IPv6", "[::]:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"the node", m.Pod("legacy/client").Addrs[0].String() + ":8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"metadata service", "169.254.169.254:80", "400 bad_target", ztunnel.ReasonBadTarget},
		{"broadcast", "255.255.255.255:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"host name", "pay.shop.svc:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"localhost", "localhost:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"short IPv4", "10.99.3:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"octal IPv4", "012.99.0.3:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"hexadecimal IPv4", "0x0a.99.0.3:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"decimal IPv4", "174260227:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"no port", ip, "400 bad_target", ztunnel.ReasonBadTarget},
		{"empty port", ip + ":", "400 bad_target", ztunnel.ReasonBadTarget},
		{"port 0", ip + ":0", "400 bad_target", ztunnel.ReasonBadTarget},
		{"port above all", ip + ":65536", "400 bad_target", ztunnel.ReasonBadTarget},
		{"port that overflows", ip + ":4294975376", "400 bad_target", ztunnel.ReasonBadTarget},
		{"port with zeros", ip + ":08080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"two ports", ip + ":80:8080", "400 bad_target", ztunnel.ReasonBadTarget},
		{"colon", ":", "400 bad_target", ztunnel.ReasonBadTarget},
		{"bracket", "[", "400 bad_target", ztunnel.ReasonBadTarget},
		{"named port", ip + ":http", "400 bad_target", ztunnel.ReasonBadTarget},
		{"zone", "[fe80::1%25eth0]:8080", "400", noFlow},
		{"user", "root@" + ip + ":8080", "400", noFlow},
		{"URL", "http://" + ip + ":8080/", "400", noFlow},
		{"garbage", "\xff\xfe{}", "400", noFlow},
		{"300 bytes", strings.Repeat("a", 300) + ":8080", "400", noFlow},
		{"12 KiB", strings.Repeat("a", 12<<10) + ":8080", "400", noFlow},
		{"20 KiB", strings.Repeat("a", 20<<10) + ":8080", "GOAWAY COMPRESSION_ERROR", noFlow},
		{"empty", "", "RST PROTOCOL_ERROR", noFlow},
		{"a second header line", ip + ":8080\r\nforwarded: for=x", "RST PROTOCOL_ERROR", noFlow},
		{"NUL", ip + ":8080\x00", "RST PROTOCOL_ERROR", noFlow},
		{"its tunnel port", ip + ":15008", "503 app_unreachable", ztunnel.ReasonAppUnreachable},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := len(m.Records(everything))
			h := intrude(t, m.Pod("legacy/client").NS, victim.Addrs[0], attacker)
			defer h.Close()
			h.request(1, false, ":method", "CONNECT", ":authority", c.authority)
			if got := h.answer(1); got != c.answer {
				t.Errorf("CONNECT %.40q: %s, want %s", c.authority, got, c.answer)
			}
			if c.reason != noFlow {
				meshtest.Eventually(t, "record of the refusal", func() bool { return len(m.Records(everything)) > before })
			}
			for _, r := range m.Records(everything)[before:] {
				if r.Reason != c.reason || r.Src.ID != web || r.Verdict == ztunnel.Forwarded {
					t.Errorf("recorded %s of %s, want %s", describe(r), r.Src.ID, c.reason)
				}
			}
			for who, n := range reached {
				if n.Load() != 0 {
					t.Errorf("%s's app was reached", who)
				}
			}
		})
	}
	h := intrude(t, m.Pod("legacy/client").NS, victim.Addrs[0], attacker)
	if got := h.connect(1, ip+":8080"); got != "200" {
		t.Errorf("an honest request: %s", got)
	}
	meshtest.Eventually(t, "the honest request reaches the app", func() bool { return reached["victim"].Load() == 1 })
}

// TestRequestsThatAreNoTunnel: methods, pseudo headers and early data that a CONNECT must not have.
func TestRequestsThatAreNoTunnel(t *testing.T) {
	m := meshtest.New(t, shop)
	victim := m.Pod("shop/pay")
	reached := tripwire(t, victim.NS, 8080)
	attacker := presenting(*m.SVID(workloadID(t, "spiffe://cluster.local/ns/shop/sa/web"), time.Hour).Certificate())
	target := victim.Addr(false, 8080).String()
	cases := []struct {
		name, answer string
		end          bool
		fields       []string
	}{
		{"GET", "405", true, []string{":method", "GET", ":scheme", "https", ":authority", target, ":path", "/"}},
		{"POST", "405", true, []string{":method", "POST", ":scheme", "https", ":authority", target, ":path", "/"}},
		{"PRI", "405", true, []string{":method", "PRI", ":scheme", "https", ":authority", target, ":path", "*"}},
		{"lower-case connect", "405", true, []string{":method", "connect", ":scheme", "https", ":authority", target, ":path", "/"}},
		{"CONNECT with a path", "RST PROTOCOL_ERROR", false, []string{":method", "CONNECT", ":authority", target, ":path", "/"}},
		{"CONNECT with a scheme", "RST PROTOCOL_ERROR", false, []string{":method", "CONNECT", ":authority", target, ":scheme", "https"}},
		{"extended CONNECT", "RST PROTOCOL_ERROR", false, []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/", ":authority", target}},
		{"two authorities", "RST PROTOCOL_ERROR", false, []string{":method", "CONNECT", ":authority", "10.0.0.1:1", ":authority", target}},
		{"two methods", "RST PROTOCOL_ERROR", false, []string{":method", "GET", ":method", "CONNECT", ":authority", target}},
		{"connection header", "RST PROTOCOL_ERROR", false, []string{":method", "CONNECT", ":authority", target, "connection", "upgrade"}},
		{"transfer-encoding", "RST PROTOCOL_ERROR", false, []string{":method", "CONNECT", ":authority", target, "transfer-encoding", "chunked"}},
		{"no method", "RST PROTOCOL_ERROR", false, []string{":authority", target}},
		{"upper-case header", "RST PROTOCOL_ERROR", false, []string{":method", "CONNECT", ":authority", target, "Forwarded", "for=x"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := intrude(t, m.Pod("legacy/client").NS, victim.Addrs[0], attacker)
			if err := h.request(1, c.end, c.fields...); err != nil {
				t.Fatal(err)
			}
			if got := h.answer(1); got != c.answer {
				t.Errorf("answer %s, want %s", got, c.answer)
			}
			if n := reached.Load(); n != 0 {
				t.Errorf("the app was reached %d times", n)
			}
		})
	}
}

// TestBytesBeforeTheAnswerReachNobodyWhoWasNotAllowed: CVE-2025-64763.
func TestBytesBeforeTheAnswerReachNobodyWhoWasNotAllowed(t *testing.T) {
	m := meshtest.New(t, shop)
	victim := m.Pod("shop/pay")
	got := make(chan string, 4)
	serve(t, victim.NS, 8080, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		got <- string(b)
		c.Close()
	})
	attacker := presenting(*m.SVID(workloadID(t, "spiffe://cluster.local/ns/shop/sa/web"), time.Hour).Certificate())
	h := intrude(t, m.Pod("legacy/client").NS, victim.Addrs[0], attacker)
	for id, target := range map[uint32]string{1: "127.0.0.1:8080", 3: victim.Addr(false, 8080).String()} {
		if id == 3 {
			continue
		}
		h.request(id, false, ":method", "CONNECT", ":authority", target)
		h.fr.WriteData(id, true, []byte("smuggled"))
		if answer := h.answer(id); answer != "400 bad_target" {
			t.Errorf("%s: %s", target, answer)
		}
	}
	h.request(3, false, ":method", "CONNECT", ":authority", victim.Addr(false, 8080).String())
	h.fr.WriteData(3, true, []byte("early"))
	if answer := h.answer(3); answer != "200" {
		t.Fatalf("allowed target: %s", answer)
	}
	if b := <-got; b != "early" {
		t.Errorf("the app got %q", b)
	}
	select {
	case b := <-got:
		t.Errorf("the app was reached twice, and got %q", b)
	default:
	}
}

// TestAPeersWordAuthorisesNothing: what a peer says about itself in headers is attribution, and only the port of its
// own address is believed even there.
func TestAPeersWordAuthorisesNothing(t *testing.T) {
	m := meshtest.New(t, shop, allowCartOnly)
	victim, cart := m.Pod("shop/pay"), m.Pod("shop/cart")
	m.Update(addPolicy(cartOnly()))
	reached := tripwire(t, victim.NS, 8080)
	from := m.Pod("legacy/client")
	attacker := intrude(t, from.NS, victim.Addrs[0], presenting(*m.SVID(workloadID(t, "spiffe://cluster.local/ns/shop/sa/web"), time.Hour).Certificate()))
	target := victim.Addr(false, 8080).String()
	forged := map[string][]string{
		"nothing":             nil,
		"another's address":   {"forwarded", `for="` + cart.Addr(false, 4711).String() + `"`},
		"two addresses":       {"forwarded", `for="` + from.Addr(false, 1).String() + `", for="` + cart.Addr(false, 4711).String() + `"`},
		"two headers":         {"forwarded", `for="` + cart.Addr(false, 1).String() + `"`, "forwarded", `for="` + from.Addr(false, 1).String() + `"`},
		"another's identity":  {"baggage", "k8s.namespace.name=shop,k8s.pod.name=cart", "x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/cart"},
		"a long header":       {"forwarded", `for="` + strings.Repeat("9", 9000) + `"`},
		"IPv4-mapped address": {"forwarded", `for="[::ffff:` + cart.Addrs[0].String() + `]:1"`},
	}
	id := uint32(1)
	for name, headers := range forged {
		before := len(m.Records(everything))
		if got := attacker.connect(id, target, headers...); got != "401 no_allow_matched" {
			t.Errorf("%s: %s", name, got)
		}
		r := m.AwaitRecord("refusal", func(r ztunnel.Record) bool { return r.Reason == "no_allow_matched" })
		for _, r = range m.Records(everything)[before:] {
			if r.Src.Addr.Addr() != from.Addrs[0] || r.Src.ID.ServiceAccount() != "web" {
				t.Errorf("%s: recorded as %s, %s", name, r.Src.Addr, r.Src.ID)
			}
		}
		id += 2
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the app was reached %d times", n)
	}
	// The same address with another port is what an honest peer says.
	honest := intrude(t, from.NS, victim.Addrs[0], presenting(*m.SVID(workloadID(t, "spiffe://cluster.local/ns/shop/sa/cart"), time.Hour).Certificate()))
	if got := honest.connect(1, target, "forwarded", `for="`+from.Addr(false, 4711).String()+`"`); got != "200" {
		t.Fatalf("the allowed peer: %s", got)
	}
	honest.Close()
	m.AwaitRecord("the port that the peer named", func(r ztunnel.Record) bool { return r.Src.Addr == from.Addr(false, 4711) })
}
