package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/warren-mesh/warren/bpf"
	"golang.org/x/sys/unix"
)

// Pod is one captured pod: its place in the kernel, its listeners and its stock of sockets.
type Pod struct {
	// Listeners accept what the kernel steers: the accepted socket's local address is the original destination,
	// except on Outbound, whose OriginalDst the slot knows.
	Outbound, Plaintext, Tunnel []net.Listener

	netns   *os.File
	thread  *Thread
	capture *bpf.Capture
	slot    *bpf.Slot // set once, by Open
	diag    *diag     // likewise
	stocks  [2]*stock // IPv4, IPv6

	life  context.Context
	end   context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	addrs   []netip.Addr
	choices Choices
	closed  bool
}

// Spec says which pod to open.
type Spec struct {
	Netns   string // path of its network namespace
	Running bool   // it goes on as without a mesh until Enroll
	Choices
}

// Choices are what the pod's owner chose; they may change. See [bpf.Pod].
type Choices struct{ FailOpen, Accelerate bool }

// Open captures the pod and opens its listeners. New connections are refused until Enroll, unless the pod is running, or an
// earlier agent had enrolled it. ctx bounds the call.
func Open(ctx context.Context, thread *Thread, capture *bpf.Capture, spec Spec) (*Pod, error) {
	f, err := os.Open(spec.Netns)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	p := &Pod{netns: f, thread: thread, capture: capture}
	p.life, p.end = context.WithCancel(context.WithoutCancel(ctx))
	p.stocks = [2]*stock{newStock(p, unix.AF_INET), newStock(p, unix.AF_INET6)}
	if err := p.open(ctx, spec); err != nil {
		p.closeSockets()
		if p.slot != nil {
			err = errors.Join(err, p.slot.Suspend())
		}
		return nil, err
	}
	return p, nil
}

func (p *Pod) open(ctx context.Context, spec Spec) error {
	var cookie uint64
	var addrs []netip.Addr
	if err := p.thread.Do(ctx, p.netns, func() (err error) {
		if cookie, err = netnsCookie(); err == nil {
			addrs, err = addresses()
		}
		if err == nil {
			p.diag, err = openDiag()
		}
		return err
	}); err != nil {
		return err
	}
	slot, err := p.reserve(cookie, addrs, spec)
	if err != nil {
		return err
	}
	p.slot = slot
	return p.listen(ctx)
}

// reserve captures the pod under these addresses.
func (p *Pod) reserve(cookie uint64, addrs []netip.Addr, s Spec) (*bpf.Slot, error) {
	slot, err := p.capture.Reserve(bpf.Pod{
		Cookie: cookie, Netns: int(p.netns.Fd()), Addrs: addrs, Running: s.Running,
		FailOpen: s.FailOpen, Accelerate: s.Accelerate,
	})
	if err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.addrs, p.choices = addrs, s.Choices
	}
	return slot, err
}

// Addrs returns the pod's own addresses, as its namespace had them last.
func (p *Pod) Addrs() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addrs
}

// Refresh takes up addresses that the namespace got or lost, and changed choices.
func (p *Pod) Refresh(ctx context.Context, c Choices) error {
	var now []netip.Addr
	if err := p.thread.Do(ctx, p.netns, func() (err error) {
		now, err = addresses()
		return err
	}); err != nil {
		return err
	}
	p.mu.Lock()
	same := c == p.choices && slices.Equal(now, p.addrs)
	p.mu.Unlock()
	if same {
		return nil
	}
	_, err := p.reserve(p.Cookie(), now, Spec{Choices: c})
	return err
}

// CookieOf returns the cookie of the network namespace at path.
func CookieOf(ctx context.Context, thread *Thread, path string) (cookie uint64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open network namespace: %w", err)
	}
	defer f.Close()
	err = thread.Do(ctx, f, func() (err error) {
		cookie, err = netnsCookie()
		return err
	})
	return cookie, err
}

// Cookie is the network namespace's, known once the pod is open.
func (p *Pod) Cookie() uint64 { return p.slot.Cookie() }

// addresses returns the addresses of the thread's namespace but loopback's.
func addresses() ([]netip.Addr, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && !ip.IsLoopback() {
			out = append(out, ip.Unmap())
		}
	}
	return out, nil
}

func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("make socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read network namespace's cookie: %w", err)
	}
	return cookie, nil
}

