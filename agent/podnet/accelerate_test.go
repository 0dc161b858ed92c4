package podnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/bpf"
)

// raceway is a town whose pods want to be accelerated, and whose c has an app that hands over what it accepts.
type raceway struct {
	*town
	accepted chan *net.TCPConn

	mu    sync.Mutex
	ended map[bpf.Ends]bpf.DirectEnd

	stop func() // ends the following
}

const (
	racePort      = 8090
	raceMPTCPPort = 8091 // the same app, on a listener that speaks MPTCP, as Go's do
)

func newRaceway(t *testing.T) *raceway {
	t.Helper()
	n := &raceway{town: newTown(t), accepted: make(chan *net.TCPConn, 16), ended: map[bpf.Ends]bpf.DirectEnd{}}
	switch err := n.capture.Accelerates(); {
	case errors.Is(err, bpf.ErrTooOld):
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	n.follow(t)
	for port, mptcp := range map[int]bool{racePort: false, raceMPTCPPort: true} {
		n.serve(t, port, mptcp, func(c *net.TCPConn) { n.accepted <- c })
	}
	for _, p := range []*Pod{n.pod, n.podC} {
		if err := p.Refresh(context.Background(), Choices{Accelerate: true}); err != nil {
			t.Fatal(err)
		}
	}
	n.permitRace(t)
	return n
}

// follow keeps how connections ended, until stop.
func (n *raceway) follow(t *testing.T) {
	t.Helper()
	events, err := n.capture.DirectEvents()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = events.Run(ctx, bpf.Followed{Opens: func(bpf.Direct) {}, Ended: func(d bpf.Direct, e bpf.DirectEnd) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.ended[d.Ends] = e
		}})
	}()
	n.stop = func() { cancel(); <-done }
	t.Cleanup(n.stop)
}

