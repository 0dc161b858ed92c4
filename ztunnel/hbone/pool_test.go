package hbone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// farm serves what a pool dials, each connection by its own ServeConn.
type farm struct {
	server Config
	handle func(context.Context, *Inbound)
	gate   func(ctx context.Context, key string) error // before a dial succeeds

	wg     sync.WaitGroup
	mu     sync.Mutex
	drains []context.CancelFunc
	conns  []net.Conn
	dials  atomic.Int64
}

func (f *farm) dial(ctx context.Context, key string) (net.Conn, error) {
	f.dials.Add(1)
	if f.gate != nil {
		if err := f.gate(ctx, key); err != nil {
			return nil, err
		}
	}
	near, far := net.Pipe()
	drainCtx, drain := context.WithCancel(context.Background())
	f.mu.Lock()
	f.drains = append(f.drains, drain)
	f.conns = append(f.conns, far)
	f.mu.Unlock()
	f.wg.Go(func() { _ = ServeConn(drainCtx, far, f.server, f.handle) })
	return near, nil
}

func newFarm(t *testing.T, f *farm, cfg PoolConfig) *Pool[string] {
	t.Helper()
	if f.handle == nil {
		f.handle = echo
	}
	p := NewPool(cfg, f.dial)
	t.Cleanup(func() {
		p.Close()
		f.mu.Lock()
		for i := range f.conns {
			f.conns[i].Close()
			f.drains[i]()
		}
		f.mu.Unlock()
		f.wg.Wait()
	})
	return p
}

func poolConnect(t *testing.T, p *Pool[string], key string) (*Stream, Info) {
	t.Helper()
	s, info, err := p.Connect(testContext(t), key, Request{Authority: "10.0.0.7:80"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, info
}

func TestPoolReusesAnIdleConnection(t *testing.T) {
	f := new(farm)
	p := newFarm(t, f, PoolConfig{})
	for i := range 20 {
		s, info := poolConnect(t, p, "b")
		if info.Reused != (i > 0) {
			t.Fatalf("stream %d: %+v", i, info)
		}
		mustWriteRead(t, s)
		s.Close()
	}
	if n := f.dials.Load(); n != 1 {
		t.Errorf("%d dials for streams one after another", n)
	}
	if st := p.Stats(); st.Conns != 1 || st.Idle != 1 || st.Dials != 1 || st.Reused != 19 {
		t.Errorf("%+v", st)
	}
}

func TestPoolOpensMoreAndThenShares(t *testing.T) {
	f := new(farm)
	p := newFarm(t, f, PoolConfig{MaxConnsPerKey: 3, MaxStreamsPerConn: 2})
	perConn := map[net.Addr]int{}
	conns := map[*conn]int{}
	for range 6 {
		s, _ := poolConnect(t, p, "b")
		conns[s.c]++
		perConn[s.RemoteAddr()]++
	}
	if len(conns) != 3 || f.dials.Load() != 3 {
		t.Errorf("%d connections, %d dials; want 3", len(conns), f.dials.Load())
	}
	for _, n := range conns {
		if n != 2 {
			t.Errorf("a connection carries %d streams, want 2", n)
		}
	}
	if _, _, err := p.Connect(testContext(t), "b", Request{Authority: "a:1"}); !errors.Is(err, ErrTooManyStreams) {
		t.Errorf("seventh stream: %v", err)
	}
}

func TestPoolManyCallersAtOnce(t *testing.T) {
	f := new(farm)
	p := newFarm(t, f, PoolConfig{})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			s, _, err := p.Connect(testContext(t), "b", Request{Authority: "a:1"})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if _, err := s.Write([]byte("ping")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := f.dials.Load(); n > 4 {
		t.Errorf("%d dials, want at most 4", n)
	}
}

func TestSlowKeyHoldsUpNobodyElse(t *testing.T) {
	stuck := make(chan struct{})
	f := &farm{gate: func(ctx context.Context, key string) error {
		if key != "slow" {
			return nil
		}
		close(stuck)
		<-ctx.Done()
		return ctx.Err()
	}}
	p := newFarm(t, f, PoolConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, _, err := p.Connect(ctx, "slow", Request{Authority: "a:1"})
		failed <- err
	}()
	<-stuck
	s, _ := poolConnect(t, p, "quick")
	mustWriteRead(t, s)
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("slow: %v", err)
	}
}

func TestPoolDialFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("no route to host")
		fail := true
		f := &farm{handle: echo, gate: func(context.Context, string) error {
			if fail {
				return down
			}
			return nil
		}}
		p := NewPool(PoolConfig{FailureBackoff: time.Second}, f.dial)
		for range 3 {
			if _, _, err := p.Connect(t.Context(), "b", Request{Authority: "a:1"}); !errors.Is(err, down) {
				t.Fatalf("Connect: %v", err)
			}
		}
		if n := f.dials.Load(); n != 1 {
			t.Errorf("%d dials within the backoff", n)
		}
		fail = false
		time.Sleep(time.Second)
		s, _, err := p.Connect(t.Context(), "b", Request{Authority: "a:1"})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		p.Close()
		f.wg.Wait()
	})
}

func TestPoolReleasesIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &farm{handle: echo}
		p := NewPool(PoolConfig{IdleTimeout: time.Minute}, f.dial)
		s, _, err := p.Connect(t.Context(), "b", Request{Authority: "a:1"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if st := p.Stats(); st.Conns != 1 {
			t.Errorf("a connection in use was released: %+v", st)
		}
		s.Close()
		time.Sleep(30 * time.Second)
		if st := p.Stats(); st.Idle != 1 {
			t.Errorf("half the time later: %+v", st)
		}
		time.Sleep(time.Minute)
		if st := p.Stats(); st.Conns != 0 || st.Keys != 0 {
			t.Errorf("later: %+v", st)
		}
		f.wg.Wait() // the server saw an orderly end
		p.Close()
	})
}