// listen opens one listener for each role and family, which only the kernel's steering reaches. A pod without IPv6 has none
// of that family.
func (p *Pod) listen(ctx context.Context) error {
	port4, port6 := p.slot.OutPorts()
	loopback4, loopback6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	for _, l := range []struct {
		role bpf.Role
		at   netip.AddrPort // a port that is not 0 is to be had again if it is free
		into *[]net.Listener
	}{
		{bpf.Outbound, netip.AddrPortFrom(loopback4, port4), &p.Outbound},
		// The pod's IPv6 connections are turned to its own addresses (ADR 7): at this port none of them can be an app's.
		{bpf.Outbound, netip.AddrPortFrom(netip.IPv6Unspecified(), port6), &p.Outbound},
		{bpf.Plaintext, netip.AddrPortFrom(loopback4, 0), &p.Plaintext},
		{bpf.Plaintext, netip.AddrPortFrom(loopback6, 0), &p.Plaintext},
		{bpf.Tunnel, netip.AddrPortFrom(loopback4, 0), &p.Tunnel},
		{bpf.Tunnel, netip.AddrPortFrom(loopback6, 0), &p.Tunnel},
	} {
		v6 := l.at.Addr().Is6()
		listener, err := p.listenAt(ctx, l.at)
		if v6 && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("listen in pod: %w", err)
		}
		*l.into = append(*l.into, listener)
		if err := control(listener, func(fd int) error { return p.slot.Listen(l.role, fd, v6) }); err != nil {
			return err
		}
	}
	return nil
}

// Ports that apps hardly listen on, and that the kernel gives to nobody who asks for any (net.ipv4.ip_local_port_range): a
// listener on one of those would sooner or later be in the way of an app. Two agents have six of a family at once.
const (
	firstPort = 15060
	lastPort  = 15079
)

// listenAt listens at an address. Its port is the given one, or one of ours if that is 0 or an app has it by now.
func (p *Pod) listenAt(ctx context.Context, at netip.AddrPort) (l *net.TCPListener, err error) {
	var ports []uint16
	if at.Port() != 0 {
		ports = append(ports, at.Port())
	}
	for port := uint16(firstPort); port <= lastPort; port++ {
		ports = append(ports, port)
	}
	for _, port := range append(ports, 0) {
		if l, err = p.listenOne(ctx, netip.AddrPortFrom(at.Addr(), port)); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return l, err
}

func (p *Pod) listenOne(ctx context.Context, at netip.AddrPort) (l *net.TCPListener, err error) {
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 3 * time.Minute, Interval: 30 * time.Second, Count: 6}}
	lc.SetMultipathTCP(false) // a sockmap takes no MPTCP socket
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	err = p.thread.Do(ctx, p.netns, func() error {
		any, err := lc.Listen(ctx, network, at.String())
		if err == nil {
			l = any.(*net.TCPListener)
		}
		return err
	})
	return l, err
}

// Enroll opens the way: the pod's connections reach the listeners from now on. Whoever accepts must be ready.
func (p *Pod) Enroll() error {
	var ports [2]uint16
	for _, l := range p.Outbound {
		ap := l.Addr().(*net.TCPAddr).AddrPort()
		if ap.Addr().Is4() {
			ports[0] = ap.Port()
		} else {
			ports[1] = ap.Port()
		}
	}
	return p.slot.Enroll(ports[0], ports[1])
}

// Suspend refuses the pod's new connections until Enroll.
func (p *Pod) Suspend() error { return p.slot.Suspend() }

// OriginalDst returns where a connection accepted on Outbound from `client` wanted to go, and how long ago.
func (p *Pod) OriginalDst(client netip.AddrPort) (netip.AddrPort, time.Duration, error) {
	return p.slot.OriginalDst(client)
}

// Source returns the address of a client on Outbound as its app sees it.
func (p *Pod) Source(client netip.AddrPort) netip.AddrPort { return p.slot.Source(client) }

// Leave lets the pod's new connections pass uncaptured, while peers that do not know yet still reach it by tunnel.
func (p *Pod) Leave() error { return p.slot.Leave() }

// Withdraw lets the pod go: its next connection is as if there were no mesh. Open connections go on.
func (p *Pod) Withdraw() error { return p.slot.Withdraw() }

// Close closes listeners and stock. Connections that were accepted or dialled go on; the pod's capture too.
func (p *Pod) Close() { p.closeSockets() }

// background runs f in a goroutine that Close waits for, unless the pod is closed.
func (p *Pod) background(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.tasks.Go(f)
	}
}

func (p *Pod) closeSockets() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.end()
	for _, ls := range [][]net.Listener{p.Outbound, p.Plaintext, p.Tunnel} {
		for _, l := range ls {
			l.Close()
		}
	}
	p.tasks.Wait()
	for _, s := range p.stocks {
		s.drain()
	}
	if p.diag != nil {
		p.diag.close()
	}
	p.netns.Close()
}
