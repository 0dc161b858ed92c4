package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/labtest"
)

// soakTime is how long TestEverythingAtOnce goes on: WARREN_SOAK, or a while that finds what is badly broken.
func soakTime(t *testing.T) time.Duration {
	s := os.Getenv("WARREN_SOAK")
	if s == "" {
		return 12 * time.Second
	}
	d, err := time.ParseDuration(s)
	must(t, err)
	return d
}

// soak is a mesh in which connections of all kinds are made while all that happens to a mesh happens to it.
type soak struct {
	*testing.T
	m    *labtest.Mesh
	stop chan struct{}
	// Odd while a connection from outside the mesh, or any at all, may be refused or cut.
	outside, any atomic.Int64
	made, torn   atomic.Int64
}

// TestEverythingAtOnce: every byte of every connection arrives as it was sent, and none is refused or cut but by what is said
// to do so: an agent that is killed, and for who is outside of the mesh one that is replaced.
func TestEverythingAtOnce(t *testing.T) {
	const workers = 8
	s := &soak{T: t, m: up(t, town(meshed, "")), stop: make(chan struct{})}
	s.awaitAll()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var running sync.WaitGroup
	for i := range workers {
		running.Go(func() { s.work(rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	events := s.disturb(rand.New(rand.NewPCG(seed, workers)), time.Now().Add(soakTime(t)))
	close(s.stop)
	running.Wait()
	t.Logf("%d connections, %d of them refused or cut as they may be, during %v", s.made.Load(), s.torn.Load(), events)
	if s.made.Load() < 100 {
		t.Error("hardly any connection was made: this proves nothing")
	}
	for _, node := range []string{"n1", "n2"} {
		labtest.Await(t, node+" has no open connection", 20*time.Second, func() bool {
			return statusAt(t, s.m, s.m.AgentSocket(node)).Nodes[0].OpenConnections == 0
		})
	}
}

// awaitAll waits until every pod reaches every pod.
func (s *soak) awaitAll() {
	for _, from := range soakPods {
		for _, to := range soakPods {
			for _, address := range bothOf(s, s.m, to) {
				labtest.Await(s, from+" reaches "+to, 20*time.Second, func() bool { return pingPlain(s, s.m, from, address) == nil })
			}
		}
	}
}

func inMesh(pod string) bool { return strings.HasPrefix(pod, "shop/") }

var soakPods = []string{"shop/web", "shop/cart", "shop/pay", "legacy/near", "legacy/far"}

// work makes one connection after the other.
func (s *soak) work(r *rand.Rand) {
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		from, to := soakPods[r.IntN(len(soakPods))], soakPods[r.IntN(len(soakPods))]
		kind := soakKinds[r.IntN(len(soakKinds))]
		address := at(s, s.m, to, r.IntN(2) == 1, echoPort)
		outside, any := s.outside.Load(), s.any.Load()
		began := time.Now()
		err := s.connect(from, address, func(c *net.TCPConn) error { return kind.do(c, talk{r, inMesh(from) && inMesh(to)}) })
		s.made.Add(1)
		if err == nil {
			continue
		}
		calm := any%2 == 0 && s.any.Load() == any
		if !inMesh(from) {
			calm = calm && outside%2 == 0 && s.outside.Load() == outside
		}
		if calm || errors.Is(err, errWrong) {
			s.Errorf("%s, %s to %s, which is %s, at %s for %s: %v", kind.name, from, to, address, began.Format(time.TimeOnly), time.Since(began), err)
		}
		s.torn.Add(1)
	}
}

func (s *soak) connect(from string, to netip.AddrPort, use func(*net.TCPConn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	c, err := s.m.Dial(ctx, from, to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return err
	}
	return use(c.(*net.TCPConn))
}

// errWrong is never forgiven.
var errWrong = errors.New("bytes came that were not sent so")

var soakKinds = []struct {
	name string
	do   func(c *net.TCPConn, by talk) error
}{
	{"messages", func(c *net.TCPConn, by talk) error {
		for range 1 + by.IntN(20) {
			if err := there(c, by.noise(1+by.IntN(4000))); err != nil {
				return err
			}
		}
		return nil
	}},
	{"a stream and its end", func(c *net.TCPConn, by talk) error { return whole(c, by.noise(by.IntN(2<<20))) }},
	{"a short stream and its end", func(c *net.TCPConn, by talk) error { return whole(c, by.noise(by.IntN(100))) }},
	{"a message after a pause", func(c *net.TCPConn, by talk) error {
		time.Sleep(time.Duration(by.IntN(100)) * time.Millisecond)
		return there(c, by.noise(100))
	}},
	{"a reset in mid-stream", func(c *net.TCPConn, by talk) error {
		err := there(c, by.noise(1+by.IntN(100_000)))
		_ = c.SetLinger(0)
		return err
	}},
	{"nothing", func(*net.TCPConn, talk) error { return nil }},
	{"an end with unread bytes", func(c *net.TCPConn, by talk) error {
		_, err := c.Write(by.noise(1 + by.IntN(50_000)))
		return err
	}},
}

// there sends b and reads it back.
func there(c *net.TCPConn, b []byte) error { return back(c, b, func() error { return nil }) }

// whole sends b and its end, and reads both back.
func whole(c *net.TCPConn, b []byte) error {
	if err := back(c, b, c.CloseWrite); err != nil {
		return err
	}
	var more [1]byte
	if n, err := c.Read(more[:]); n > 0 {
		return errWrong
	} else if err != io.EOF {
		return fmt.Errorf("wait for the end: %w", err)
	}
	return nil
}

// back sends b, does what comes after it, and meanwhile reads b back.
func back(c net.Conn, b []byte, after func() error) error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(b)
		sent <- errors.Join(err, after())
	}()
	err := expect(c, b)
	if err != nil {
		c.Close() // the writer may wait for a reader
	}
	return errors.Join(err, <-sent)
}

func expect(c net.Conn, want []byte) error {
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if string(got[:n]) != string(want[:n]) {
		return errWrong
	}
	if err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, len(want), err)
	}
	return nil
}

