package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

func TestRequestAndAnswers(t *testing.T) {
	want := Request{Authority: "[fd00::7]:8080", Forwarded: `for="10.0.0.3:4711"`, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", Baggage: "k8s.namespace.name=shop"}
	got := make(chan Request, 1)
	e := newPair(t, pairConfig{handle: func(_ context.Context, in *Inbound) {
		got <- in.Request()
		in.Refuse(401, "policy_denied")
	}})
	_, err := e.Connect(testContext(t), want)
	var status *StatusError
	if !errors.As(err, &status) || *status != (StatusError{Status: 401, Reason: "policy_denied"}) {
		t.Errorf("refused with %v", err)
	}
	if r := <-got; r != want {
		t.Errorf("server read %+v", r)
	}
	if n := e.Open(); n != 0 {
		t.Errorf("%d streams are open after a refusal", n)
	}
}

func TestHandlerThatAnswersNothing(t *testing.T) {
	for name, c := range map[string]struct {
		handle func(context.Context, *Inbound)
		ok     func(error) bool
	}{
		"returns": {func(context.Context, *Inbound) {}, func(err error) bool {
			s := new(StatusError)
			return errors.As(err, &s) && *s == StatusError{Status: 503, Reason: "no_answer"}
		}},
		"panics": {func(context.Context, *Inbound) { panic("broken") }, func(err error) bool {
			r := new(ResetError)
			return errors.As(err, &r) && r.Code == CodeInternal
		}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newPair(t, pairConfig{handle: c.handle})
			for range 3 { // and the connection lives on
				if _, err := e.Connect(testContext(t), Request{Authority: "a:1"}); !c.ok(err) {
					t.Fatalf("unexpected answer: %v", err)
				}
			}
		})
	}
}

func TestSecondAnswerIsRefused(t *testing.T) {
	errs := make(chan error, 2)
	e := newPair(t, pairConfig{handle: func(_ context.Context, in *Inbound) {
		in.Accept(Answer{})
		_, err := in.Accept(Answer{})
		errs <- err
		errs <- in.Refuse(503, "")
	}})
	mustConnect(t, e.ClientConn)
	for range 2 {
		if err := <-errs; !errors.Is(err, ErrAnswered) {
			t.Errorf("second answer: %v", err)
		}
	}
}

func TestBadRequestsAreNotSent(t *testing.T) {
	e := newPair(t, pairConfig{handle: echo})
	for _, r := range []Request{
		{}, {Authority: "a b:1"}, {Authority: "a\x00:1"}, {Authority: "user@a:1"}, {Authority: strings.Repeat("a", 300)},
		{Authority: "a:1", Forwarded: "x\r\ny"}, {Authority: "a:1", Baggage: strings.Repeat("b", MaxBaggage+1)},
	} {
		if _, err := e.Connect(testContext(t), r); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%.40q: %v", r, err)
		}
	}
	mustConnect(t, e.ClientConn)
}

func TestConnectEndsWithItsContext(t *testing.T) {
	ended := make(chan struct{})
	e := newPair(t, pairConfig{handle: func(ctx context.Context, _ *Inbound) {
		<-ctx.Done()
		close(ended)
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := e.Connect(ctx, Request{Authority: "a:1"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Connect: %v", err)
	}
	select {
	case <-ended: // the server's dial would be cancelled
	case <-time.After(patience):
		t.Fatal("the handler's context lives on")
	}
}

func TestThousandStreamsOneAfterAnother(t *testing.T) {
	e := newPair(t, pairConfig{dial: tlsPair, handle: echo})
	for range 1000 {
		s := mustConnect(t, e.ClientConn)
		mustWrite(t, s, "ping")
		wantRead(t, s, "ping")
		s.CloseWrite()
		wantEOF(t, s)
		s.Close()
	}
	if n := e.Open(); n != 0 {
		t.Errorf("%d streams are still open", n)
	}
	if used := e.c.cfg.Budget.Used(); used != 0 {
		t.Errorf("%d bytes are still buffered", used)
	}
}

func TestStreamsUpToTheServersLimit(t *testing.T) {
	e := newPair(t, pairConfig{server: Config{MaxStreams: 50}, handle: echo})
	mustConnect(t, e.ClientConn).Close() // the server's SETTINGS are here now
	var wg sync.WaitGroup
	for range 50 {
		s := mustConnect(t, e.ClientConn)
		wg.Go(func() {
			mustWrite(t, s, "ping")
			wantRead(t, s, "ping")
		})
	}
	wg.Wait()
	if _, err := e.Connect(testContext(t), Request{Authority: "a:1"}); !errors.Is(err, ErrTooManyStreams) {
		t.Errorf("51st stream: %v", err)
	}
	if e.Usable() {
		t.Error("a full connection calls itself usable")
	}
}

func TestDrainLetsStreamsFinish(t *testing.T) {
	client, server, e := peers(t, pairConfig{server: Config{DrainTimeout: patience}})
	e.drain()
	waitFor(t, "GOAWAY", func() bool { return !e.Usable() })
	if _, err := e.Connect(testContext(t), Request{Authority: "a:1"}); !errors.Is(err, ErrDraining) {
		t.Errorf("Connect while draining: %v", err)
	}
	mustWrite(t, client, "still")
	wantRead(t, server, "still")
	mustWrite(t, server, "here")
	wantRead(t, client, "here")
	client.CloseWrite()
	server.CloseWrite()
	wantEOF(t, client)
	select {
	case <-e.Done():
	case <-time.After(patience):
		t.Fatal("the client keeps a drained connection")
	}
	if err := e.Err(); err != nil {
		t.Errorf("orderly end: %v", err)
	}
}

func TestDrainHasADeadline(t *testing.T) {
	accepted := make(chan struct{})
	e := newPair(t, pairConfig{server: Config{DrainTimeout: 50 * time.Millisecond}, handle: func(_ context.Context, in *Inbound) {
		s, _ := in.Accept(Answer{})
		close(accepted)
		<-s.Done()
	}})
	s := mustConnect(t, e.ClientConn)
	<-accepted
	e.drain()
	if err := e.served(t); err != nil {
		t.Errorf("ServeConn: %v", err)
	}
	s.SetReadDeadline(time.Now().Add(patience))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrPeerGone) {
		t.Errorf("read after the server left: %v", err)
	}
}

func TestClientShutdownWaitsForStreams(t *testing.T) {
	e := newPair(t, pairConfig{handle: echo})
	s := mustConnect(t, e.ClientConn)
	done := make(chan error, 1)
	go func() { done <- e.Shutdown(testContext(t)) }()
	waitFor(t, "shutdown", func() bool { return !e.Usable() })
	mustWrite(t, s, "ping")
	wantRead(t, s, "ping")
	s.CloseWrite()
	wantEOF(t, s)
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := e.served(t); err != nil {
		t.Errorf("ServeConn: %v", err)
	}
}

func TestClientCloseCutsStreams(t *testing.T) {
	client, server, e := peers(t, pairConfig{})
	e.Close()
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("client reads %v", err)
	}
	server.SetReadDeadline(time.Now().Add(patience))
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, ErrPeerGone) {
		t.Errorf("server reads %v", err)
	}
}

// mute is a peer that takes everything, says hello and then nothing.
func mute(nc net.Conn) {
	fr := http2.NewFramer(nc, nil)
	go func() { _ = fr.WriteSettings() }()
	_, _ = io.Copy(io.Discard, nc)
}

func TestMutePeerIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go mute(far)
		cc, _ := NewClientConn(near, Config{})
		begin := time.Now()
		_, err := cc.Connect(t.Context(), Request{Authority: "a:1"})
		if took := time.Since(begin); !errors.Is(err, ErrPeerGone) || took < 15*time.Second || took > 18*time.Second {
			t.Errorf("%v after %v; want ErrPeerGone after 15 s and a bit", err, took)
		}
		<-cc.Done()
		far.Close()
	})
}

func TestLivelyPeerIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		over := make(chan error, 1)
		go func() { over <- ServeConn(t.Context(), far, Config{}, echo) }()
		cc, _ := NewClientConn(near, Config{})
		s, err := cc.Connect(t.Context(), Request{Authority: "a:1"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour) // virtual: the stream is silent, the PINGs are answered
		mustWriteRead(t, s)
		s.Close()
		cc.Close()
		if err := <-over; err != nil {
			t.Errorf("ServeConn: %v", err)
		}
	})
}

func mustWriteRead(t *testing.T, s *Stream) {
	t.Helper()
	mustWrite(t, s, "ping")
	got := make([]byte, 4)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "ping" {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestPeerThatDoesNotReadIsGone(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	fr := http2.NewFramer(far, nil)
	go func() { // says it lives, and reads nothing
		_ = fr.WriteSettings()
		for fr.WritePing(true, [8]byte{pingAlive}) == nil {
			time.Sleep(time.Millisecond)
		}
	}()
	stats := new(Stats)
	cc, _ := NewClientConn(near, Config{WriteTimeout: 100 * time.Millisecond, Stats: stats})
	defer cc.Close()
	if _, err := cc.Connect(testContext(t), Request{Authority: "a:1"}); !errors.Is(err, ErrPeerGone) {
		t.Errorf("Connect: %v", err)
	}
	if got := stats.PeersGone.Load(); got != 1 {
		t.Errorf("%d peers are counted as gone", got)
	}
}

func TestServerTimeouts(t *testing.T) {
	for _, c := range []struct {
		name  string
		play  func(t *testing.T, nc net.Conn)
		after time.Duration
		ok    func(error) bool
	}{
		{"no preface", func(*testing.T, net.Conn) {}, 5 * time.Second, isCalm},
		{"half a preface", func(_ *testing.T, nc net.Conn) { nc.Write([]byte("PRI * HT")) }, 5 * time.Second, isCalm},
		{"no request", func(_ *testing.T, nc net.Conn) {
			io.WriteString(nc, http2.ClientPreface)
			http2.NewFramer(nc, nil).WriteSettings()
		}, 5 * time.Second, isCalm},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				go func() { _, _ = io.Copy(io.Discard, near); near.Close() }()
				go c.play(t, near)
				begin := time.Now()
				err := ServeConn(t.Context(), far, Config{}, echo)
				if took := time.Since(begin); !c.ok(err) || took < c.after || took > c.after*5/4+2*time.Second {
					t.Errorf("%v after %v", err, took)
				}
			})
		})
	}
}

func isCalm(err error) bool {
	ce := new(ConnError)
	return errors.As(err, &ce) && ce.Code == http2.ErrCodeEnhanceYourCalm && ce.Local
}

func TestIdleConnectionIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		cc, _ := NewClientConn(near, Config{})
		go func() {
			s, err := cc.Connect(t.Context(), Request{Authority: "a:1"})
			if err == nil {
				s.Close()
			}
		}()
		begin := time.Now()
		err := ServeConn(t.Context(), far, Config{IdleTimeout: time.Minute}, echo)
		if took := time.Since(begin); err != nil || took < time.Minute || took > 65*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		<-cc.Done()
		if err := cc.Err(); err != nil {
			t.Errorf("client: %v", err)
		}
	})
}