// TestSilentStreamOutlivesEveryTimer: those of the pool, of both ends' connections, and of the dial and the Connect that
// it began with. Only pings pass meanwhile.
func TestSilentStreamOutlivesEveryTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &farm{handle: echo}
		p := NewPool(PoolConfig{}, f.dial)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		s, _, err := p.Connect(ctx, "b", Request{Authority: "a:1"})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			time.Sleep(24 * time.Hour)
			if _, err := io.WriteString(s, "hello"); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 5)
			if _, err := io.ReadFull(s, got); err != nil || string(got) != "hello" {
				t.Fatalf("%q came back, %v", got, err)
			}
		}
		s.Close()
		p.Close()
		f.wg.Wait()
	})
}

func TestPoolLeavesDrainingConnections(t *testing.T) {
	f := new(farm)
	p := newFarm(t, f, PoolConfig{MaxConnsPerKey: 1})
	old, _ := poolConnect(t, p, "b")
	f.mu.Lock()
	f.drains[0]()
	f.mu.Unlock()
	waitFor(t, "GOAWAY", func() bool {
		old.c.mu.Lock()
		defer old.c.mu.Unlock()
		return old.c.away.received.Load()
	})
	young, info := poolConnect(t, p, "b")
	if info.Reused || young.c == old.c {
		t.Errorf("the new stream is on a draining connection: %+v", info)
	}
	mustWriteRead(t, old)
	mustWriteRead(t, young)
}

func TestPoolRetriesWhatWasNotLookedAt(t *testing.T) {
	// Each server takes one stream and refuses the next: its limit is one handler, and the client is not told in time
	// because MaxStreams is learnt from SETTINGS, which the test raises again.
	f := &farm{server: Config{MaxStreams: 1}}
	p := newFarm(t, f, PoolConfig{MaxConnsPerKey: 1})
	first, _ := poolConnect(t, p, "b")
	first.c.mu.Lock()
	first.c.send.maxStreams = 100
	first.c.mu.Unlock()
	second, info := poolConnect(t, p, "b")
	if !info.Retried || second.c == first.c {
		t.Errorf("%+v", info)
	}
	mustWriteRead(t, first)
	mustWriteRead(t, second)
}

func TestPoolSurvivesAWarmConnectionThatDied(t *testing.T) {
	f := new(farm)
	p := newFarm(t, f, PoolConfig{})
	s, _ := poolConnect(t, p, "b")
	s.Close()
	f.mu.Lock()
	f.conns[0].Close()
	f.mu.Unlock()
	s, _ = poolConnect(t, p, "b")
	mustWriteRead(t, s)
}

func TestPoolCloseIf(t *testing.T) {
	f := new(farm)
	p := newFarm(t, f, PoolConfig{})
	gone, _ := poolConnect(t, p, "a")
	kept, _ := poolConnect(t, p, "b")
	p.CloseKey("a")
	wantDone(t, gone)
	mustWriteRead(t, kept)
	again, info := poolConnect(t, p, "a")
	if info.Reused {
		t.Error("a connection that was cut is reused")
	}
	mustWriteRead(t, again)
}

func TestPoolCloseIfDiscardsADial(t *testing.T) {
	dialling, proceed := make(chan struct{}, 2), make(chan struct{})
	f := &farm{gate: func(context.Context, string) error {
		dialling <- struct{}{}
		<-proceed
		return nil
	}}
	p := newFarm(t, f, PoolConfig{})
	got := make(chan error, 1)
	go func() {
		s, _, err := p.Connect(testContext(t), "a", Request{Authority: "a:1"})
		if err == nil {
			defer s.Close()
		}
		got <- err
	}()
	<-dialling
	p.CloseKey("a") // the dial was made with credentials that are no good any more
	<-dialling      // so the caller dials anew
	close(proceed)
	if err := <-got; err != nil {
		t.Error(err)
	}
	waitFor(t, "one connection", func() bool { return p.Stats().Conns == 1 })
}

func TestPoolMaxConns(t *testing.T) {
	f := new(farm)
	p := newFarm(t, f, PoolConfig{MaxConns: 2})
	a, _ := poolConnect(t, p, "a")
	poolConnect(t, p, "b")
	if _, _, err := p.Connect(testContext(t), "c", Request{Authority: "a:1"}); !errors.Is(err, ErrPoolFull) {
		t.Errorf("third connection: %v", err)
	}
	shared, _ := poolConnect(t, p, "b") // no third one, so it is shared
	mustWriteRead(t, shared)
	a.Close()
	c, _ := poolConnect(t, p, "c") // the idle one of a makes room
	mustWriteRead(t, c)
	if st := p.Stats(); st.Conns != 2 {
		t.Errorf("%+v", st)
	}
}

func TestPoolDrain(t *testing.T) {
	f := new(farm)
	p := newFarm(t, f, PoolConfig{})
	var streams []*Stream
	for i := range 3 {
		s, _ := poolConnect(t, p, fmt.Sprint(i))
		streams = append(streams, s)
	}
	done := make(chan error, 1)
	go func() { done <- p.Drain(testContext(t)) }()
	waitFor(t, "drain", func() bool {
		s, _, err := p.Connect(t.Context(), "0", Request{Authority: "a:1"})
		if err == nil {
			s.Close()
		}
		return errors.Is(err, ErrPoolClosed)
	})
	for _, s := range streams {
		mustWriteRead(t, s)
		s.Close()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
