package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/internal/nettest"
)

// row is one way between a client's and a server's namespace.
type row struct {
	name           string
	client, server *nettest.NS
	addr           netip.Addr
}

// rows brings up the mesh once for a benchmark.
func rows(b *testing.B) []row {
	m := meshtest.New(b, []meshtest.Spec{
		{Name: "b/client", Node: "n1"}, {Name: "b/near", Node: "n1"}, {Name: "b/far", Node: "n2"},
		{Name: "b/out1", Node: "n1", Plain: true}, {Name: "b/out2", Node: "n1", Plain: true},
	})
	at := func(name, from, to string) row {
		return row{name, m.Pod(from).NS, m.Pod(to).NS, m.Pod(to).Addrs[0]}
	}
	return []row{at("bare", "b/out1", "b/out2"), at("local", "b/client", "b/near"), at("tunnel", "b/client", "b/far")}
}

func (r row) serve(b *testing.B, port int, handle func(net.Conn)) netip.AddrPort {
	r.server.Do(b, func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		b.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					handle(c)
				}()
			}
		}()
		return nil
	})
	return netip.AddrPortFrom(r.addr, uint16(port))
}

func (r row) dial(b *testing.B, to netip.AddrPort) net.Conn {
	var c net.Conn
	r.client.Do(b, func() (err error) {
		c, err = net.DialTimeout("tcp4", to.String(), 5*time.Second)
		return err
	})
	return c
}

// BenchmarkRoundTrip is one byte there and back on an open connection.
func BenchmarkRoundTrip(b *testing.B) {
	for _, r := range rows(b) {
		addr := r.serve(b, 7001, func(c net.Conn) { io.Copy(c, struct{ io.Reader }{c}) })
		b.Run(r.name, func(b *testing.B) {
			c := r.dial(b, addr)
			defer c.Close()
			buf := make([]byte, 1)
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkThroughput is one stream of 64 KiB writes.
func BenchmarkThroughput(b *testing.B) {
	for _, r := range rows(b) {
		addr := r.serve(b, 7002, func(c net.Conn) {
			n, _ := io.Copy(struct{ io.Writer }{io.Discard}, c)
			fmt.Fprint(c, n)
		})
		b.Run(r.name, func(b *testing.B) {
			c := r.dial(b, addr)
			defer c.Close()
			buf := make([]byte, 64<<10)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			c.(*net.TCPConn).CloseWrite()
			if _, err := io.ReadAll(c); err != nil { // all of it has arrived
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkConnect opens a connection, gets one byte and closes it.
func BenchmarkConnect(b *testing.B) {
	for _, r := range rows(b) {
		addr := r.serve(b, 7003, func(c net.Conn) { c.Write([]byte{1}) })
		b.Run(r.name, func(b *testing.B) {
			r.client.Do(b, func() error {
				for b.Loop() {
					c, err := net.Dial("tcp4", addr.String())
					if err != nil {
						return err
					}
					if _, err := io.ReadAll(c); err != nil {
						return err
					}
					c.Close()
				}
				return nil
			})
		})
	}
}
