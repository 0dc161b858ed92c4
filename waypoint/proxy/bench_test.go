package proxy

import (
	"io"
	"net"
	"testing"

	"github.com/warren-mesh/warren/route"
)

// BenchmarkGet is one request after the other through the proxy, over real sockets: client and backend are counted too.
func BenchmarkGet(b *testing.B) {
	for name, http2 := range map[string]bool{"HTTP1": false, "HTTP2": true} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, named("web"))
			r.route(route.Rule{Backends: to("shop/web")}).start()
			c := r.client(http2)
			b.ReportAllocs()
			for b.Loop() {
				res, err := c.Get("http://web.shop/")
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				r.record()
			}
		})
	}
}

// given is a connection on which bytes come for ever.
type given struct {
	net.Conn
	bytes string
	at    int
}

func (g *given) Read(p []byte) (int, error) {
	n := copy(p, g.bytes[g.at:])
	g.at = (g.at + n) % len(g.bytes)
	return n, nil
}

// BenchmarkScreen is what reading along costs for one request.
func BenchmarkScreen(b *testing.B) {
	const request = "GET /products/17?page=2 HTTP/1.1\r\nHost: web.shop\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n" +
		"Accept: application/json\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\r\n"
	s := &screen{Conn: &given{bytes: request}, refused: func(*head, error) { b.Error("refused") }}
	buf := make([]byte, len(request))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
