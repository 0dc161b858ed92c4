package hbone

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// A step is done by one side, and what it must mean for the other one follows.
func TestEndsInEveryOrder(t *testing.T) {
	type ends struct {
		t    *testing.T
		a, b *Stream // a: who acts first
	}
	cases := []struct {
		name string
		play func(e ends)
	}{
		{"a ends, b answers and ends", func(e ends) {
			mustWrite(e.t, e.a, "ask")
			e.a.CloseWrite()
			wantRead(e.t, e.b, "ask")
			wantEOF(e.t, e.b)
			mustWrite(e.t, e.b, "answer")
			e.b.CloseWrite()
			wantRead(e.t, e.a, "answer")
			wantEOF(e.t, e.a)
			wantDone(e.t, e.a)
			wantDone(e.t, e.b)
		}},
		{"both end at once", func(e ends) {
			e.a.CloseWrite()
			e.b.CloseWrite()
			wantEOF(e.t, e.a)
			wantEOF(e.t, e.b)
			wantDone(e.t, e.a)
			wantDone(e.t, e.b)
		}},
		{"a ends, b goes on for long", func(e ends) {
			e.a.CloseWrite()
			wantEOF(e.t, e.b)
			for i := range 50 {
				mustWrite(e.t, e.b, fmt.Sprint("line ", i))
				wantRead(e.t, e.a, fmt.Sprint("line ", i))
			}
			e.b.CloseWrite()
			wantEOF(e.t, e.a)
		}},
		{"a resets", func(e ends) {
			e.a.Reset(CodeConnect)
			wantReset(e.t, e.b, CodeConnect)
			_, err := e.b.Write([]byte("x"))
			if reset := new(ResetError); !errors.As(err, &reset) || !reset.Remote {
				e.t.Fatalf("write after the peer's reset: %v", err)
			}
		}},
		{"a resets after data, which is read first", func(e ends) {
			mustWrite(e.t, e.a, "last words")
			e.a.Reset(CodeConnect)
			wantRead(e.t, e.b, "last words")
			wantReset(e.t, e.b, CodeConnect)
		}},
		{"a ends, then b resets", func(e ends) {
			e.a.CloseWrite()
			wantEOF(e.t, e.b)
			e.b.Reset(CodeConnect)
			wantReset(e.t, e.a, CodeConnect)
		}},
		{"a ends, then a resets: the end was complete", func(e ends) {
			mustWrite(e.t, e.a, "all")
			e.a.CloseWrite()
			wantRead(e.t, e.b, "all")
			wantEOF(e.t, e.b)
			e.a.Reset(CodeConnect)
			wantDone(e.t, e.b)
			if _, err := e.b.Write([]byte("x")); err == nil {
				e.t.Fatal("write after the peer's reset succeeded")
			}
			wantEOF(e.t, e.b)
		}},
		{"a closes without ending: b must not see an end", func(e ends) {
			mustWrite(e.t, e.a, "half")
			e.a.Close()
			wantRead(e.t, e.b, "half")
			wantReset(e.t, e.b, CodeCancel)
		}},
		{"both reset at once", func(e ends) {
			e.a.Reset(CodeConnect)
			e.b.Reset(CodeConnect)
			wantDone(e.t, e.a)
			wantDone(e.t, e.b)
		}},
	}
	for tname, dial := range transports() {
		for _, c := range cases {
			for _, first := range []string{"client", "server"} {
				t.Run(fmt.Sprintf("%s/%s is a/%s", tname, first, c.name), func(t *testing.T) {
					client, server, e := peers(t, pairConfig{dial: dial})
					if first == "client" {
						c.play(ends{t, client, server})
					} else {
						c.play(ends{t, server, client})
					}
					// Whatever happened to one stream, the connection serves the next one.
					if !e.Usable() {
						t.Fatal("the connection is not usable any more")
					}
				})
			}
		}
	}
}

func TestReadAndWriteAfterOwnClose(t *testing.T) {
	client, _, _ := peers(t, pairConfig{})
	client.Close()
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v, want net.ErrClosed", err)
	}
	if _, err := client.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v, want net.ErrClosed", err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Errorf("CloseWrite: %v", err)
	}
}

func TestWriteAfterCloseWrite(t *testing.T) {
	client, server, _ := peers(t, pairConfig{})
	client.CloseWrite()
	if _, err := client.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v, want net.ErrClosed", err)
	}
	wantEOF(t, server)
}

func TestDeadlinesLeaveTheStreamUsable(t *testing.T) {
	client, server, _ := peers(t, pairConfig{server: Config{StreamWindow: 1 << 10, MaxStreamWindow: 1 << 10}})
	// The server's window arrives with its SETTINGS, before its answer.
	client.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read: %v", err)
	}
	client.SetDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := client.Write(make([]byte, 2<<10))
	if n != 1<<10 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("write: %d, %v; want the window's 1024", n, err)
	}
	client.SetDeadline(time.Time{})
	if _, err := io.ReadFull(server, make([]byte, 1<<10)); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, client, "on")
	wantRead(t, server, "on")
	mustWrite(t, server, "on")
	wantRead(t, client, "on")
}

func TestCloseReadKeepsThePeerWriting(t *testing.T) {
	client, server, _ := peers(t, pairConfig{})
	client.CloseRead()
	done := make(chan error, 1)
	go func() {
		_, err := server.Write(make([]byte, 8<<20))
		done <- errors.Join(err, server.CloseWrite())
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the peer's writes stall")
	}
	mustWrite(t, client, "still there")
	wantRead(t, server, "still there")
	if got := client.c.cfg.Budget.Used(); got != 0 {
		t.Errorf("%d bytes are buffered for nobody", got)
	}
}

func TestLostConnectionIsNotAnEnd(t *testing.T) {
	for tname, dial := range transports() {
		t.Run(tname, func(t *testing.T) {
			client, server, e := peers(t, pairConfig{dial: dial})
			mustWrite(t, client, "half")
			wantRead(t, server, "half")
			raw := e.nc
			if tc, ok := raw.(interface{ NetConn() net.Conn }); ok {
				raw = tc.NetConn()
			}
			raw.Close()
			for name, s := range map[string]*Stream{"client": client, "server": server} {
				s.SetReadDeadline(time.Now().Add(patience))
				if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrPeerGone) {
					t.Errorf("%s reads %v, want ErrPeerGone", name, err)
				}
				if _, err := s.Write([]byte("x")); !errors.Is(err, ErrPeerGone) {
					t.Errorf("%s writes %v, want ErrPeerGone", name, err)
				}
			}
			<-e.Done()
			if e.Usable() || !errors.Is(e.Err(), ErrPeerGone) {
				t.Errorf("usable %v, error %v", e.Usable(), e.Err())
			}
		})
	}
}

func TestWriteAndReadOfOneKiBDoNotAllocate(t *testing.T) {
	client, server, _ := peers(t, pairConfig{})
	out, in := make([]byte, 1<<10), make([]byte, 1<<10)
	got := testing.AllocsPerRun(2000, func() {
		if _, err := client.Write(out); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, in); err != nil {
			t.Fatal(err)
		}
	})
	if got > 2 {
		t.Errorf("%v allocations for a write and a read, want at most 2", got)
	}
}
