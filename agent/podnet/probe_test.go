package podnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/internal/nettest"
	"golang.org/x/sys/unix"
)

// probed is an enrolled pod "a" with an app, and its node's own network namespace "b"; "c" is elsewhere on the bridge.
// Whatever does not reach the app directly is answered by what stands for ztunnel.
type probed struct {
	*node
	c *nettest.NS
}

const byZtunnel = "plaintext"

func newProbed(t *testing.T) *probed {
	t.Helper()
	c := nettest.New(t)
	n := &probed{newNode(t, c), c}
	app := &town{node: n.node, c: n.a}
	app.serveTruth(t, tcpPort, false)
	n.relays.serve(n.pod.Plaintext, func(conn *net.TCPConn) {
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = conn.Read(make([]byte, 64))
		_, _ = conn.Write([]byte(byZtunnel))
	})
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	return n
}

func cookieOf(t *testing.T, n *node, ns *nettest.NS) uint64 {
	t.Helper()
	cookie, err := CookieOf(context.Background(), n.thread, ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

// isKubelet makes p the node's kubelet.
func (n *probed) isKubelet(t *testing.T, p *program) {
	t.Helper()
	if err := n.capture.SetKubelet(p.id(t, cookieOf(t, n.node, n.b))); err != nil {
		t.Fatal(err)
	}
}

// dial lets p connect to the app, from a port of its choice if `from` is valid. It returns p's end.
func (n *probed) dial(t *testing.T, p *program, f int, from netip.AddrPort) netip.AddrPort {
	t.Helper()
	source := "-"
	if from.IsValid() {
		source = from.String()
	}
	said := p.tell("dial %d %s %s", f, netip.AddrPortFrom(n.a.Addrs[families[f].index], tcpPort), source)
	own, err := netip.ParseAddrPort(strings.TrimPrefix(said, "from "))
	if err != nil {
		t.Fatalf("%s: dial answered %q", families[f].name, said)
	}
	return own
}

// probe is dial and ask. It checks who answered.
func (n *probed) probe(t *testing.T, p *program, who string, direct bool) {
	t.Helper()
	for f := range families {
		n.probeFrom(t, p, f, who, direct, netip.AddrPort{})
	}
}

func (n *probed) probeFrom(t *testing.T, p *program, f int, who string, direct bool, from netip.AddrPort) {
	t.Helper()
	before := n.count(t)
	own := n.dial(t, p, f, from)
	dst := netip.AddrPortFrom(n.a.Addrs[families[f].index], tcpPort)
	want, counter, other := byZtunnel, "in_plaintext", "in_probe"
	if direct {
		want = fmt.Sprintf("accept %s, getpeername %s, getsockname %s", own, own, dst)
		counter, other = other, counter
	}
	if got := p.tell("ask"); got != want {
		t.Errorf("%s, %s: answered %q, want %q", who, families[f].name, got, want)
	}
	p.tell("close")
	after := n.count(t)
	// At least one: an ACK that comes after a RST finds no socket and is steered, and counted, once more.
	if after[counter] == before[counter] || after[other] != before[other] {
		t.Errorf("%s, %s: %s rose by %d and %s by %d", who, families[f].name,
			counter, after[counter]-before[counter], other, after[other]-before[other])
	}
}

// TestTheKubeletsProbesReachTheApp, which sees the node's address as without a mesh, and nobody else's of the node do.
func TestTheKubeletsProbesReachTheApp(t *testing.T) {
	for _, nested := range []bool{false, true} {
		t.Run(fmt.Sprintf("in a pid namespace of its own=%v", nested), func(t *testing.T) {
			n := newProbed(t)
			kubelet, other := start(t, n.b, nested), start(t, n.b, nested)
			n.probe(t, kubelet, "before it is known", false)
			n.isKubelet(t, kubelet)
			n.probe(t, kubelet, "the kubelet", true)
			n.probe(t, other, "another process of the node", false)
			n.probe(t, kubelet, "the kubelet again", true)
			if err := n.capture.ForgetKubelet(); err != nil {
				t.Fatal(err)
			}
			n.probe(t, kubelet, "after it was forgotten", false)
		})
	}
}

// TestANewAgentAndNoAgentKnowTheKubelet: its probes pass between two agents, and after the second one took over.
func TestANewAgentAndNoAgentKnowTheKubelet(t *testing.T) {
	n := newProbed(t)
	kubelet := start(t, n.b, false)
	n.isKubelet(t, kubelet)
	held := start(t, n.b, false)
	n.closePod()
	n.probe(t, kubelet, "without an agent", true)
	for f := range families {
		if said := held.tell("dial %d %s -", f, netip.AddrPortFrom(n.a.Addrs[families[f].index], tcpPort)); !strings.HasSuffix(said, "refused") {
			t.Errorf("another process without an agent, %s: %q", families[f].name, said)
		}
	}
	if err := n.capture.Close(); err != nil {
		t.Fatal(err)
	}
	n.capture = n.openCapture(t)
	n.probe(t, kubelet, "with the next agent", true)
}

// TestOnlyTheSameProcessIsTheKubelet: what has its pid at another time, its pid elsewhere, or its place, is not.
func TestOnlyTheSameProcessIsTheKubelet(t *testing.T) {
	n := newProbed(t)
	p := start(t, n.b, false)
	right := p.id(t, cookieOf(t, n.node, n.b))
	for name, change := range map[string]func(*bpf.Kubelet){
		"an earlier process of its pid":       func(k *bpf.Kubelet) { k.Start-- },
		"a later process of its pid":          func(k *bpf.Kubelet) { k.Start++ },
		"its pid in another pid namespace":    func(k *bpf.Kubelet) { k.PidNS++ },
		"another pid that started with it":    func(k *bpf.Kubelet) { k.Pid++ },
		"it, but in another node's namespace": func(k *bpf.Kubelet) { k.Netns = cookieOf(t, n.node, n.c) },
	} {
		k := right
		change(&k)
		if err := n.capture.SetKubelet(k); err != nil {
			t.Fatal(err)
		}
		n.probe(t, p, name, false)
	}
	if err := n.capture.SetKubelet(right); err != nil {
		t.Fatal(err)
	}
	n.probe(t, p, "it", true)
}

// TestARestartedKubeletIsAnotherProcess.
func TestARestartedKubeletIsAnotherProcess(t *testing.T) {
	n := newProbed(t)
	first := start(t, n.b, false)
	n.isKubelet(t, first)
	n.probe(t, first, "the first", true)
	first.kill()
	second := start(t, n.b, false)
	n.probe(t, second, "the second before it is known", false)
	n.isKubelet(t, second)
	n.probe(t, second, "the second", true)
}

// TestAPortOfTheKubeletsIsNobodysPass: another process that takes the port of the kubelet's last connection, however that
// ended, is itself.
func TestAPortOfTheKubeletsIsNobodysPass(t *testing.T) {
	for name, end := range map[string]func(*program){
		"closed": func(p *program) { p.tell("close") },
		"killed": func(p *program) { p.kill() },
	} {
		t.Run(name, func(t *testing.T) {
			n := newProbed(t)
			other := start(t, n.b, false)
			for f := range families {
				kubelet := start(t, n.b, false)
				n.isKubelet(t, kubelet)
				own := n.dial(t, kubelet, f, netip.AddrPort{})
				end(kubelet)
				eventually(t, "the kubelet's port is free", func() bool {
					said := other.tell("dial %d %s %s", f, netip.AddrPortFrom(n.a.Addrs[families[f].index], tcpPort), own)
					return strings.HasPrefix(said, "from")
				})
				other.tell("close")
				n.probeFrom(t, other, f, "from the kubelet's port", false, own)
			}
		})
	}
}

// forger gives c the node's addresses, and has the pod take c for the node: the best that a forger on the pod's own
// segment can reach.
func (n *probed) forger(t *testing.T) *program {
	t.Helper()
	var mac net.HardwareAddr
	n.c.Do(t, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		mac = eth0.Attrs().HardwareAddr
		for _, a := range n.b.Addrs {
			if err := n.c.AddAddr(eth0, a); err != nil {
				return err
			}
		}
		return nil
	})
	n.a.Do(t, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, a := range n.b.Addrs {
			if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, IP: a.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT}); err != nil {
				return err
			}
		}
		return nil
	})
	return start(t, n.c, false)
}

