package ztunnel_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/ztunnel"
	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// TestAPeerThatExpiresWhileItsTunnelIsOpen may finish what it has, and start nothing.
func TestAPeerThatExpiresWhileItsTunnelIsOpen(t *testing.T) {
	m := meshtest.New(t, shop)
	victim := m.Pod("shop/pay")
	evilEcho(t, victim.NS, 8080)
	svid := m.SVID(workloadID(t, webURI), 2*time.Second)
	h := intrude(t, m.Pod("legacy/client").NS, victim.Addrs[0], presenting(*svid.Certificate()))
	target := victim.Addr(false, 8080).String()
	if got := h.connect(1, target); got != "200" || !h.say(1, "before") {
		t.Fatalf("while it is valid: %s", got)
	}
	meshtest.Eventually(t, "the SVID expires", func() bool { return svid.Expired(time.Now()) })
	if got := h.connect(3, target); got != "401 peer_expired" {
		t.Errorf("a new stream: %s, want 401 peer_expired", got)
	}
	if !h.say(1, "after") {
		t.Error("the open stream was cut")
	}
	r := m.AwaitRecord("refusal", func(r ztunnel.Record) bool { return r.Reason == ztunnel.ReasonPeerExpired })
	if r.Verdict != ztunnel.Denied {
		t.Errorf("recorded %s", describe(r))
	}
}

// TestARootThatIsRemovedTakesItsTunnelsAlong, even those whose leaf has expired since, and no other.
func TestARootThatIsRemovedTakesItsTunnelsAlong(t *testing.T) {
	m := meshtest.New(t, shop)
	victim, from := m.Pod("shop/pay"), m.Pod("legacy/client").NS
	evilEcho(t, victim.NS, 8080)
	rogue, n2 := newForger(t), m.Nodes["n2"]
	clean := n2.Trusted()
	n2.Trust(joinedBy(t, clean, rogue))
	target := victim.Addr(false, 8080).String()
	open := func(cert tls.Certificate) *rawH2 {
		h := intrude(t, from, victim.Addrs[0], presenting(cert))
		if got := h.connect(1, target); got != "200" || !h.say(1, "before") {
			t.Fatalf("under a root that is trusted: %s", got)
		}
		return h
	}
	key := newKey(t)
	ends := time.Now().Add(1500 * time.Millisecond)
	valid, short := open(rogue.leaf(key, time.Hour, []string{webURI}, nil)), open(rogue.leaf(key, time.Until(ends), []string{webURI}, nil))
	bystander := open(*m.SVID(workloadID(t, webURI), time.Hour).Certificate())
	meshtest.Eventually(t, "the short certificate expires", func() bool { return time.Now().After(ends) })
	if got := short.connect(3, target); got != "401 peer_expired" {
		t.Fatalf("once the short certificate has expired: %s", got)
	}

	start := time.Now()
	n2.Trust(clean)
	for name, h := range map[string]*rawH2{"valid": valid, "expired": short} {
		if h.say(1, "after") {
			t.Errorf("%s: the tunnel goes on without its root", name)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %s", took)
	}
	if !bystander.say(1, "after") {
		t.Error("a tunnel under another root was cut")
	}
	meshtest.Eventually(t, "both connections are recorded as trust_removed", func() bool {
		return len(m.Records(func(r ztunnel.Record) bool { return r.Reason == ztunnel.ReasonTrustRemoved })) == 2
	})
	if h, err := tryIntrude(t, from, victim.Addrs[0], presenting(rogue.leaf(key, time.Hour, []string{webURI}, nil))); err == nil {
		if got := h.connect(1, target); got != "closed" {
			t.Errorf("a new tunnel under the removed root: %s", got)
		}
	}
}

// TestARootThatIsRemovedTakesTunnelsToItsServersAlong: the same from the client's side.
func TestARootThatIsRemovedTakesTunnelsToItsServersAlong(t *testing.T) {
	m := meshtest.New(t, append(slices.Clone(shop), meshtest.Spec{Name: "shop/vault", Node: "n3", Plain: true}), enrolled("vault"))
	vault, rogue, n1 := m.Pod("shop/vault"), newForger(t), m.Nodes["n1"]
	clean := n1.Trusted()
	n1.Trust(joinedBy(t, clean, rogue))
	hboneEcho(t, vault, rogue.leaf(newKey(t), time.Hour, []string{"spiffe://cluster.local/ns/shop/sa/vault"}, nil))
	conn := dial(t, m.Pod("shop/web").NS, vault.Addr(false, 8080))
	io.WriteString(conn, "before")
	if _, err := io.ReadFull(conn, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	n1.Trust(clean)
	conn.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the connection goes on without its server's root: %v", err)
	}
	m.AwaitRecord("trust_removed", func(r ztunnel.Record) bool { return r.Reason == ztunnel.ReasonTrustRemoved })
	expectReset(t, m.Pod("shop/web").NS, vault.Addr(false, 8080))
}

// hboneEcho serves a pod's tunnel port as a foreign implementation would.
func hboneEcho(t *testing.T, pod *meshtest.Pod, cert tls.Certificate) {
	t.Helper()
	serve(t, pod.NS, ztunnel.TunnelPort, func(raw *net.TCPConn) {
		c := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, ClientAuth: tls.RequestClientCert})
		if err := c.Handshake(); err != nil {
			raw.Close()
			return
		}
		_ = hbone.ServeConn(context.Background(), c, hbone.Config{}, func(_ context.Context, in *hbone.Inbound) {
			stream, err := in.Accept(hbone.Answer{})
			if err == nil {
				io.Copy(stream, stream)
			}
		})
	})
}
