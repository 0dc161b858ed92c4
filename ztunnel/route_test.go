package ztunnel_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/ztunnel"
)

var (
	vip4 = netip.MustParseAddr("10.96.0.10")
	vip6 = netip.MustParseAddr("fd00:96::10")
)

// echoService has the named pods as ready endpoints: port 80 is their 8080.
func echoService(m *meshtest.Mesh, edit func(*mesh.Service), pods ...string) {
	svc := &mesh.Service{
		Namespace: "shop", Name: "echo", Hostname: "echo.shop.svc.cluster.local", VIPs: []netip.Addr{vip4, vip6},
		Ports: []mesh.Port{{Name: "tcp", Number: 80}, {Name: "unserved", Number: 81}},
	}
	for _, name := range pods {
		w := m.Pod(name).Workload
		svc.Endpoints = append(svc.Endpoints, mesh.Endpoint{Workload: w.UID, Addrs: w.Addrs, TargetPorts: map[uint16]uint16{80: 8080}, Ready: true})
	}
	if edit != nil {
		edit(svc)
	}
	m.Update(func(services *[]*mesh.Service, _ *[]*policy.Policy) { *services = []*mesh.Service{svc} })
}

// answerBy makes a pod answer with its name.
func answerBy(t *testing.T, m *meshtest.Mesh, name string) {
	serve(t, m.Pod(name).NS, 8080, func(c *net.TCPConn) {
		fmt.Fprint(c, name)
		c.Close()
	})
}

// ask returns what the server says. A refusal may reach the client before its connect has returned, or after.
func ask(t *testing.T, m *meshtest.Mesh, client string, dst netip.Addr, port uint16) (string, error) {
	t.Helper()
	var c net.Conn
	err := m.Pod(client).Run(func() (err error) {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(dst, port).String(), 3*time.Second)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	got, err := io.ReadAll(c)
	return string(got), err
}

var zoned = []meshtest.Spec{
	{Name: "shop/client", Node: "n1", Zone: "a"},
	{Name: "shop/near", Node: "n1", Zone: "a"}, {Name: "shop/far", Node: "n2", Zone: "b"}, {Name: "shop/farther", Node: "n3", Zone: "b"},
}

func TestServiceAddressReachesEveryReadyEndpoint(t *testing.T) {
	m := meshtest.New(t, zoned)
	for _, p := range []string{"shop/near", "shop/far", "shop/farther"} {
		answerBy(t, m, p)
	}
	echoService(m, func(s *mesh.Service) { s.Endpoints[2].Ready = false }, "shop/near", "shop/far", "shop/farther")
	for name, vip := range map[string]netip.Addr{"v4": vip4, "v6": vip6, "v4-mapped": netip.AddrFrom16(vip4.As16())} {
		seen := map[string]int{}
		for range 30 {
			who, err := ask(t, m, "shop/client", vip, 80)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			seen[who]++
		}
		if seen["shop/near"] == 0 || seen["shop/far"] == 0 || seen["shop/farther"] > 0 {
			t.Errorf("%s: answers came from %v, want both ready ones and no other", name, seen)
		}
	}
}

func TestSameZoneIsPreferredWhileItAnswers(t *testing.T) {
	m := meshtest.New(t, zoned)
	answerBy(t, m, "shop/far")
	near := m.Pod("shop/near")
	var listener net.Listener
	near.Do(t, func() (err error) {
		listener, err = net.Listen("tcp", ":8080")
		return err
	})
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "shop/near")
			c.Close()
		}
	}()
	echoService(m, func(s *mesh.Service) { s.PreferSameZone = true }, "shop/far", "shop/near")
	for range 20 {
		if who, err := ask(t, m, "shop/client", vip4, 80); err != nil || who != "shop/near" {
			t.Fatalf("answered by %q, %v; want the endpoint in the client's zone", who, err)
		}
	}
	listener.Close()
	for range 5 {
		if who, err := ask(t, m, "shop/client", vip4, 80); err != nil || who != "shop/far" {
			t.Fatalf("answered by %q, %v; want the other zone, as ours refuses", who, err)
		}
	}
}

// No byte of the client has been read yet when an endpoint turns out to refuse: another one is tried.
func TestARefusedConnectionIsTriedOnAnotherEndpoint(t *testing.T) {
	m := meshtest.New(t, zoned)
	answerBy(t, m, "shop/farther") // near and far do not listen: one refuses locally, one over the tunnel
	echoService(m, nil, "shop/near", "shop/far", "shop/farther")
	for i := range 20 {
		if who, err := ask(t, m, "shop/client", vip4, 80); err != nil || who != "shop/farther" {
			t.Fatalf("try %d: answered by %q, %v", i, who, err)
		}
	}
}

func TestPowerOfTwoChoicesAvoidsTheBusyEndpoint(t *testing.T) {
	m := meshtest.New(t, zoned)
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	for _, name := range []string{"shop/near", "shop/far"} {
		serve(t, m.Pod(name).NS, 8080, func(c *net.TCPConn) {
			fmt.Fprint(c, name)
			<-hold
			c.Close()
		})
	}
	echoService(m, nil, "shop/near", "shop/far")
	seen := map[string]int{}
	for range 20 {
		c := dial(t, m.Pod("shop/client").NS, netip.AddrPortFrom(vip4, 80))
		buf := make([]byte, 16)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		seen[string(buf[:n])]++
	}
	if seen["shop/near"] != 10 || seen["shop/far"] != 10 {
		t.Errorf("open connections are spread %v, want 10 and 10", seen)
	}
}

func TestNowhereToGoIsSaid(t *testing.T) {
	m := meshtest.New(t, zoned)
	echoService(m, func(s *mesh.Service) { s.Endpoints[0].Ready = false }, "shop/near")
	for port, want := range map[uint16]ztunnel.Reason{80: ztunnel.ReasonNoEndpoint, 81: ztunnel.ReasonNoEndpoint, 82: ztunnel.ReasonNoPort} {
		if _, err := ask(t, m, "shop/client", vip4, port); err == nil {
			t.Errorf("port %d: the connection ended in order, want a reset", port)
		}
		r := m.AwaitRecord("record", func(r ztunnel.Record) bool { return r.Dialled.Port() == port })
		if r.Reason != want || r.Verdict != ztunnel.Failed || r.Service != "shop/echo" {
			t.Errorf("port %d: record says %s, %s, service %q; want %s", port, r.Verdict, r.Reason, r.Service, want)
		}
	}
}
