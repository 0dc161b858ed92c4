package hbone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// forwarding is a stream whose server's side is forwarded to a TCP connection.
type forwarding struct {
	client *Stream
	app    net.Conn // the other end of that TCP connection
	taken  atomic.Int64
	ended  chan [2]error // what Forward returned
	server *Stream
}

func forwarded(t *testing.T) *forwarding {
	t.Helper()
	client, server, _ := peers(t, pairConfig{})
	app, proxy := tcpPair(t)
	f := &forwarding{client: client, server: server, app: app, ended: make(chan [2]error, 1)}
	go func() {
		readErr, writeErr := server.Forward(proxy, func(n int) { f.taken.Add(int64(n)) })
		proxy.Close()
		f.ended <- [2]error{readErr, writeErr}
	}()
	return f
}

func TestSmallMessagesAreWrittenByTheReader(t *testing.T) {
	f := forwarded(t)
	before := f.server.c.cfg.Budget.Used()
	for i := range 500 {
		word := fmt.Sprintf("message %d", i)
		waitFor(t, "Forward waits", func() bool {
			f.server.recv.mu.Lock()
			defer f.server.recv.mu.Unlock()
			return f.server.recv.waiting
		})
		mustWrite(t, f.client, word)
		got := make([]byte, len(word))
		if _, err := io.ReadFull(f.app, got); err != nil || string(got) != word {
			t.Fatalf("the app reads %q, %v, want %q", got, err, word)
		}
	}
	if chunk := f.server.c.cfg.Budget.chunks.Get(); chunk != nil || f.server.c.cfg.Budget.Used() != before {
		t.Error("some message was buffered although the app had room and nothing was waiting")
	}
	f.client.CloseWrite()
	if n, err := f.app.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("behind the end the app reads %d bytes, %v", n, err)
	}
	if errs := <-f.ended; errs[0] != nil || errs[1] != nil {
		t.Errorf("Forward returned %v", errs)
	}
}

// TestWhatTheSocketHasNoRoomForComesInOrder: the app reads nothing until far more was sent than its socket holds.
func TestWhatTheSocketHasNoRoomForComesInOrder(t *testing.T) {
	f := forwarded(t)
	all := noise(12 << 20)
	go func() {
		for i, rest := 0, all; len(rest) > 0; i++ {
			n := min(len(rest), 1+(i*977)%12000) // below and above what the reader writes itself
			if _, err := f.client.Write(rest[:n]); err != nil {
				t.Error(err)
				return
			}
			rest = rest[n:]
		}
		f.client.CloseWrite()
	}()
	waitFor(t, "the socket is full", func() bool { return f.server.c.cfg.Budget.Used() > 0 })
	got, err := io.ReadAll(f.app)
	if err != nil || !bytes.Equal(got, all) {
		t.Fatalf("%d bytes came, %v, not the %d that were sent", len(got), err, len(all))
	}
	<-f.ended
	if n := f.taken.Load(); n != int64(len(all)) {
		t.Errorf("%d bytes were counted of %d", n, len(all))
	}
}

// TestForwardTellsWhyTheSocketFailed: the one write that learns of a RST is the reader's.
func TestForwardTellsWhyTheSocketFailed(t *testing.T) {
	f := forwarded(t)
	mustWrite(t, f.client, "first")
	if _, err := io.ReadFull(f.app, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	f.app.(*net.TCPConn).SetLinger(0)
	f.app.Close()
	for i := 0; ; i++ {
		if _, err := f.client.Write([]byte("x")); err != nil {
			break
		}
		select {
		case errs := <-f.ended:
			var op *net.OpError
			if errs[0] != nil || !errors.As(errs[1], &op) || !(errors.Is(errs[1], syscall.ECONNRESET) || errors.Is(errs[1], syscall.EPIPE)) {
				t.Errorf("Forward returned %v", errs)
			}
			return
		default:
		}
	}
	t.Error("the stream ended before Forward did")
}

// TestForwardEndsWithItsStream: whatever the reader is doing.
func TestForwardEndsWithItsStream(t *testing.T) {
	for name, end := range map[string]func(*forwarding){
		"reset by the peer": func(f *forwarding) { f.client.Reset(CodeConnect) },
		"reset here":        func(f *forwarding) { f.server.Reset(CodeConnect) },
		"closed here":       func(f *forwarding) { f.server.Close() },
		"connection lost":   func(f *forwarding) { f.client.c.nc.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			f := forwarded(t)
			var task sync.WaitGroup
			task.Go(func() {
				for {
					if _, err := f.client.Write([]byte("again and again")); err != nil {
						return
					}
				}
			})
			go func() { _, _ = io.Copy(io.Discard, f.app) }()
			waitFor(t, "some bytes", func() bool { return f.taken.Load() > 1000 })
			end(f)
			if errs := <-f.ended; errs[0] == nil && errs[1] == nil {
				t.Error("Forward returned as after an orderly end")
			}
			f.client.Close()
			task.Wait()
		})
	}
}

// TestManyStreamsShareWrites: streams that find the socket's write side taken leave their DATA to whoever has it. Each
// stream's bytes, its end and its reset keep their order.
func TestManyStreamsShareWrites(t *testing.T) {
	const streams, messages = 64, 200
	e := newPair(t, pairConfig{dial: tlsPair, handle: func(_ context.Context, in *Inbound) {
		s, err := in.Accept(Answer{})
		if err != nil {
			return
		}
		defer s.Close()
		if _, err := io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{s}); err == nil {
			s.CloseWrite()
		}
	}})
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() {
			s, err := e.Connect(testContext(t), Request{Authority: "10.0.0.1:80"})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			var sent bytes.Buffer
			go func() {
				for m := range messages {
					word := fmt.Appendf(nil, "stream %d message %d;", i, m)
					if _, err := s.Write(word); err != nil {
						t.Error(err)
					}
				}
				s.CloseWrite()
			}()
			for m := range messages {
				fmt.Fprintf(&sent, "stream %d message %d;", i, m)
			}
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, sent.Bytes()) {
				t.Errorf("stream %d came back with %d of %d bytes, %v", i, len(got), sent.Len(), err)
			}
		})
	}
	all.Wait()
}

// TestWhatWasLeftIsWritten: by whoever held the socket, without another write to take it along.
func TestWhatWasLeftIsWritten(t *testing.T) {
	client, server, _ := peers(t, pairConfig{})
	w := &client.c.writer
	for range 200 {
		w.wmu.Lock()
		left := make(chan struct{})
		go func() {
			mustWrite(t, client, "left")
			close(left)
		}()
		<-left // it did not wait for wmu
		client.c.releaseSocket()
		wantRead(t, server, "left")
	}
	w.wmu.Lock()
	done := make(chan error, 1)
	go func() {
		_, err := client.Write(make([]byte, maxLeft+1))
		done <- err
	}()
	select {
	case <-done:
		t.Error("a long write did not wait for the socket")
	default:
	}
	client.c.releaseSocket()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
