package hbone

import (
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// writeCounter counts the writes of a connection.
type writeCounter struct {
	net.Conn
	writes, largest atomic.Int64
}

func (w *writeCounter) Write(b []byte) (int, error) {
	w.writes.Add(1)
	w.largest.Store(max(w.largest.Load(), int64(len(b)))) // there is one writer at a time
	return w.Conn.Write(b)
}

// countedPair returns the writes of a client, and what opens a stream and gives both its ends.
func countedPair(t *testing.T, server Config) (*writeCounter, func() (client, server *Stream)) {
	t.Helper()
	counter := &writeCounter{}
	_, open := opener(t, pairConfig{server: server, dial: func(t testing.TB) (net.Conn, net.Conn) {
		c, s := tcpPair(t)
		counter.Conn = c
		return counter, s
	}})
	return counter, open
}

// TestBusyConnectionGathers: what several goroutines have ready leaves by one write, once that has paid.
func TestBusyConnectionGathers(t *testing.T) {
	const streams = 16
	counter, open := countedPair(t, Config{})
	var clients, servers [streams]*Stream
	for i := range streams {
		clients[i], servers[i] = open()
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that all are ready before one runs
	clients[0].c.writer.gathering.score.Store(maxScore)
	before := counter.writes.Load()
	gate := make(chan struct{})
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() {
			<-gate
			mustWrite(t, clients[i], "a message")
		})
	}
	runtime.Gosched() // they wait at the gate
	close(gate)
	all.Wait()
	for i := range streams {
		wantRead(t, servers[i], "a message")
	}
	if n := counter.writes.Load() - before; n > streams/4 {
		t.Errorf("%d messages took %d writes", streams, n)
	}
}

// TestLoneWriterDoesNotWait: a goroutine that has nobody to wait for stops letting others go first.
func TestLoneWriterDoesNotWait(t *testing.T) {
	_, open := countedPair(t, Config{})
	client, server := open()
	g := &client.c.writer.gathering
	g.score.Store(maxScore)
	for range 2 * maxScore {
		mustWrite(t, client, "alone")
		wantRead(t, server, "alone")
	}
	if n := g.score.Load(); n > 1 {
		t.Errorf("score is %d after writes that nobody joined, want 0", n)
	}
}

// TestBulkLeavesInWholeSegments: no write is larger than what the kernel sends as one segment, with the overhead of its
// records, with an MTU of 1500 (45 × 1448) or 9000 (7 × 8948).
func TestBulkLeavesInWholeSegments(t *testing.T) {
	const recordSize, recordOverhead = 16 << 10, 22
	for _, frame := range []uint32{16 << 10, 64 << 10} {
		counter, open := countedPair(t, Config{MaxFrame: frame, StreamWindow: 4 << 20, ConnWindow: 8 << 20})
		client, server := open()
		var total int64 = 1 << 20
		go func() {
			_, _ = client.Write(make([]byte, total))
			_ = client.CloseWrite()
		}()
		if n, err := io.Copy(io.Discard, server); n != total || err != nil {
			t.Fatalf("%d bytes came of %d, %v", n, total, err)
		}
		largest := counter.largest.Load()
		wire := largest + (largest+recordSize-1)/recordSize*recordOverhead
		if wire > 7*8948 || wire > 45*1448 {
			t.Errorf("frames of %d: one write is %d bytes, %d with its records", frame, largest, wire)
		}
		if largest < 59<<10 {
			t.Errorf("frames of %d: no write is above %d bytes", frame, largest)
		}
	}
}

// TestABurstsBuffersAreGivenBack: a connection that has been busy does not keep what it needed for that.
func TestABurstsBuffersAreGivenBack(t *testing.T) {
	_, open := countedPair(t, Config{})
	client, server := open()
	w := &client.c.writer
	w.wmu.Lock()
	for range 7 {
		mustWrite(t, client, strings.Repeat("x", maxLeft-headerSize))
	}
	client.c.releaseSocket()
	wantRead(t, server, strings.Repeat("x", 7*(maxLeft-headerSize)))
	for range 3 {
		mustWrite(t, client, "alone")
		wantRead(t, server, "alone")
	}
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.ctlMu.Lock()
	defer w.ctlMu.Unlock()
	if cap(w.ctl) > maxKept || cap(w.spare) > maxKept {
		t.Errorf("buffers of %d and %d bytes are kept, want at most %d", cap(w.ctl), cap(w.spare), maxKept)
	}
}