func (n *raceway) permitRace(t *testing.T) {
	t.Helper()
	for _, a := range n.c.Addrs {
		for _, port := range []uint16{racePort, raceMPTCPPort} {
			at := netip.AddrPortFrom(a, port)
			if err := n.pod.Permit(at, bpf.Neighbour{Addr: at, Netns: n.podC.Cookie()}, n.capture.Generation()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// pair is one connection, and what the kernel knows it by.
func (n *raceway) pair(t *testing.T, f family, port uint16) (client, server *net.TCPConn, ends bpf.Ends) {
	t.Helper()
	s, _, err := f.connect(t, n.a, n.c, port)
	if err != nil {
		t.Fatal(err)
	}
	ends = bpf.Ends{Client: s.own(), Server: netip.AddrPortFrom(n.c.Addrs[f.index], port)}
	file := os.NewFile(uintptr(s.fd), "client")
	s.fd = -1 // now the file's
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	client, server = c.(*net.TCPConn), <-n.accepted
	for _, c := range []*net.TCPConn{client, server} {
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(time.Minute))
	}
	return client, server, ends
}

// TestAcceleratedBytesArriveWholeAndInOrder, whoever is the slower, and both ways at once; each end sees the other's end when
// all is read, and the record has every byte.
func TestAcceleratedBytesArriveWholeAndInOrder(t *testing.T) {
	const size = 48 << 20
	n := newRaceway(t)
	for i, f := range append(families, families...) {
		port := [...]uint16{racePort, raceMPTCPPort}[i/len(families)]
		t.Run(fmt.Sprintf("%s/%d", f.name, port), func(t *testing.T) {
			client, server, ends := n.pair(t, f, port)
			var task sync.WaitGroup
			send := func(name string, w io.Writer, seed byte, end func() error) {
				task.Go(func() {
					if err := sendNoise(w, seed, size, end); err != nil {
						t.Errorf("%s sends: %v", name, err)
					}
				})
			}
			check := func(name string, r io.Reader, seed byte) {
				task.Go(func() {
					if err := checkNoise(r, seed, size); err != nil {
						t.Errorf("%s reads: %v", name, err)
					}
				})
			}
			looked := make(chan struct{})
			atEnd := func(c *net.TCPConn) func() error {
				return func() error { <-looked; return c.CloseWrite() }
			}
			send("client", client, 1, atEnd(client))
			send("server", server, 2, atEnd(server))
			check("server", server, 1)
			check("client", client, 2)
			deadline := time.Now().Add(30 * time.Second)
			for {
				sent, received, err := n.pod.Traffic(ends.Client, ends.Server)
				if err != nil {
					t.Fatal(err)
				}
				if sent == size && received == size {
					break
				}
				if time.Now().After(deadline) {
					t.Errorf("%d and %d bytes of %d have come", sent, received, size)
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			up, down := n.capture.Handed(ends)
			close(looked)
			task.Wait()
			t.Logf("went past TCP: %d and %d MiB of %d", up>>20, down>>20, size>>20)
			if up == 0 || down == 0 {
				t.Errorf("%d and %d bytes went past TCP", up, down)
			}
			client.Close()
			server.Close()
			var e bpf.DirectEnd
			eventually(t, "its end is told", func() (ok bool) { n.mu.Lock(); defer n.mu.Unlock(); e, ok = n.ended[ends]; return ok })
			if e.In != size || e.Out != size || e.Err != 0 || e.Aborted {
				t.Errorf("ended as %+v, want %d bytes each way", e, size)
			}
			if up, down := n.capture.Handed(ends); up+down > 0 {
				t.Error("it is remembered")
			}
		})
	}
}

// sendNoise sends so many bytes of a sequence in pieces of many sizes, with pauses.
func sendNoise(w io.Writer, seed byte, size int, end func() error) error {
	noise, dice := rand.NewChaCha8([32]byte{seed}), rand.New(rand.NewPCG(uint64(seed), 7))
	b := make([]byte, 128<<10)
	for size > 0 {
		n := min(size, 1+dice.IntN(1<<dice.IntN(18)))
		_, _ = noise.Read(b[:n])
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		size -= n
		if dice.IntN(400) == 0 {
			time.Sleep(time.Duration(dice.IntN(4)) * time.Millisecond)
		}
	}
	return end()
}

// checkNoise reads what sendNoise sent, and its end, in pieces of many sizes, with pauses.
func checkNoise(r io.Reader, seed byte, size int) error {
	noise, dice := rand.NewChaCha8([32]byte{seed}), rand.New(rand.NewPCG(uint64(seed), 9))
	b, want := make([]byte, 128<<10), make([]byte, 128<<10)
	for done := 0; ; {
		n, err := r.Read(b[:1+dice.IntN(1<<dice.IntN(18))])
		_, _ = noise.Read(want[:n])
		if !bytes.Equal(b[:n], want[:n]) {
			return fmt.Errorf("other bytes than were sent, within %d from %d", n, done)
		}
		done += n
		if errors.Is(err, io.EOF) && done == size {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", done, size, err)
		}
		if dice.IntN(400) == 0 {
			time.Sleep(time.Duration(dice.IntN(4)) * time.Millisecond)
		}
	}
}

// TestASlowReaderHoldsItsSenderBack: what may wait for a reader is bounded as it is with TCP, and arrives when it reads.
func TestASlowReaderHoldsItsSenderBack(t *testing.T) {
	const most = 24 << 20 // buffers of both sockets grow up to 6 and 4 MiB by default
	n := newRaceway(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			client, server, ends := n.pair(t, f, racePort)
			sum, sent, block := sha256.New(), 0, make([]byte, 8<<10)
			for sent < 4*most {
				_, _ = rand.NewChaCha8([32]byte{byte(sent >> 10)}).Read(block)
				_ = client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
				k, err := client.Write(block)
				sum.Write(block[:k])
				sent += k
				if errors.Is(err, os.ErrDeadlineExceeded) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			up, _ := n.capture.Handed(ends)
			t.Logf("%d KiB were taken, %d KiB of it past TCP", sent>>10, up>>10)
			if sent > most || up == 0 {
				t.Errorf("%d MiB were taken that nobody reads, %d past TCP; want at most %d", sent>>20, up, most>>20)
			}
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got := sha256.New()
			if k, err := io.Copy(got, server); int(k) != sent || err != nil || !bytes.Equal(got.Sum(nil), sum.Sum(nil)) {
				t.Errorf("%d of %d bytes were read, %v, or others", k, sent, err)
			}
		})
	}
}

// TestBothPodsMustWantIt, when a connection is made; what is accelerated stays so.
func TestBothPodsMustWantIt(t *testing.T) {
	n := newRaceway(t)
	handed := func() bool {
		client, server, ends := n.pair(t, families[0], racePort)
		n.ping(t, client, server)
		up, down := n.capture.Handed(ends)
		if (up == 0) != (down == 0) {
			t.Errorf("%d and %d bytes went past TCP", up, down)
		}
		return up > 0
	}
	choose := func(client, server bool) {
		for p, on := range map[*Pod]bool{n.pod: client, n.podC: server} {
			if err := p.Refresh(context.Background(), Choices{Accelerate: on}); err != nil {
				t.Fatal(err)
			}
		}
	}
	pin := filepath.Join(n.pins, "v3", "accelerate")
	client, server, ends := n.pair(t, families[0], racePort)
	for _, row := range []struct{ client, server bool }{{true, true}, {true, false}, {false, true}, {false, false}, {true, true}} {
		choose(row.client, row.server)
		if got := handed(); got != (row.client && row.server) {
			t.Errorf("client %t, server %t: handed over %t", row.client, row.server, got)
		}
		if _, err := os.Stat(pin); (err == nil) != (row.client || row.server) {
			t.Errorf("client %t, server %t: the program that looks at each connection of the node: %v", row.client, row.server, err)
		}
		before, _ := n.capture.Handed(ends)
		n.ping(t, client, server)
		if after, _ := n.capture.Handed(ends); after <= before {
			t.Errorf("client %t, server %t: a connection that was accelerated is not any more", row.client, row.server)
		}
	}
}

// ping has a line go there and back.
func (n *raceway) ping(t *testing.T, client, server net.Conn) {
	t.Helper()
	b := make([]byte, 64)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		if _, err := way[0].Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if k, err := way[1].Read(b); string(b[:k]) != "ping" || err != nil {
			t.Fatalf("came %q, %v", b[:k], err)
		}
	}
}

// TestAnAcceleratedConnectionEndsAsOverTCP: aborted by the agent or by an app, and closed by one that has not read all.
func TestAnAcceleratedConnectionEndsAsOverTCP(t *testing.T) {
	n := newRaceway(t)
	gone := func(t *testing.T, c net.Conn, want ...error) {
		t.Helper()
		_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
		if !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
			t.Errorf("an end met %v, want one of %v", err, want)
		}
	}
	for _, f := range families {
		t.Run(f.name+"/by the agent", func(t *testing.T) {
			client, server, ends := n.pair(t, f, racePort)
			n.ping(t, client, server)
			if err := n.pod.Abort(ends.Client, ends.Server); err != nil {
				t.Fatal(err)
			}
			gone(t, server, unix.ECONNRESET)
			gone(t, client, unix.ECONNABORTED, unix.ECONNRESET)
		})
		t.Run(f.name+"/by its client", func(t *testing.T) {
			client, server, _ := n.pair(t, f, racePort)
			n.ping(t, client, server)
			_ = client.SetLinger(0)
			client.Close()
			gone(t, server, unix.ECONNRESET)
		})
		t.Run(f.name+"/by its server, in the middle", func(t *testing.T) {
			client, server, _ := n.pair(t, f, racePort)
			n.ping(t, client, server)
			server.Close()
			deadline := time.Now().Add(5 * time.Second)
			for {
				if _, err := client.Write([]byte("more")); err != nil {
					if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
						t.Errorf("who writes to one that is gone is told %v", err)
					}
					return
				}
				if time.Now().After(deadline) {
					t.Fatal("who writes to one that is gone is not told")
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
}

// TestAnAcceleratedConnectionOutlastsItsAgent, with what is under way in it; so do others of the next agent.
func TestAnAcceleratedConnectionOutlastsItsAgent(t *testing.T) {
	n := newRaceway(t)
	client, server, ends := n.pair(t, families[0], racePort)
	n.ping(t, client, server)
	if _, err := client.Write([]byte("under way")); err != nil {
		t.Fatal(err)
	}
	n.closePod()
	n.podC.Close()
	n.stop()
	n.capture.Close()
	n.capture = n.openCapture(t)
	open := func(path string) *Pod {
		p, err := Open(context.Background(), n.thread, n.capture, Spec{Netns: path, Choices: Choices{Accelerate: true}})
		if err == nil {
			err = p.Enroll()
		}
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	n.pod, n.podC = open(n.a.Path), open(n.c.Path)
	n.follow(t)
	n.permitRace(t)
	b := make([]byte, 64)
	if k, err := server.Read(b); string(b[:k]) != "under way" || err != nil {
		t.Fatalf("came %q, %v", b[:k], err)
	}
	for range 2 {
		before, _ := n.capture.Handed(ends)
		n.ping(t, client, server)
		if after, _ := n.capture.Handed(ends); after <= before {
			t.Errorf("%d bytes went past TCP, and then %d", before, after)
		}
		client, server, ends = n.pair(t, families[0], racePort) // by the next agent
	}
}

// TestNothingThatWasHandedOverIsLostWhenTheMeshGoes: the maps wait for the reader, and the connection goes on.
func TestNothingThatWasHandedOverIsLostWhenTheMeshGoes(t *testing.T) {
	n := newRaceway(t)
	client, server, _ := n.pair(t, families[0], racePort)
	n.ping(t, client, server)
	if _, err := client.Write([]byte("under way")); err != nil {
		t.Fatal(err)
	}
	n.closePod()
	n.podC.Close()
	if err := errors.Join(n.pod.Withdraw(), n.podC.Withdraw()); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.capture.Close()
	if err := bpf.Remove(n.pins); !errors.Is(err, bpf.ErrUnread) {
		t.Errorf("what is not read may be taken away: %v", err)
	}
	removed := make(chan error, 1)
	go func() { removed <- bpf.Remove(n.pins) }()
	time.Sleep(100 * time.Millisecond)
	if _, err := client.Write([]byte(", and more")); err != nil {
		t.Fatal(err)
	}
	want, b := "under way, and more", make([]byte, 64)
	if k, err := io.ReadFull(server, b[:len(want)]); string(b[:k]) != want || err != nil {
		t.Errorf("came %q, %v", b[:k], err)
	}
	if err := <-removed; err != nil {
		t.Error(err)
	}
	n.ping(t, client, server)
}
