package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/warren-mesh/warren/bpf"
	"golang.org/x/sys/unix"
)

// TestAnAppCannotTakeTheAgentsPlace: while the agent is gone, an app that listens where the agent did gets nothing.
func TestAnAppCannotTakeTheAgentsPlace(t *testing.T) {
	n := newPair(t)
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for _, l := range n.pod.Outbound {
		ap := l.Addr().(*net.TCPAddr).AddrPort()
		loopback, own := netip.IPv6Loopback(), n.a.Addrs[1]
		if ap.Addr().Is4() {
			loopback, own = ap.Addr(), n.a.Addrs[0]
		}
		addrs = append(addrs, netip.AddrPortFrom(loopback, ap.Port()).String(), netip.AddrPortFrom(own, ap.Port()).String())
	}
	n.closePod()
	stolen := make(chan string, 64)
	n.a.Do(t, func() error {
		for _, a := range addrs {
			var lc net.ListenConfig
			lc.SetMultipathTCP(false)
			l, err := lc.Listen(context.Background(), "tcp", a)
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
					stolen <- a
					c.Close()
				}
			}()
		}
		return nil
	})
	for _, f := range families {
		_, took, err := f.connect(t, n.a, n.b, tcpPort)
		checkRefused(t, f.name, err, unix.ECONNREFUSED, took)
	}
	for _, f := range inbound {
		_, took, err := f.connect(t, n.b, n.a, tcpPort)
		checkRefused(t, "in, "+f.name, err, unix.ECONNREFUSED, took)
	}
	select {
	case a := <-stolen:
		t.Errorf("the app's listener at %s got a captured connection", a)
	default:
	}
}

// TestNoAppsPortIsTheAgents: a port that an app gets at the pod's address is served, or the kernel refuses it as in use. Asked
// for any port, the kernel gives none where the agent listens.
func TestNoAppsPortIsTheAgents(t *testing.T) {
	n := newTown(t)
	var any [2]int // of ip_local_port_range
	n.c.Do(t, func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
		if err == nil {
			_, err = fmt.Sscan(string(b), &any[0], &any[1])
		}
		return err
	})
	for _, l := range slices.Concat(n.podC.Outbound, n.podC.Plaintext, n.podC.Tunnel) {
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		if int(port) >= any[0] && int(port) <= any[1] {
			t.Errorf("the agent listens at %s, which the kernel may give to an app", l.Addr())
		}
		for _, f := range families {
			var server *net.TCPListener
			n.c.Do(t, func() (err error) {
				server, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(n.c.Addrs[f.index], port)))
				if errors.Is(err, unix.EADDRINUSE) {
					return nil
				}
				return err
			})
			if server == nil {
				continue
			}
			go func() {
				for {
					c, err := server.AcceptTCP()
					if err != nil {
						return
					}
					go tellTruth(c)
				}
			}()
			s, _, err := f.connect(t, n.a, n.c, port)
			checkPasses(t, fmt.Sprintf("%s, an app at port %d, where the agent listens at %s", f.name, port, l.Addr()), s, err)
			server.Close()
		}
	}
}

// TestNobodyIsBroughtToTheOutboundListener: who dials it from outside could be taken for the pod.
func TestNobodyIsBroughtToTheOutboundListener(t *testing.T) {
	n := newTown(t)
	for _, l := range n.podC.Outbound {
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		for i, own := range n.c.Addrs {
			c, release, err := n.podC.DialApp(context.Background(), netip.AddrPortFrom(n.a.Addrs[i], 1), netip.AddrPortFrom(own, port))
			if err == nil {
				c.Close()
				release()
			}
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("the pod's address %s, where %s is turned to: dialling the app answered %v", own, l.Addr(), err)
			}
		}
	}
}

// TestTheAgentsOwnProcessIsNotExempt: only the sockets that it marked are. This process is the agent here.
func TestTheAgentsOwnProcessIsNotExempt(t *testing.T) {
	n := newPair(t)
	if _, _, err := families[0].connect(t, n.a, n.b, tcpPort); err != unix.EPERM {
		t.Errorf("an unmarked socket of the agent's process: connect answered %v", err)
	}
	c, err := n.pod.Dial(context.Background(), netip.Addr{}, netip.AddrPortFrom(n.b.Addrs[0], tcpPort))
	if err != nil {
		t.Fatalf("a marked socket: %v", err)
	}
	c.Close()
}

// TestANewAgentTakesOverWithoutAGap: a client connects all the time, and each of its connections is captured.
func TestANewAgentTakesOverWithoutAGap(t *testing.T) {
	n := newPair(t)
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	n.relay(t)
	before := n.count(t)
	stop, result := make(chan struct{}), make(chan knocks, 1)
	go func() { result <- n.knock(stop) }()
	const takeovers = 3
	for range takeovers {
		n.closePod()
		if err := n.capture.Close(); err != nil {
			t.Fatal(err)
		}
		n.nextAgent(t)
		if s, _, err := families[1].connect(t, n.a, n.b, tcpPort); err != nil || s.peer().Addr() != n.b.Addrs[1] {
			t.Errorf("the new agent does not serve: %v", err)
		}
	}
	close(stop)
	got, after := <-result, n.count(t)
	t.Logf("of %d connections %d were served", got.all, got.served)
	if captured := int(after["out_captured"] - before["out_captured"]); captured != got.all+takeovers {
		t.Errorf("%d of %d connections were captured, want all", captured, got.all+takeovers)
	}
}

// knocks counts connections.
type knocks struct{ all, served int }

// knock connects until stop.
func (n *node) knock(stop <-chan struct{}) (k knocks) {
	_ = n.a.Run(func() error {
		for {
			select {
			case <-stop:
				return nil
			default:
			}
			k.all++
			if n.knockOnce(families[k.all%len(families)]) == nil {
				k.served++
			}
		}
	})
	return k
}

func (n *node) knockOnce(f family) error {
	fd, err := unix.Socket(f.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s := &sock{fd}
	defer s.close()
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3})
	if err := unix.Connect(fd, f.to(n.b, tcpPort)); err != nil {
		return err
	}
	_, err = s.ask()
	return err
}

// TestOneAgentAtATime: a second one is told that the pins are in use.
func TestOneAgentAtATime(t *testing.T) {
	n := newNode(t)
	root, err := bpf.CgroupRoot("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bpf.Open(bpf.Config{PinDir: n.pins, CgroupRoot: root}); !errors.Is(err, bpf.ErrInUse) {
		t.Errorf("a second Open answered %v", err)
	}
	if err := bpf.Remove(n.pins); !errors.Is(err, bpf.ErrInUse) {
		t.Errorf("Remove answered %v while an agent runs", err)
	}
}

// TestAClosedPodMakesNoSockets: the number of its namespace's file may be another pod's by now.
func TestAClosedPodMakesNoSockets(t *testing.T) {
	n := newPair(t)
	n.closePod()
	for _, dst := range n.b.Addrs {
		c, err := n.pod.Dial(context.Background(), netip.Addr{}, netip.AddrPortFrom(dst, tcpPort))
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("dial answered %v, %v", c, err)
		}
	}
}