// TestAForgedAddressOfTheNodePassesNothing: not even from the kubelet's port while the kubelet's connection is open.
func TestAForgedAddressOfTheNodePassesNothing(t *testing.T) {
	for f, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			n := newProbed(t)
			kubelet := start(t, n.b, false)
			n.isKubelet(t, kubelet)
			own := n.dial(t, kubelet, f, netip.AddrPort{})
			if got := kubelet.tell("ask"); !strings.HasPrefix(got, "accept") {
				t.Fatalf("the kubelet was answered %q", got)
			}
			own2 := n.dial(t, kubelet, f, netip.AddrPort{})
			time.Sleep(1100 * time.Millisecond) // how long a late ACK of the kubelet's passes
			forger := n.forger(t)
			before := n.count(t)
			n.probeFrom(t, forger, f, "from a port of an earlier connection", false, own)
			said := ""
			eventually(t, "the forger has reset the kubelet's connection", func() bool {
				said = forger.tell("dial %d %s %s", f, netip.AddrPortFrom(n.a.Addrs[fam.index], tcpPort), own2)
				return strings.HasPrefix(said, "from")
			})
			if got := forger.tell("ask"); got != byZtunnel {
				t.Errorf("the forger, on the port of an open connection, was answered %q", got)
			}
			if after := n.count(t); after["in_probe"] != before["in_probe"] {
				t.Error("a forged connection passed as the kubelet's")
			}
		})
	}
}

