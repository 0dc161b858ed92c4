package podnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/bpf"
	"github.com/warren-mesh/warren/internal/nettest"
)

// BenchmarkHooks makes real connections and reports what the kernel's own statistics say of each program: nanoseconds a
// run, runs a connection, and what all of them take of one. A connection is a connect, a line and its answer, both ends'
// getpeername and getsockname, and the end. Of one that is carried, those between the apps and ztunnel's stand-in count.
// The programs see every socket of the machine: whatever else connects meanwhile counts too.
func BenchmarkHooks(b *testing.B) {
	for _, kind := range []struct {
		name, counter string // the counter grows with each connection; "" if no counter of the mesh may
		town          func(b *testing.B) *town
	}{
		{"captured", "out_captured", func(b *testing.B) *town { return newTown(b) }},
		{"direct", "out_direct", directTown},
		{"not-enrolled", "", strangers},
	} {
		b.Run("pods="+kind.name, func(b *testing.B) {
			n := kind.town(b)
			for _, f := range families {
				b.Run("family="+f.name, func(b *testing.B) { n.measure(b, f, kind.counter) })
			}
		})
	}
}

// directTown is a town whose kernel was permitted to connect its pods, and whose agent follows what it does.
func directTown(b *testing.B) *town {
	n := newTown(b)
	events, err := n.capture.DirectEvents()
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- events.Run(ctx, bpf.Followed{Opens: func(bpf.Direct) {}, Ended: func(bpf.Direct, bpf.DirectEnd) {}})
	}()
	b.Cleanup(func() { cancel(); <-done })
	n.permit(b, n.capture.Generation())
	return n
}

// strangers is a town in which two other namespaces connect, which are nobody's pods.
func strangers(b *testing.B) *town {
	n := newTown(b)
	n.a, n.c = nettest.New(b), nettest.New(b)
	nettest.Join(b, n.a, n.c)
	n.serveTruth(b, tcpPort, false)
	return n
}

func (n *town) measure(b *testing.B, f family, counter string) {
	counting, err := bpf.CountRuns()
	if err != nil {
		b.Fatal(err)
	}
	defer counting.Close()
	before, runs := n.count(b), n.runs(b)
	connections := 0
	n.a.Do(b, func() error {
		for b.Loop() {
			connections++
			if err := askOnce(f.domain, f.to(n.c, tcpPort)); err != nil {
				return err
			}
		}
		return nil
	})
	after := n.runs(b)
	n.checkCounted(b, before, counter, uint64(connections))
	var all float64
	for name, r := range after {
		count, took := float64(r.Count-runs[name].Count), float64(r.Time-runs[name].Time)
		if count == 0 {
			continue
		}
		all += took
		b.ReportMetric(took/count, name+"-ns/run")
		b.ReportMetric(count/float64(connections), name+"-runs/conn")
	}
	b.ReportMetric(all/float64(connections), "hooks-ns/conn")
}

func (n *town) runs(b *testing.B) map[string]bpf.Run {
	b.Helper()
	runs, err := n.capture.Runs()
	if err != nil {
		b.Fatal(err)
	}
	return runs
}

// checkCounted makes sure that the connections went the way that the row says.
func (n *town) checkCounted(b *testing.B, before map[string]uint64, counter string, connections uint64) {
	b.Helper()
	after := n.count(b)
	for _, name := range []string{"out_captured", "out_direct"} {
		want := uint64(0)
		if name == counter {
			want = connections
		}
		if got := after[name] - before[name]; got != want {
			b.Fatalf("%s grew by %d with %d connections, want %d", name, got, connections, want)
		}
	}
}

// askOnce is one connection of an app, from beginning to end.
func askOnce(domain int, to unix.Sockaddr) error {
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, to); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	peer, own := ofSockaddr(unix.Getpeername(fd)), ofSockaddr(unix.Getsockname(fd))
	if peer == (netip.AddrPort{}) || own == (netip.AddrPort{}) {
		return errors.New("a connected socket has no names")
	}
	if _, err := unix.Write(fd, []byte("hello\n")); err != nil {
		return err
	}
	got := 0
	for buf := make([]byte, 256); ; {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return err
		}
		if n == 0 && got == 0 {
			return io.ErrUnexpectedEOF
		}
		if n == 0 {
			return nil
		}
		got += n
	}
}
