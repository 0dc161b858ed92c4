package ztunnel_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/meshtest"
)

// script is one connection's life, seen by both apps.
type script struct {
	name           string
	client, server []step
}

const mega = 1 << 20

var scripts = []script{
	{"client ends, server answers 1 MiB",
		[]step{send(100), fin, recvToEnd}, []step{recvToEnd, send(mega), closeAll}},
	{"client ends first and server at once after",
		[]step{fin, recvToEnd}, []step{recvToEnd, closeAll}},
	{"server ends first, client goes on for 1 MiB",
		[]step{recvToEnd, send(mega), closeAll}, []step{send(100), fin, recvToEnd}},
	{"both send 1 MiB at once and end",
		[]step{signal("c"), send(mega), fin, recvToEnd}, []step{await("c"), func(e *end) {
			var sending sync.WaitGroup
			sending.Go(func() { send(mega)(e); fin(e) })
			recvToEnd(e)
			sending.Wait()
		}}},
	{"both end at once",
		[]step{signal("c"), await("s"), fin, recvToEnd}, []step{signal("s"), await("c"), fin, recvToEnd}},
	{"both close at once",
		[]step{send(10), recv(10), signal("c"), await("s"), closeAll}, []step{recv(10), send(10), signal("s"), await("c"), closeAll}},
	{"connect and close at once",
		[]step{closeAll}, []step{recvToEnd, send(10), hangUp}},
	{"connect and reset at once",
		[]step{rst}, []step{recvToEnd, sendUntilBroken}},
	{"server greets and closes at once",
		[]step{recvToEnd, closeAll}, []step{send(20), closeAll}},
	{"server resets at once",
		[]step{signal("c"), recvToEnd}, []step{await("c"), rst}},
	{"client resets in the middle of its stream",
		[]step{send(mega), rst}, []step{recv(1000), recvSome}},
	{"client resets in the middle of the server's stream",
		[]step{recv(1000), rst}, []step{sendUntilBroken}},
	{"server resets in the middle of its stream",
		[]step{signal("c"), recvSome}, []step{await("c"), send(mega), rst}},
	{"server resets in the middle of the client's stream",
		[]step{sendUntilBroken}, []step{recv(1000), rst}},
	{"client resets an idle connection",
		[]step{send(10), recv(10), rst}, []step{recv(10), send(10), hangUp, recvToEnd, sendUntilBroken}},
	{"server resets an idle connection",
		[]step{send(10), recv(10), signal("c"), hangUp, recvToEnd, sendUntilBroken}, []step{recv(10), send(10), await("c"), rst}},
	{"client resets after its end",
		[]step{send(10), fin, await("s"), rst}, []step{recvToEnd, signal("s"), hangUp, sendUntilBroken}},
	{"server resets after its end",
		[]step{recvToEnd, signal("c"), hangUp, sendUntilBroken}, []step{send(10), fin, await("c"), rst}},
	{"client resets after the server's end",
		[]step{recvToEnd, rst}, []step{send(10), fin, hangUp, recvToEnd}},
	{"server resets after the client's end",
		[]step{fin, hangUp, recvToEnd}, []step{recvToEnd, rst}},
	{"client closes with data unread",
		[]step{waitForData, closeAll}, []step{send(100), hangUp, recvToEnd}},
	{"server closes with data unread",
		[]step{send(100), hangUp, recvToEnd}, []step{waitForData, closeAll}},
	{"server answers and closes with data unread",
		[]step{send(100), recvToEnd}, []step{waitForData, send(200), closeAll}},
	{"server answers before it has read an upload, and closes",
		[]step{sendUntilBroken, recvToEnd}, []step{recv(1000), send(200), closeAll}},
	{"server answers much before it has read an upload, and closes once that has arrived",
		[]step{sendUntilBroken, recvToEnd}, []step{recv(1000), send(50000), acked, closeAll}},
	{"server answers much before it has read an upload, and closes at once",
		[]step{sendUntilBroken, recvSome}, []step{recv(1000), send(50000), closeAll}},
	{"server closes, client writes once more",
		[]step{recvToEnd, send(10), hangUp, sendUntilBroken}, []step{send(10), closeAll}},
	{"client closes, server writes once more",
		[]step{send(10), closeAll}, []step{recvToEnd, send(10), hangUp, sendUntilBroken}},
	{"long idle with the client's half closed",
		[]step{send(10), fin, recvToEnd}, []step{recvToEnd, idle(100 * time.Millisecond), send(10), closeAll}},
	{"long idle with the server's half closed",
		[]step{recvToEnd, idle(100 * time.Millisecond), send(10), closeAll}, []step{send(10), fin, recvToEnd}},
}

