package waypoint

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// TestCloseBesideTheFirstWrite: net/http closes an HTTP/2 connection whose client is gone while its first frames are being
// written by another goroutine.
func TestCloseBesideTheFirstWrite(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan *hbone.Stream)
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = hbone.ServeConn(t.Context(), c, hbone.Config{}, func(_ context.Context, in *hbone.Inbound) {
			s, err := in.Accept(hbone.Answer{})
			if err != nil {
				return
			}
			accepted <- s
			<-s.Done()
		})
	})
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := hbone.NewClientConn(raw, hbone.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.Close()
	for range 50 {
		client, err := tunnel.Connect(t.Context(), hbone.Request{Authority: "10.0.0.1:80"})
		if err != nil {
			t.Fatal(err)
		}
		s := <-accepted
		c := &clientConn{Conn: &peeked{Stream: s}, stream: s, done: make(chan struct{})}
		var both sync.WaitGroup
		both.Go(func() { _, _ = c.Write([]byte("settings")) }) // may fail: it may be closed by then
		both.Go(func() { _ = c.Close() })
		both.Wait()
		<-c.done
		_ = client.Close()
		_ = s.Close()
	}
}