// talk is what one connection says: in the mesh it begins with the canary, which nobody may read between the nodes.
type talk struct {
	*rand.Rand
	secret bool
}

func (k talk) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(k.Uint32())
	}
	if k.secret {
		copy(b, canary)
	}
	return b
}

// disturb has one thing after the other happen, and returns how often each did.
func (s *soak) disturb(r *rand.Rand, until time.Time) map[string]int {
	events := []struct {
		name string
		do   func(node string)
	}{
		{"policies", func(string) {
			s.m.Write("policy.yaml", authzYAML("shop", "soak", `{action: DENY, rules: [{to: [{operation: {ports: ["1"]}}]}]}`)) // what nobody does
			time.Sleep(300 * time.Millisecond)
			s.m.Remove("policy.yaml")
		}},
		{"a pod", func(node string) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			s.m.Write("guest.yaml", podYAML("shop/guest", node))
			must(s, s.m.Reconcile(ctx))
			awaitPings(s, s.m, "shop/guest", bothOf(s, s.m, "shop/pay")...)
			s.m.Remove("guest.yaml")
			must(s, s.m.Reconcile(ctx))
		}},
		{"labels", func(string) {
			s.m.Write("mesh.yaml", town(meshed, meshed))
			time.Sleep(700 * time.Millisecond)
			s.m.Write("mesh.yaml", town(meshed, ""))
			time.Sleep(700 * time.Millisecond)
		}},
		{"the controller replaced", func(string) {
			must(s, s.m.KillController(syscall.SIGKILL))
			startController(s, s.m)
		}},
		{"an agent replaced", func(node string) { s.restart(node, syscall.SIGTERM, &s.outside) }},
		{"an agent killed", func(node string) { s.restart(node, syscall.SIGKILL, &s.any) }},
	}
	count := map[string]int{}
	for i := 0; time.Now().Before(until) && !s.Failed(); i++ {
		e := events[r.IntN(len(events))]
		if i < len(events) {
			e = events[i]
		}
		s.Logf("%s: %s", time.Now().Format(time.TimeOnly), e.name)
		e.do(fmt.Sprintf("n%d", 1+r.IntN(2)))
		count[e.name]++
		time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond)
	}
	return count
}

// restart ends a node's agent and starts the next. Meanwhile, and until it has served, gap is odd.
func (s *soak) restart(node string, by syscall.Signal, gap *atomic.Int64) {
	gap.Add(1)
	defer gap.Add(1)
	must(s, s.m.KillAgent(node, by))
	startAgent(s, s.m, node)
	s.awaitAll()
}
