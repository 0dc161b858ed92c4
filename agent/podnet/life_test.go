package podnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/nettest"
	"golang.org/x/sys/unix"
)

// connect dials from ns and returns the socket, and how long the answer took.
func (f family) connect(t *testing.T, ns, to *nettest.NS, port uint16) (s *sock, took time.Duration, err error) {
	t.Helper()
	ns.Do(t, func() error {
		s = tcpSock(t, f)
		start := time.Now()
		err = unix.Connect(s.fd, f.to(to, port))
		took = time.Since(start)
		return nil
	})
	return s, took, err
}

// inbound are the families in which others can dial a pod.
var inbound = families[:2]

const atOnce = time.Second // a SYN that nobody answers is sent again after that

func checkRefused(t *testing.T, what string, err, want error, took time.Duration) {
	t.Helper()
	if !errors.Is(err, want) || took >= atOnce {
		t.Errorf("%s: connect answered %v after %v, want %v at once", what, err, took, want)
	}
}

// checkPasses checks that the server itself answers, and so that nothing is between.
func checkPasses(t *testing.T, what string, s *sock, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: connect answered %v", what, err)
		return
	}
	own, dst := s.own(), s.peer()
	got, err := s.ask()
	if want := fmt.Sprintf("accept %s, getpeername %s, getsockname %s", own, own, dst); got != want || err != nil {
		t.Errorf("%s: server saw %q, %v, want %q", what, got, err, want)
	}
}

// newPair is a node with an app in the pod and one outside.
func newPair(t *testing.T) *node {
	n := newNode(t)
	(&town{node: n, c: n.a}).serveTruth(t, tcpPort, false)
	(&town{node: n, c: n.b}).serveTruth(t, tcpPort, false)
	return n
}

func (n *node) checkBothRefused(t *testing.T, outErr error, outCounter, inCounter string) {
	t.Helper()
	for _, f := range families {
		before := n.count(t)
		_, took, err := f.connect(t, n.a, n.b, tcpPort)
		checkRefused(t, "out, "+f.name, err, outErr, took)
		n.checkMoved(t, "out, "+f.name, before, outCounter)
	}
	for _, f := range inbound {
		for _, port := range []uint16{tcpPort, 15008} {
			before := n.count(t)
			_, took, err := f.connect(t, n.b, n.a, port)
			checkRefused(t, fmt.Sprintf("in, %s, port %d", f.name, port), err, unix.ECONNREFUSED, took)
			n.checkMoved(t, "in, "+f.name, before, inCounter)
		}
	}
}

func (n *node) checkMoved(t *testing.T, what string, before map[string]uint64, counter string) {
	t.Helper()
	if after := n.count(t); after[counter] == before[counter] {
		t.Errorf("%s: counter %s did not move: %v", what, counter, after)
	}
}

func (n *node) checkBothPass(t *testing.T) {
	t.Helper()
	for _, f := range families {
		s, _, err := f.connect(t, n.a, n.b, tcpPort)
		checkPasses(t, "out, "+f.name, s, err)
	}
	for _, f := range inbound {
		s, _, err := f.connect(t, n.b, n.a, tcpPort)
		checkPasses(t, "in, "+f.name, s, err)
	}
}

func TestAPendingPodIsRefusedAtOnceBothWays(t *testing.T) {
	newPair(t).checkBothRefused(t, unix.EPERM, "out_pending", "in_pending")
}

// TestARunningPodGoesOnUntilItIsServed: nothing of it is refused because it joins.
func TestARunningPodGoesOnUntilItIsServed(t *testing.T) {
	n := newPair(t)
	n.closePod()
	if err := n.pod.Withdraw(); err != nil {
		t.Fatal(err)
	}
	var err error
	if n.pod, err = Open(context.Background(), n.thread, n.capture, Spec{Netns: n.a.Path, Running: true}); err != nil {
		t.Fatal(err)
	}
	n.checkBothPass(t)
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	n.relay(t)
	for _, f := range families {
		before := n.count(t)
		_, _, err := f.connect(t, n.a, n.b, tcpPort)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
		n.checkMoved(t, f.name, before, "out_captured")
	}
}