// crowd has every kind of neighbour.
var crowd = []meshtest.Spec{
	{Name: "shop/web", Node: "n1"}, {Name: "shop/cart", Node: "n1"}, {Name: "shop/pay", Node: "n2"},
	{Name: "legacy/client", Node: "n2", Plain: true}, {Name: "legacy/server", Node: "n2", Plain: true},
}

// TestConnectionsEndAsOverPlainTCP plays every script over plain TCP and through each way that Warren has, and compares
// what both apps notice. What differs by nature is in TestRefusedPortIsAcceptedThenReset.
func TestConnectionsEndAsOverPlainTCP(t *testing.T) {
	m := meshtest.New(t, crowd)
	ways := []struct{ name, from, to string }{
		{"same node", "shop/web", "shop/cart"},
		{"tunnel", "shop/web", "shop/pay"},
		{"plaintext inbound", "legacy/client", "shop/pay"},
		{"passthrough", "shop/web", "legacy/server"},
	}
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			for _, v6 := range []bool{false, true} {
				wantClient, wantServer := s.play(t, m.Pod("legacy/client"), m.Pod("legacy/server"), v6)
				t.Logf("plain TCP: client saw %q, server saw %q", wantClient, wantServer)
				for _, way := range ways {
					client, server := s.play(t, m.Pod(way.from), m.Pod(way.to), v6)
					if !slices.Equal(client, wantClient) {
						t.Errorf("%s, v6=%v: client saw %q, over plain TCP %q", way.name, v6, client, wantClient)
					}
					if !slices.Equal(server, wantServer) {
						t.Errorf("%s, v6=%v: server saw %q, over plain TCP %q", way.name, v6, server, wantServer)
					}
				}
			}
		})
	}
	for name, n := range m.Nodes {
		meshtest.Eventually(t, name+" holds no connection", func() bool { return n.Proxy.OpenConnections() == 0 })
	}
}

// play runs the script once and returns what client and server saw.
func (s script) play(t *testing.T, from, to *meshtest.Pod, v6 bool) (client, server []string) {
	t.Helper()
	l := listenTCP(t, to, v6)
	defer l.Close()
	ev := &events{on: map[string]chan struct{}{}}
	var ends sync.WaitGroup
	ends.Go(func() {
		_ = l.SetDeadline(time.Now().Add(patience))
		c, err := l.AcceptTCP()
		if err != nil {
			server = []string{"no connection: " + err.Error()}
			return
		}
		server = s.act(c, ev, s.server)
	})
	c := dial(t, from.NS, to.Addr(v6, uint16(l.Addr().(*net.TCPAddr).Port)))
	client = s.act(c, ev, s.client)
	ends.Wait()
	return client, server
}

func (s script) act(c *net.TCPConn, ev *events, steps []step) []string {
	defer c.Close()
	e := &end{TCPConn: c, events: ev}
	for _, do := range steps {
		do(e)
	}
	return e.seen
}

// listenTCP listens in the pod without MPTCP, whose sockets end differently.
func listenTCP(t *testing.T, p *meshtest.Pod, v6 bool) (l *net.TCPListener) {
	t.Helper()
	p.Do(t, func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		any, err := lc.Listen(context.Background(), "tcp", p.Addr(v6, 0).String())
		if err == nil {
			l = any.(*net.TCPListener)
		}
		return err
	})
	return l
}

// TestRefusedPortIsAcceptedThenReset: the kernel completes a captured connection before anybody has asked the
// destination, so connect succeeds where plain TCP refuses, and the refusal comes as a RST.
func TestRefusedPortIsAcceptedThenReset(t *testing.T) {
	m := meshtest.New(t, crowd)
	for _, way := range [][2]string{{"shop/web", "shop/cart"}, {"shop/web", "shop/pay"}, {"legacy/client", "shop/pay"}, {"shop/web", "legacy/server"}} {
		for _, v6 := range []bool{false, true} {
			m.Pod(way[0]).Do(t, func() error {
				c, err := net.DialTimeout("tcp", m.Pod(way[1]).Addr(v6, 9).String(), patience)
				if err == nil {
					_ = c.SetReadDeadline(time.Now().Add(patience))
					_, err = c.Read(make([]byte, 1))
					c.Close()
				}
				if !errors.Is(err, syscall.ECONNRESET) { // net.Dial reports one that comes before it has looked
					t.Errorf("%s, v6=%v: got %v, want a reset", strings.Join(way[:], " to "), v6, err)
				}
				return nil
			})
		}
	}
}
