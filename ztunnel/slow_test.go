package ztunnel_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/internal/nettest"
	"golang.org/x/sys/unix"
)

const (
	slowBytes  = 24 << 20 // what the slow stream carries: more than all buffers on its way
	quickBytes = 2 << 20
	quickOnes  = 8
	// inFlight is how much may be under way to a reader that does not read: a stream's window at its most (4 MiB, hbone),
	// and the socket buffers of two apps and of ztunnel's ends (tcp_wmem and tcp_rmem grow to 4 and 6 MiB).
	inFlight = 4<<20 + 2*(4<<20+6<<20)
)

// source is a reproducible stream of size bytes; its sum is what the reader must have.
func source(seed uint64, size int64) (io.Reader, func() string) {
	sum := sha256.New()
	r := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}), size), sum)
	return r, func() string { return hex.EncodeToString(sum.Sum(nil)) }
}

// counted counts what its writer took.
type counted struct {
	io.Writer
	n  int64
	mu sync.Mutex
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.mu.Lock()
	c.n += int64(n)
	c.mu.Unlock()
	return n, err
}

func (c *counted) total() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// stalled waits until the writer has taken nothing for 300 ms, and returns how much it took.
func (c *counted) stalled(t *testing.T) int64 {
	t.Helper()
	last, since := c.total(), time.Now()
	for deadline := time.Now().Add(20 * time.Second); time.Since(since) < 300*time.Millisecond; time.Sleep(20 * time.Millisecond) {
		if now := c.total(); now != last {
			last, since = now, time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatalf("the sender is not held back: %d bytes taken", last)
		}
	}
	return last
}

// warehouse serves "get <seed> <size>" by the stream, and "put <seed> <size>" by its sum. A put reads only once `open` is closed.
func warehouse(t *testing.T, ns *nettest.NS, port int, slowGet *counted, open <-chan struct{}) {
	serve(t, ns, port, func(c *net.TCPConn) {
		defer c.Close()
		in := bufio.NewReader(c)
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		var seed, size int64
		var who string
		fmt.Sscanf(line, "%s %d %d", &who, &seed, &size)
		switch who {
		case "slow-get":
			slowGet.Writer = c
			r, _ := source(uint64(seed), size)
			_, _ = io.Copy(slowGet, r)
		case "get":
			r, _ := source(uint64(seed), size)
			_, _ = io.Copy(c, r)
		case "slow-put", "put":
			if who == "slow-put" {
				<-open
			}
			sum := sha256.New()
			_, _ = io.Copy(sum, io.LimitReader(in, size))
			fmt.Fprint(c, hex.EncodeToString(sum.Sum(nil)))
		}
	})
}