func TestWithoutAnAgentConnectionsAreRefusedAtOnceBothWays(t *testing.T) {
	n := newPair(t)
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	n.closePod()
	n.checkBothRefused(t, unix.ECONNREFUSED, "in_no_listener", "in_no_listener")
}

func TestWithoutAnAgentConnectionsPassIfTheNamespaceSaysSo(t *testing.T) {
	n := newPair(t)
	if err := n.pod.Refresh(context.Background(), Choices{FailOpen: true}); err != nil {
		t.Fatal(err)
	}
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	n.relay(t)
	for _, f := range families { // captured while the agent is there
		before := n.count(t)
		if _, _, err := f.connect(t, n.a, n.b, tcpPort); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
		n.checkMoved(t, f.name, before, "out_captured")
	}
	n.closePod()
	before := n.count(t)
	n.checkBothPass(t)
	n.checkMoved(t, "out", before, "out_fail_open")
	n.checkMoved(t, "in", before, "in_fail_open")
	if after := n.count(t); after["out_captured"] != before["out_captured"] {
		t.Error("a connection was captured without anybody to serve it")
	}
}

// TestAPodThatLeavesKeepsItsOpenConnections, whose ends still see the truth, while new ones pass, and is captured again
// when it comes back.
func TestAPodThatLeavesKeepsItsOpenConnections(t *testing.T) {
	for _, leave := range []struct {
		name string
		by   func(p *Pod) error
	}{{"leave", (*Pod).Leave}, {"withdraw", (*Pod).Withdraw}} {
		t.Run(leave.name, func(t *testing.T) {
			n := newPair(t)
			if err := n.pod.Enroll(); err != nil {
				t.Fatal(err)
			}
			n.relay(t)
			n.plaintextRelay(t)
			var open []*sock
			for _, f := range families {
				s, _, err := f.connect(t, n.a, n.b, tcpPort)
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, s)
			}
			fromOutside, _, err := families[0].connect(t, n.b, n.a, tcpPort)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "all are served", func() bool { return n.count(t)["out_own"] >= 4 })
			if err := leave.by(n.pod); err != nil {
				t.Fatal(err)
			}
			n.checkBothPass(t)
			for i, s := range open {
				if want := netip.AddrPortFrom(n.b.Addrs[families[i].index], tcpPort); s.peer() != want {
					t.Errorf("%s: peer of an open connection is %s, want %s", families[i].name, s.peer(), want)
				}
				if _, err := s.ask(); err != nil {
					t.Errorf("%s: open connection: %v", families[i].name, err)
				}
			}
			client := fromOutside.own()
			if got, err := fromOutside.ask(); err != nil || got != fmt.Sprintf("accept %s, getpeername %s, getsockname %s", client, client, fromOutside.peer()) {
				t.Errorf("open connection from outside: server saw %q, %v", got, err)
			}
			if leave.name == "withdraw" {
				return
			}
			if err := n.pod.Enroll(); err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				before := n.count(t)
				if _, _, err := f.connect(t, n.a, n.b, tcpPort); err != nil {
					t.Errorf("%s: after coming back: %v", f.name, err)
				}
				n.checkMoved(t, f.name+" after coming back", before, "out_captured")
			}
		})
	}
}

func TestAWithdrawnPodCanBeOpenedAgain(t *testing.T) {
	n := newPair(t)
	n.closePod()
	if err := n.pod.Withdraw(); err != nil {
		t.Fatal(err)
	}
	n.checkBothPass(t)
	again, err := Open(context.Background(), n.thread, n.capture, Spec{Netns: n.a.Path})
	if err != nil {
		t.Fatal(err)
	}
	n.pod = again
	n.checkBothRefused(t, unix.EPERM, "out_pending", "in_pending")
	if err := again.Enroll(); err != nil {
		t.Fatal(err)
	}
	n.relay(t)
	s, _, err := families[0].connect(t, n.a, n.b, tcpPort)
	if err != nil || s.peer().Addr() != n.b.Addrs[0] {
		t.Errorf("connect answered %v, peer %s", err, s.peer())
	}
}