// TestNodesOfOneKernelDoNotMix: the kubelet of another node, whose agent has programs at the same cgroup, is anybody here.
func TestNodesOfOneKernelDoNotMix(t *testing.T) {
	n := newProbed(t)
	root, err := bpf.CgroupRoot("")
	if err != nil {
		t.Fatal(err)
	}
	pins := filepath.Join(filepath.Dir(n.pins), filepath.Base(n.pins)+"-second")
	second, err := bpf.Open(bpf.Config{PinDir: pins, CgroupRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		second.Close()
		if err := bpf.Remove(pins); err != nil {
			t.Error(err)
		}
	})
	here, there := start(t, n.b, false), start(t, n.c, false)
	n.isKubelet(t, here)
	if err := second.SetKubelet(there.id(t, cookieOf(t, n.node, n.c))); err != nil {
		t.Fatal(err)
	}
	n.probe(t, here, "this node's kubelet", true)
	n.probe(t, there, "the other node's kubelet", false)
}

// TestAProbePassesUnderSYNCookies: then it is the handshake's last ACK that makes the app's socket.
func TestAProbePassesUnderSYNCookies(t *testing.T) {
	n := newProbed(t)
	n.a.Do(t, func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_syncookies", []byte("2"), 0) })
	kubelet := start(t, n.b, false)
	n.isKubelet(t, kubelet)
	for f := range families {
		before := n.count(t)
		own := n.dial(t, kubelet, f, netip.AddrPort{})
		if got, want := kubelet.tell("ask"), fmt.Sprintf("accept %s,", own); !strings.HasPrefix(got, want) {
			t.Errorf("%s: answered %q, want %q", families[f].name, got, want)
		}
		if after := n.count(t); after["in_probe"] != before["in_probe"]+2 {
			t.Errorf("%s: asked %d times, want for the SYN and for the ACK", families[f].name, after["in_probe"]-before["in_probe"])
		}
	}
}

// TestAPendingPodAnswersNoProbe: it is not ready before it is served.
func TestAPendingPodAnswersNoProbe(t *testing.T) {
	n := newProbed(t)
	kubelet := start(t, n.b, false)
	n.isKubelet(t, kubelet)
	if err := n.pod.Suspend(); err != nil {
		t.Fatal(err)
	}
	for f := range families {
		said := kubelet.tell("dial %d %s -", f, netip.AddrPortFrom(n.a.Addrs[families[f].index], tcpPort))
		if !strings.HasSuffix(said, unix.ECONNREFUSED.Error()) {
			t.Errorf("%s: %q", families[f].name, said)
		}
	}
	if err := n.pod.Enroll(); err != nil {
		t.Fatal(err)
	}
	n.probe(t, kubelet, "enrolled", true)
}