// quick moves quickBytes both ways over connections of its own, all at once, and checks them.
func quick(t *testing.T, from, to *meshtest.Pod, port uint16) {
	t.Helper()
	start := time.Now()
	var all sync.WaitGroup
	for i := range quickOnes {
		get, put := dial(t, from.NS, to.Addr(i%2 == 1, port)), dial(t, from.NS, to.Addr(i%2 == 1, port))
		all.Go(func() {
			r, want := source(uint64(i), quickBytes)
			_, _ = io.Copy(io.Discard, r)
			fmt.Fprintf(get, "get %d %d %s\n", i, quickBytes, meshtest.Canary)
			sum := sha256.New()
			n, err := io.Copy(sum, get)
			if got := hex.EncodeToString(sum.Sum(nil)); got != want() {
				t.Errorf("get %d: %d bytes, %v, wrong sum", i, n, err)
			}
		})
		all.Go(func() {
			r, want := source(uint64(i), quickBytes)
			fmt.Fprintf(put, "put %d %d %s\n", i, quickBytes, meshtest.Canary)
			if _, err := io.Copy(put, r); err != nil {
				t.Errorf("put %d: %v", i, err)
			}
			if got, err := io.ReadAll(put); string(got) != want() {
				t.Errorf("put %d: sum %q, %v", i, got, err)
			}
		})
	}
	all.Wait()
	t.Logf("%d streams of %d MiB beside the slow one took %v", 2*quickOnes, quickBytes>>20, time.Since(start).Round(time.Millisecond))
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestASlowReaderHoldsBackOnlyItsOwnSender, both ways, by tunnel, on one node and without encryption.
func TestASlowReaderHoldsBackOnlyItsOwnSender(t *testing.T) {
	m := meshtest.New(t, crowd)
	for i, way := range []struct{ name, from, to string }{
		{"tunnel", "shop/web", "shop/pay"}, {"same node", "shop/web", "shop/cart"}, {"plaintext inbound", "legacy/client", "shop/pay"},
	} {
		t.Run(way.name, func(t *testing.T) {
			from, to, port := m.Pod(way.from), m.Pod(way.to), uint16(9100+i)
			down, open := &counted{}, make(chan struct{})
			warehouse(t, to.NS, int(port), down, open)
			before := heap()

			// Download: the client does not read. Upload: the server does not.
			slowGet, slowPut := dial(t, from.NS, to.Addr(false, port)), dial(t, from.NS, to.Addr(false, port))
			slowGet.SetDeadline(time.Now().Add(60 * time.Second))
			slowPut.SetDeadline(time.Now().Add(60 * time.Second))
			fmt.Fprintf(slowGet, "slow-get 77 %d %s\n", slowBytes, meshtest.Canary)
			fmt.Fprintf(slowPut, "slow-put 78 %d %s\n", slowBytes, meshtest.Canary)
			up := &counted{Writer: slowPut}
			r, wantPut := source(78, slowBytes)
			sent := make(chan error, 1)
			go func() { _, err := io.Copy(up, r); sent <- err }()
			meshtest.Eventually(t, "both streams flow", func() bool { return up.total() > 0 && down.total() > 0 })
			for name, n := range map[string]int64{"download": down.stalled(t), "upload": up.stalled(t)} {
				t.Logf("%s: %d KiB are under way", name, n>>10)
				if n > inFlight || n == slowBytes {
					t.Errorf("%s: %d bytes are under way, want at most %d", name, n, inFlight)
				}
			}
			if grown := int64(heap()) - int64(before); grown > 2*(6<<20) {
				t.Errorf("two slow streams hold %d KiB of memory", grown>>10)
			}
			quick(t, from, to, port)
			if up.total() == slowBytes || down.total() == slowBytes {
				t.Error("a slow stream went on by itself")
			}

			close(open)
			sum := sha256.New()
			if n, err := io.Copy(sum, slowGet); err != nil || n != slowBytes {
				t.Errorf("download after the pause: %d bytes, %v", n, err)
			}
			all, want := source(77, slowBytes)
			_, _ = io.Copy(io.Discard, all)
			if got := hex.EncodeToString(sum.Sum(nil)); got != want() {
				t.Error("download after the pause: wrong sum")
			}
			if err := <-sent; err != nil {
				t.Errorf("upload after the pause: %v", err)
			}
			if got, err := io.ReadAll(slowPut); string(got) != wantPut() {
				t.Errorf("upload after the pause: sum %q, %v", got, err)
			}
		})
	}
}

// TestManyStreamsShareFewTunnels: so that the above is about streams that share a tunnel.
func TestManyStreamsShareFewTunnels(t *testing.T) {
	m := meshtest.New(t, crowd)
	web, pay := m.Pod("shop/web"), m.Pod("shop/pay")
	serve(t, pay.NS, 9200, func(c *net.TCPConn) { _, _ = io.Copy(c, c); c.Close() })
	var conns []*net.TCPConn
	for range 64 {
		c := dial(t, web.NS, pay.Addr(false, 9200))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if n := tunnelsTo(t, web); n == 0 || n >= len(conns)/2 {
		t.Errorf("%d connections go by %d tunnels", len(conns), n)
	} else {
		t.Logf("%d connections go by %d tunnels", len(conns), n)
	}
}

// tunnelsTo counts the pod's established connections to port 15008.
func tunnelsTo(t *testing.T, p *meshtest.Pod) (n int) {
	t.Helper()
	p.Do(t, func() error {
		table, err := readAll("/proc/thread-self/net/tcp")
		for _, line := range strings.Split(table, "\n") {
			f := strings.Fields(line)
			if len(f) > 3 && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", 15008)) && f[3] == "01" {
				n++
			}
		}
		return err
	})
	return n
}

func readAll(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var out []byte
	b := make([]byte, 32<<10)
	for {
		n, err := unix.Read(fd, b)
		if n <= 0 {
			return string(out), err
		}
		out = append(out, b[:n]...)
	}
}
