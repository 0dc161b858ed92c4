package ztunnel_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/ztunnel"
)

// honestPatience is what an honest peer has while another one misbehaves. 2 s leave room for a slow machine; without an
// attack the same takes milliseconds.
const honestPatience = 2 * time.Second

// honest has shop/web reach the victim's echo, and fails if that takes long.
func honest(t *testing.T, m *meshtest.Mesh, victim *meshtest.Pod) {
	t.Helper()
	start := time.Now()
	c := dial(t, m.Pod("shop/web").NS, victim.Addr(false, 8080))
	defer c.Close()
	c.SetDeadline(time.Now().Add(honestPatience))
	io.WriteString(c, meshtest.Canary)
	if _, err := io.ReadFull(c, make([]byte, len(meshtest.Canary))); err != nil {
		t.Errorf("an honest peer is not served: %v after %s", err, time.Since(start))
	}
}

// base is what the process holds before an attack. settles waits until it holds no more, give or take what a few warm
// tunnels cost.
type base struct {
	goroutines int
	heap       uint64
}

func measure() base {
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return base{runtime.NumGoroutine(), mem.HeapAlloc}
}

func (b base) settles(t *testing.T, m *meshtest.Mesh) {
	t.Helper()
	meshtest.Eventually(t, "no connection is left", func() bool { return m.Nodes["n1"].Proxy.OpenConnections()+m.Nodes["n2"].Proxy.OpenConnections() == 0 })
	meshtest.Eventually(t, "goroutines and memory return to what they were", func() bool {
		now := measure()
		return now.goroutines <= b.goroutines+20 && now.heap <= b.heap+16<<20
	})
}

func abused(t *testing.T) (m *meshtest.Mesh, victim *meshtest.Pod, attacker *tls.Config) {
	t.Helper()
	m = meshtest.New(t, shop)
	victim = m.Pod("shop/pay")
	evilEcho(t, victim.NS, 8080)
	honest(t, m, victim)
	return m, victim, presenting(*m.SVID(workloadID(t, webURI), time.Hour).Certificate())
}

// TestSlowPeersAreCutAndHoldUpNobody: each stalls at another point of what comes before its first request.
func TestSlowPeersAreCutAndHoldUpNobody(t *testing.T) {
	m, victim, attacker := abused(t)
	before := measure()
	to, from := victim.Addr(false, ztunnel.TunnelPort), m.Pod("legacy/client").NS
	stalls := map[string]func() net.Conn{
		"says nothing": func() net.Conn { return dial(t, from, to) },
		"half a ClientHello": func() net.Conn {
			c := dial(t, from, to)
			c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3})
			return c
		},
		"TLS and no more": func() net.Conn {
			c := tls.Client(dial(t, from, to), attacker)
			if err := c.Handshake(); err != nil {
				t.Error(err)
			}
			return c
		},
		"half a preface": func() net.Conn {
			c := tls.Client(dial(t, from, to), attacker)
			io.WriteString(c, http2.ClientPreface[:10])
			return c
		},
		"no request": func() net.Conn { return intrude(t, from, victim.Addrs[0], attacker) },
		"half a request": func() net.Conn {
			h := intrude(t, from, victim.Addrs[0], attacker)
			h.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.block(":method", "CONNECT")})
			return h
		},
	}
	var cut sync.WaitGroup
	for name, stall := range stalls {
		c := stall()
		start := time.Now()
		cut.Go(func() {
			c.SetReadDeadline(time.Now().Add(9 * time.Second))
			_, err := io.Copy(io.Discard, c)
			if took := time.Since(start); isTimeout(err) || took > 7*time.Second || took < 3*time.Second {
				t.Errorf("%s: ended after %s with %v, want about 5 s", name, took, err)
			}
			c.Close()
		})
	}
	honest(t, m, victim)
	cut.Wait()
	before.settles(t, m)
}

// TestHalfOpenConnectionsOfOneAddressAreFew, and another peer does not notice.
func TestHalfOpenConnectionsOfOneAddressAreFew(t *testing.T) {
	m, victim, attacker := abused(t)
	before := measure()
	from := m.Pod("legacy/client").NS
	var open []net.Conn
	for range 500 {
		err := from.Run(func() error {
			c, err := net.Dial("tcp", victim.Addr(false, ztunnel.TunnelPort).String())
			if err == nil {
				open = append(open, c)
			}
			return err
		})
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
	}
	refused := func(r ztunnel.Record) bool { return r.Reason == ztunnel.ReasonHandshakes }
	meshtest.Eventually(t, "all but 64 are refused", func() bool { return len(m.Records(refused)) == 500-64 })
	if now := runtime.NumGoroutine(); now > before.goroutines+3*64 {
		t.Errorf("%d goroutines more for 500 half-open connections", now-before.goroutines)
	}
	honest(t, m, victim)
	if _, err := tryIntrude(t, from, victim.Addrs[0], attacker); err == nil {
		t.Error("one more from that address got through")
	}
	for _, c := range open {
		c.Close()
	}
	before.settles(t, m)
	if got := intrude(t, from, victim.Addrs[0], attacker).connect(1, victim.Addr(false, 8080).String()); got != "200" {
		t.Errorf("afterwards the address is served: %s", got)
	}
}

