package ztunnel

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// loop is both ends of a loopback connection.
func loop(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// streams returns both ends of a tunnel's stream, without TLS.
func streams(t testing.TB) (client, server tunnelled) {
	t.Helper()
	c, s := loop(t)
	accepted, over, served := make(chan *hbone.Stream, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(served)
		_ = hbone.ServeConn(context.Background(), s, hbone.Config{}, func(_ context.Context, in *hbone.Inbound) {
			if stream, err := in.Accept(hbone.Answer{}); err == nil {
				accepted <- stream
			}
			<-over
		})
	}()
	cc, err := hbone.NewClientConn(c, hbone.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(over); cc.Close(); s.Close(); <-served })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	stream, err := cc.Connect(ctx, hbone.Request{Authority: "10.0.0.7:8080"})
	if err != nil {
		t.Fatal(err)
	}
	return tunnelled{stream}, tunnelled{<-accepted}
}

// BenchmarkCopyLoop is what lies between two apps' sockets, fed as fast as it takes: one process's loop, or both by a
// tunnel.
func BenchmarkCopyLoop(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("way=local/bytes=%d", size), func(b *testing.B) {
			app, near := loop(b)
			far, server := loop(b)
			pump(b, app, server, size, [2]duplex{near, far})
		})
		b.Run(fmt.Sprintf("way=tunnel/bytes=%d", size), func(b *testing.B) {
			app, near := loop(b)
			far, server := loop(b)
			out, in := streams(b)
			pump(b, app, server, size, [2]duplex{near, out}, [2]duplex{in, far})
		})
	}
}

// pump sends from app to server over hops, each of which is copied from its first end to its second.
func pump(b *testing.B, app, server *net.TCPConn, size int, hops ...[2]duplex) {
	for _, h := range hops {
		up, _ := newFlows(h[0], h[1], func(int, bool) {})
		go func() {
			if _, err := up.copy(); err != nil {
				b.Errorf("writing: %v", err)
			}
			_ = h[1].CloseWrite()
		}()
	}
	done := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(struct{ io.Writer }{io.Discard}, server)
		done <- n
	}()
	buf, sent := make([]byte, size), 0
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		n, err := app.Write(buf)
		if sent += n; err != nil {
			b.Fatal(err)
		}
	}
	_ = app.CloseWrite()
	if got := <-done; got != int64(sent) {
		b.Errorf("%d bytes arrived of %d", got, sent)
	}
}
