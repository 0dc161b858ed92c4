package ztunnel_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/internal/nettest"
	"github.com/warren-mesh/warren/ztunnel"
)

// whoami answers each connection with the canary and what its server sees of it, and ends it.
func whoami(t *testing.T, ns *nettest.NS, port int) {
	t.Helper()
	serve(t, ns, port, func(c *net.TCPConn) {
		fmt.Fprintf(c, "%s%s %s", meshtest.Canary, c.RemoteAddr(), c.LocalAddr())
		c.Close()
	})
}

func serve(t *testing.T, ns *nettest.NS, port int, handle func(*net.TCPConn)) {
	t.Helper()
	ns.Do(t, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go handle(c.(*net.TCPConn))
			}
		}()
		return nil
	})
}

func dial(t *testing.T, ns *nettest.NS, dst netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := tryDial(t, ns, dst)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tryDial is dial for connections that may be refused: the RST may arrive before connect has returned, or after.
func tryDial(t *testing.T, ns *nettest.NS, dst netip.AddrPort) (*net.TCPConn, error) {
	t.Helper()
	var conn net.Conn
	if err := ns.Run(func() (err error) {
		conn, err = net.DialTimeout("tcp", dst.String(), 3*time.Second)
		return err
	}); err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn.(*net.TCPConn), nil
}

var shop = []meshtest.Spec{
	{Name: "shop/web", Node: "n1"}, {Name: "shop/cart", Node: "n1"}, {Name: "shop/pay", Node: "n2"},
	{Name: "legacy/client", Node: "n2", Plain: true},
}

func TestBothEndsSeeTheTruthWhereverTheyAre(t *testing.T) {
	m := meshtest.New(t, shop)
	cases := []struct {
		from, to string
		security ztunnel.Security
	}{
		{"shop/web", "shop/cart", ztunnel.SameNode},
		{"shop/web", "shop/pay", ztunnel.MutualTLS},
		{"legacy/client", "shop/pay", ztunnel.Plaintext},
		{"shop/web", "legacy/client", ztunnel.Plaintext},
	}
	for _, name := range []string{"shop/cart", "shop/pay", "legacy/client"} {
		whoami(t, m.Pod(name).NS, 8080)
	}
	for _, c := range cases {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s to %s v6=%v", c.from, c.to, v6), func(t *testing.T) {
				dst := m.Pod(c.to).Addr(v6, 8080)
				conn := dial(t, m.Pod(c.from).NS, dst)
				all, err := io.ReadAll(conn)
				if err != nil {
					t.Fatal(err)
				}
				got := strings.TrimPrefix(string(all), meshtest.Canary)
				client := conn.LocalAddr().String()
				if m.Pod(c.to).Spec.Plain { // outside, the address is kept and the port is ztunnel's
					client, _, _ = strings.Cut(got, " ")
					if seen := netip.MustParseAddrPort(client).Addr(); seen != m.Pod(c.from).Addr(v6, 0).Addr() {
						t.Errorf("server saw %s, want the client pod's address", seen)
					}
				}
				if want := client + " " + dst.String(); got != want {
					t.Errorf("server saw %q, client has %q", got, want)
				}
				if conn.RemoteAddr().String() != dst.String() {
					t.Errorf("client's peer is %s, it dialled %s", conn.RemoteAddr(), dst)
				}
				if src := m.Pod(c.from).Addr(v6, 0).Addr().String(); conn.LocalAddr().(*net.TCPAddr).IP.String() != src {
					t.Errorf("client's own address is %s, want %s", conn.LocalAddr(), src)
				}
				conn.Close()
				r := m.AwaitRecord("record of the connection", func(r ztunnel.Record) bool {
					return r.Src.Addr.String() == conn.LocalAddr().String() && r.Dst.Addr == dst
				})
				if r.Security != c.security || r.Verdict != ztunnel.Forwarded || r.Reason != ztunnel.ReasonClosed {
					t.Errorf("record says %s, %s, %s (%s); want %s", r.Security, r.Verdict, r.Reason, r.Detail, c.security)
				}
			})
		}
	}
}
