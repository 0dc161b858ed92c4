package ztunnel_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/ztunnel"
)

// TestHowADirectConnectionEndsIsInItsRecord: by FIN either way first, by RST of either end, and if it was never made; with
// the bytes of both directions.
func TestHowADirectConnectionEndsIsInItsRecord(t *testing.T) {
	m := together(t)
	const port = 9000
	script := make(chan func(*net.TCPConn), 1)
	serve(t, m.Pod("shop/pay").NS, port, func(c *net.TCPConn) {
		readAll := func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }
		select {
		case readAll = <-script:
		default:
		}
		_, _ = c.Write([]byte{'!'}) // last: who has heard it leaves the next script to others
		readAll(c)
		c.Close()
	})
	reset := func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() }
	readAll := func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }
	for _, v6 := range []bool{false, true} {
		dst := m.Pod("shop/pay").Addr(v6, port)
		directly(t, m, "shop/web", dst).Close()
		for name, row := range map[string]struct {
			server, client func(*net.TCPConn)
			reason         ztunnel.Reason
			in, out        uint64
		}{
			"the client ends first": {
				server: func(c *net.TCPConn) { readAll(c); _, _ = c.Write(make([]byte, 1000)) },
				client: func(c *net.TCPConn) { _, _ = c.Write(make([]byte, 70_000)); _ = c.CloseWrite(); readAll(c); c.Close() },
				reason: ztunnel.ReasonClosed, in: 70_000, out: 1001,
			},
			"the server ends first": {
				server: func(c *net.TCPConn) { _, _ = c.Write(make([]byte, 70_000)); _ = c.CloseWrite(); readAll(c) },
				client: func(c *net.TCPConn) { readAll(c); _, _ = c.Write(make([]byte, 10)); c.Close() },
				reason: ztunnel.ReasonClosed, in: 10, out: 70_001,
			},
			"the client resets": {server: readAll, client: reset, reason: ztunnel.ReasonReset, out: 1},
			"the server resets": {
				server: func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 1)); reset(c) },
				client: func(c *net.TCPConn) { _, _ = c.Write([]byte{'?'}); readAll(c) },
				reason: ztunnel.ReasonReset, in: 1, out: 1,
			},
		} {
			script <- row.server
			conn := dial(t, m.Pod("shop/web").NS, dst)
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			own := ownOf(conn)
			row.client(conn)
			conn.Close()
			for _, reporter := range []ztunnel.Reporter{ztunnel.Outbound, ztunnel.Inbound} {
				r := m.AwaitRecord(name, func(r ztunnel.Record) bool { return r.Reporter == reporter && r.Src.Addr == own && r.Dst.Addr == dst })
				if !r.Direct || r.Reason != row.reason || r.In != row.in || r.Out != row.out || r.Phases.Connect <= 0 {
					t.Errorf("%s, v6=%v, %s: %s after %d bytes in and %d out, connected after %s, direct %v; want %s, %d and %d",
						name, v6, reporter, r.Reason, r.In, r.Out, r.Phases.Connect, r.Direct, row.reason, row.in, row.out)
				}
			}
		}
	}
}

// TestADirectConnectionThatNobodyTakesIsRecordedAsSuch: its client hears at once, as without a mesh.
func TestADirectConnectionThatNobodyTakesIsRecordedAsSuch(t *testing.T) {
	m := together(t)
	l := listenIn(t, m, "shop/pay", 9000)
	dst := m.Pod("shop/pay").Addr(false, 9000)
	directly(t, m, "shop/web", dst).Close()
	l.Close()
	if c, err := tryDial(t, m.Pod("shop/web").NS, dst); err == nil {
		t.Errorf("connected to %s, where nobody listens", c.RemoteAddr())
	}
	r := m.AwaitRecord("the failure", func(r ztunnel.Record) bool { return r.Reporter == ztunnel.Outbound && r.Verdict == ztunnel.Failed })
	if !r.Direct || r.Reason != ztunnel.ReasonAppUnreachable || r.Detail != "connection refused" {
		t.Errorf("direct %v, %s, %q", r.Direct, r.Reason, r.Detail)
	}
}

// listenIn greets on a port of a pod until the listener is closed.
func listenIn(t *testing.T, m *meshtest.Mesh, pod string, port int) net.Listener {
	t.Helper()
	var l net.Listener
	m.Pod(pod).NS.Do(t, func() (err error) {
		l, err = net.ListenTCP("tcp", &net.TCPAddr{Port: port})
		return err
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{'!'})
			c.Close()
		}
	}()
	return l
}

// TestAServiceWithOneEndpointOfThisNodeIsReachedDirectly, at its own address as far as both apps are told, and one with a
// choice of endpoints is not: who does not answer is passed over.
func TestAServiceWithOneEndpointOfThisNodeIsReachedDirectly(t *testing.T) {
	m := together(t)
	whoami(t, m.Pod("shop/pay").NS, 8080)
	echoService(m, nil, "shop/pay")
	vip := netip.AddrPortFrom(vip4, 80)
	for i := range 3 {
		answer, own, r := askWhole(t, m, "shop/web", vip)
		awaitPermits(t, m, 1)
		if want := own.String() + " " + m.Pod("shop/pay").Addr(false, 8080).String(); answer != want {
			t.Errorf("the server saw %q, want %q", answer, want)
		}
		if r.Direct != (i > 0) || r.Service != "shop/echo" || r.Dialled != vip {
			t.Errorf("connection %d: direct %v, service %q, dialled %s", i, r.Direct, r.Service, r.Dialled)
		}
	}
	whoami(t, m.Pod("shop/cart").NS, 8080)
	echoService(m, nil, "shop/pay", "shop/cart")
	before := counter(t, m, "out_direct")
	for range 3 {
		askWhole(t, m, "shop/web", vip)
	}
	if n := counter(t, m, "out_direct") - before; n > 0 {
		t.Errorf("%d connections were made without ztunnel although there is a choice", n)
	}
}

// drop has a pod's network drop, or let through, what comes in to a port, as a NetworkPolicy would.
func drop(t *testing.T, m *meshtest.Mesh, pod string, port int, on bool) {
	t.Helper()
	rules := "delete table inet drops"
	if on {
		rules = fmt.Sprintf("table inet drops {\nchain in {\ntype filter hook input priority 0; policy accept;\niifname != lo tcp dport %d drop\n}\n}", port)
	}
	if err := m.Pod(pod).NS.Run(func() error {
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(rules)
		if out, err := nft.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w\n%s", err, out)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestWhatTheNetworkDropsIsCarried: ztunnel's way within a node is no packet on any link, and stays open. Once the network
// drops what was direct, one connection is lost as it would be without a mesh, and the next are carried.
func TestWhatTheNetworkDropsIsCarried(t *testing.T) {
	m := together(t)
	greet(t, m, "shop/pay", 8080)
	drop(t, m, "shop/pay", 8080, true)
	dst := m.Pod("shop/pay").Addr(false, 8080)
	for range 5 {
		if !served1(m, dst) {
			t.Fatal("a connection is not served")
		}
	}
	if n := counter(t, m, "out_direct"); n > 0 {
		t.Errorf("%d connections were direct although the network drops them", n)
	}
	drop(t, m, "shop/pay", 8080, false)
	other := m.Pod("shop/pay").Addr(true, 8080)
	directly(t, m, "shop/web", other).Close()
	drop(t, m, "shop/pay", 8080, true)
	if served1(m, other) {
		t.Error("a direct connection was served that the network drops")
	}
	if !served1(m, other) {
		t.Error("the next one is not carried")
	}
}
