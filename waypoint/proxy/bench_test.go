package proxy

import (
	"io"
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
