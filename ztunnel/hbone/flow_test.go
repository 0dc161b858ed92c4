package hbone

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// noise returns n bytes that do not repeat, so that a lost or doubled frame shows.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestLargeTransferBothWays(t *testing.T) {
	data := noise(24 << 20)
	want := sha256.Sum256(data)
	for tname, dial := range transports() {
		for _, cfg := range []struct {
			name string
			Config
		}{{"64 KiB frames", Config{}}, {"16 KiB frames", Config{MaxFrame: 16 << 10}}, {"small window", Config{StreamWindow: 10_000, MaxStreamWindow: 10_000, ConnWindow: 70_000}}} {
			t.Run(tname+"/"+cfg.name, func(t *testing.T) {
				client, server, _ := peers(t, pairConfig{dial: dial, client: cfg.Config, server: cfg.Config})
				var wg sync.WaitGroup
				for _, s := range []*Stream{client, server} {
					wg.Go(func() {
						// Only a reader: otherwise bytes.Reader's WriteTo would be used.
						_, err := s.ReadFrom(struct{ io.Reader }{bytes.NewReader(data)})
						if err := errors.Join(err, s.CloseWrite()); err != nil {
							t.Error(err)
						}
					})
					wg.Go(func() {
						h := sha256.New()
						n, err := s.WriteTo(h)
						if err != nil || n != int64(len(data)) || [32]byte(h.Sum(nil)) != want {
							t.Errorf("received %d bytes, %v; checksum right: %v", n, err, [32]byte(h.Sum(nil)) == want)
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// relay is the real use: app sockets on both sides, so that ReadFrom and WriteTo meet TCP.
func TestRelayBetweenSockets(t *testing.T) {
	client, server, _ := peers(t, pairConfig{dial: tlsPair})
	appA, tunnelA := tcpPair(t)
	appB, tunnelB := tcpPair(t)
	for s, app := range map[*Stream]net.Conn{client: tunnelA, server: tunnelB} {
		go func() { s.ReadFrom(app); s.CloseWrite() }()
		go func() { s.WriteTo(app); app.(*net.TCPConn).CloseWrite() }()
	}
	data := noise(8 << 20)
	go func() { appA.Write(data); appA.(*net.TCPConn).CloseWrite() }()
	got, err := io.ReadAll(appB)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("B read %d bytes, %v", len(got), err)
	}
	go func() { appB.Write(data); appB.(*net.TCPConn).CloseWrite() }()
	if got, err = io.ReadAll(appA); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("A read %d bytes, %v", len(got), err)
	}
}

// fill writes until nothing goes any more and returns how much that was.
func fill(t *testing.T, s *Stream) int {
	t.Helper()
	b := make([]byte, 64<<20) // before the deadline is set: it takes a while on a busy machine
	s.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	n, err := s.Write(b)
	if err == nil {
		t.Fatal("64 MiB were taken without a reader")
	}
	s.SetWriteDeadline(time.Time{})
	return n
}

func TestSlowReaderHoldsBackOnlyItsOwnStream(t *testing.T) {
	slow, slowEnd, e := peers(t, pairConfig{server: Config{StreamWindow: 64 << 10}})
	if n := fill(t, slow); n != 64<<10 {
		t.Fatalf("%d bytes were taken, want the window's 65536", n)
	}
	// The connection has as much left as before for a stream that is read.
	quick := mustConnect(t, e.ClientConn)
	done := make(chan error, 1)
	go func() { _, err := quick.Write(make([]byte, 1)); done <- err }()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for range 64 {
		other := mustConnect(t, e.ClientConn)
		if n := fill1(t, other, 64<<10); n != 64<<10 {
			t.Fatalf("another stream could send %d bytes", n)
		}
		other.Close()
	}
	// And the slow one goes on when it is read.
	if _, err := io.ReadFull(slowEnd, make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, slow, "resumed")
	wantRead(t, slowEnd, "resumed")
}

func fill1(t *testing.T, s *Stream, n int) int {
	t.Helper()
	s.SetWriteDeadline(time.Now().Add(patience))
	n, err := s.Write(make([]byte, n))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStalledWriterEndsWithItsStream(t *testing.T) {
	for name, end := range map[string]func(client, server *Stream, e *endpoint){
		"reset here":      func(c, _ *Stream, _ *endpoint) { c.Reset(CodeConnect) },
		"reset there":     func(_, s *Stream, _ *endpoint) { s.Reset(CodeConnect) },
		"connection lost": func(_, _ *Stream, e *endpoint) { e.nc.Close() },
		"closed":          func(_, _ *Stream, e *endpoint) { e.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			client, server, e := peers(t, pairConfig{server: Config{StreamWindow: 1 << 10, MaxStreamWindow: 1 << 10}})
			done := make(chan error, 1)
			go func() { _, err := client.Write(make([]byte, 1<<20)); done <- err }()
			if _, err := io.ReadFull(server, make([]byte, 1<<10)); err != nil {
				t.Fatal(err)
			}
			end(client, server, e)
			select {
			case err := <-done:
				if err == nil {
					t.Error("the write succeeded")
				}
			case <-time.After(patience):
				t.Fatal("the write still waits")
			}
		})
	}
}

// Two endpoints whose sockets are full in both directions must not wait for each other.
func TestFullSocketsDoNotDeadlock(t *testing.T) {
	const streams, size = 20, 512 << 10
	small := func(t testing.TB) (net.Conn, net.Conn) {
		c, s := tcpPair(t)
		for _, nc := range []net.Conn{c, s} {
			nc.(*net.TCPConn).SetReadBuffer(64 << 10)
			nc.(*net.TCPConn).SetWriteBuffer(64 << 10)
		}
		return c, s
	}
	pipe := func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() }
	for name, dial := range map[string]func(testing.TB) (net.Conn, net.Conn){"small buffers": small, "no buffers": pipe} {
		t.Run(name, func(t *testing.T) {
			e := newPair(t, pairConfig{dial: dial, handle: both(t, size)})
			var wg sync.WaitGroup
			for range streams {
				s := mustConnect(t, e.ClientConn)
				wg.Go(func() { bulk(t, s, size) })
			}
			finished := make(chan struct{})
			go func() { wg.Wait(); close(finished) }()
			select {
			case <-finished:
			case <-time.After(patience):
				t.Fatal("deadlock")
			}
		})
	}
}

func both(t *testing.T, size int) func(context.Context, *Inbound) {
	return func(_ context.Context, in *Inbound) {
		if s, err := in.Accept(Answer{}); err == nil {
			bulk(t, s, size)
		}
	}
}

// bulk sends and receives size bytes at the same time.
func bulk(t *testing.T, s *Stream, size int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		_, err := s.Write(make([]byte, size))
		if err := errors.Join(err, s.CloseWrite()); err != nil {
			t.Error(err)
		}
	})
	if n, err := io.Copy(io.Discard, s); err != nil || n != int64(size) {
		t.Errorf("received %d, %v", n, err)
	}
}

func TestWindowGrowsForAReaderThatKeepsUp(t *testing.T) {
	client, server, e := peers(t, pairConfig{dial: delayed(5 * time.Millisecond)})
	go func() { client.Write(make([]byte, 96<<20)); client.CloseWrite() }()
	if _, err := io.Copy(io.Discard, server); err != nil {
		t.Fatal(err)
	}
	if got := server.c.bdp.target.Load(); got <= 256<<10 {
		t.Errorf("target is still %d after 96 MiB over a long link", got)
	}
	// A stream that is not read does not get more than it started with.
	idle := mustConnect(t, e.ClientConn)
	if n := fill(t, idle); n != 64<<10 {
		t.Errorf("an unread stream took %d bytes, want 65536", n)
	}
}

// delayed returns a pair whose bytes take d to arrive, in both directions.
func delayed(d time.Duration) func(testing.TB) (net.Conn, net.Conn) {
	return func(t testing.TB) (net.Conn, net.Conn) {
		c1, c2 := tcpPair(t)
		s1, s2 := tcpPair(t)
		go delay(c2, s1, d)
		go delay(s1, c2, d)
		return c1, s2
	}
}

func delay(dst, src net.Conn, d time.Duration) {
	type packet struct {
		at time.Time
		b  []byte
	}
	line := make(chan packet, 1<<12)
	go func() {
		defer close(line)
		for {
			b := make([]byte, 32<<10)
			n, err := src.Read(b)
			if err != nil {
				return
			}
			line <- packet{time.Now().Add(d), b[:n]}
		}
	}()
	for p := range line {
		time.Sleep(time.Until(p.at)) // the link's delay is what is simulated
		if _, err := dst.Write(p.b); err != nil {
			src.Close()
		}
	}
	dst.Close()
}

func TestBudgetBoundsUnreadBytes(t *testing.T) {
	budget := NewBudget(1 << 20)
	stats := new(Stats)
	e := newPair(t, pairConfig{server: Config{Budget: budget, Stats: stats, StreamWindow: 256 << 10}, handle: func(_ context.Context, in *Inbound) {
		if s, err := in.Accept(Answer{}); err == nil {
			<-s.Done()
		}
	}})
	var streams []*Stream
	for range 10 {
		streams = append(streams, mustConnect(t, e.ClientConn))
	}
	for _, s := range streams {
		s.SetWriteDeadline(time.Now().Add(patience))
		s.Write(make([]byte, 256<<10)) // some are reset, since 2.5 MiB do not fit
		if used := budget.Used(); used > budget.Limit() {
			t.Fatalf("%d bytes of %d are used", used, budget.Limit())
		}
	}
	waitFor(t, "a stream to be reset", func() bool { return stats.BudgetResets.Load() > 0 })
	if !e.Usable() {
		t.Error("the connection did not survive")
	}
	e.Close()
	waitFor(t, "the buffers to be released", func() bool { return budget.Used() == 0 })
}

// readSome takes the first n bytes of every stream, and then nothing more.
func readSome(n int64) func(context.Context, *Inbound) {
	return func(_ context.Context, in *Inbound) {
		if s, err := in.Accept(Answer{}); err == nil {
			_, _ = io.CopyN(io.Discard, s, n)
			<-s.Done()
		}
	}
}

// Streams whose readers kept up, so that their windows grew, and then stopped, leave room for others on their connection.
func TestReadersThatStopHoldBackNoOtherStream(t *testing.T) {
	const stalled, read = 40, 2 << 20
	budget, stats := NewBudget(8<<20), new(Stats)
	slow := readSome(read)
	e := newPair(t, pairConfig{dial: delayed(time.Millisecond), server: Config{Budget: budget, Stats: stats}, handle: func(ctx context.Context, in *Inbound) {
		if in.Request().Authority == slowAuthority {
			slow(ctx, in)
			return
		}
		if s, err := in.Accept(Answer{}); err == nil {
			_, _ = io.Copy(io.Discard, s)
			_ = s.CloseWrite()
		}
	}})
	for range stalled {
		s, err := e.Connect(testContext(t), Request{Authority: slowAuthority})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = s.Write(make([]byte, 64<<20)) }() // until it is closed
		t.Cleanup(func() { _ = s.Close() })
	}
	waitFor(t, "all to stall", func() bool { return budget.Used() >= stalled*64<<10 })
	quick := mustConnect(t, e.ClientConn)
	fill1(t, quick, 32<<20) // twice the connection's window
	if err := quick.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wantEOF(t, quick)
	if n := stats.BudgetResets.Load(); n > 0 || budget.Used() > budget.Limit() {
		t.Errorf("%d streams were reset; %d bytes of %d are used", n, budget.Used(), budget.Limit())
	}
}

const slowAuthority = "10.0.0.9:9"

// A connection that uses the budget up is not credited any more, and others that share it go on.
func TestAGreedyConnectionHoldsBackNoOther(t *testing.T) {
	budget, stats := NewBudget(4<<20), new(Stats)
	greedy := newPair(t, pairConfig{server: Config{Budget: budget, Stats: stats}, handle: readSome(0)})
	other := newPair(t, pairConfig{server: Config{Budget: budget}, handle: both(t, 32<<20)})
	for range 100 {
		s := mustConnect(t, greedy.ClientConn)
		s.SetWriteDeadline(time.Now().Add(patience))
		_, _ = s.Write(make([]byte, 64<<10)) // some are reset: 6.25 MiB do not fit
	}
	waitFor(t, "a stream to be reset", func() bool { return stats.BudgetResets.Load() > 0 })
	bulk(t, mustConnect(t, other.ClientConn), 32<<20)
	if used := budget.Used(); used > budget.Limit()+budget.Limit()/8 {
		t.Errorf("%d bytes of %d are used", used, budget.Limit())
	}
}

// waitFor looks until the condition holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for " + what)
		}
	}
}