// TestIdleTunnelsOfOnePeer: 200 that never ask for anything go by themselves; with a request each, there is a limit.
func TestIdleTunnelsOfOnePeer(t *testing.T) {
	m, victim, attacker := abused(t)
	before := measure()
	from := m.Pod("legacy/client").NS
	var idle []*rawH2
	for range 200 {
		idle = append(idle, intrude(t, from, victim.Addrs[0], attacker))
	}
	honest(t, m, victim)
	for _, h := range idle {
		if got := h.answer(1); got != "GOAWAY ENHANCE_YOUR_CALM" && got != "closed" {
			t.Fatalf("a tunnel without a request: %s", got)
		}
		h.Close()
	}
	before.settles(t, m)

	target := victim.Addr(false, 8080).String()
	open := 0
	for range 300 {
		h, err := tryIntrude(t, from, victim.Addrs[0], attacker)
		if err == nil && h.connect(1, target) == "200" {
			open++
		}
	}
	if open != 256 {
		t.Errorf("one address holds %d tunnels to one pod, want 256", open)
	}
	honest(t, m, victim)
	m.AwaitRecord("refusals", func(r ztunnel.Record) bool { return r.Reason == ztunnel.ReasonTunnels })
}

// TestStreamsOpenedAndReset: CVE-2023-44487, ten thousand of them.
func TestStreamsOpenedAndReset(t *testing.T) {
	m, victim, attacker := abused(t)
	before := measure()
	from, target := m.Pod("legacy/client").NS, victim.Addr(false, 8080).String()
	sent, calm := 0, 0
	for sent < 10000 && !t.Failed() {
		h := intrude(t, from, victim.Addrs[0], attacker)
		for id := uint32(1); id < 1000; id += 2 {
			if h.request(id, false, ":method", "CONNECT", ":authority", target) != nil || h.fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				break
			}
			sent++
		}
		if h.answer(0) == "GOAWAY ENHANCE_YOUR_CALM" {
			calm++
		}
		h.Close()
	}
	if calm < 15 {
		t.Errorf("%d of 20 tunnels were told to calm down", calm)
	}
	honest(t, m, victim)
	before.settles(t, m)
}

// TestHeaderFloods: a header list without end, in one block or in many, and one that grows when it is decoded.
func TestHeaderFloods(t *testing.T) {
	m, victim, attacker := abused(t)
	before := measure()
	from := m.Pod("legacy/client").NS
	forTime := func(send func() error) error {
		for end := time.Now().Add(8 * time.Second); time.Now().Before(end); {
			if err := send(); err != nil {
				return err
			}
		}
		return nil
	}
	floods := map[string]func(h *rawH2) error{
		"CONTINUATION without end": func(h *rawH2) error {
			if err := h.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.block(":method", "CONNECT")}); err != nil {
				return err
			}
			junk := append([]byte(nil), h.block("x", strings.Repeat("y", 4000))...)
			return forTime(func() error { return h.fr.WriteContinuation(1, false, junk) })
		},
		"empty CONTINUATION without end": func(h *rawH2) error {
			if err := h.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.block(":method", "CONNECT")}); err != nil {
				return err
			}
			return forTime(func() error { return h.fr.WriteContinuation(1, false, nil) })
		},
		"HPACK bomb": func(h *rawH2) error {
			block := append([]byte(nil), h.block(":method", "CONNECT", "cookie", strings.Repeat("z", 4000))...)
			for range 16000 {
				block = append(block, 0x80|62) // the newest entry of the dynamic table
			}
			for id := uint32(1); id < 400; id += 2 {
				if err := h.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true}); err != nil {
					return err
				}
			}
			return io.ErrClosedPipe // answered 431 each, for what decoding 16 KiB costs
		},
		"PING flood": func(h *rawH2) error {
			return forTime(func() error { return h.fr.WritePing(false, [8]byte{}) })
		},
	}
	for name, flood := range floods {
		t.Run(name, func(t *testing.T) {
			h := intrude(t, from, victim.Addrs[0], attacker)
			h.SetDeadline(time.Now().Add(12 * time.Second))
			gone := make(chan struct{})
			go func() { io.Copy(io.Discard, h.Conn); close(gone) }()
			if err := flood(h); err == nil {
				t.Error("it could be sent to its end")
			} else if isTimeout(err) {
				t.Errorf("it was neither taken nor refused: %v", err)
			}
			honest(t, m, victim)
			h.Close()
			<-gone
		})
	}
	before.settles(t, m)
}
