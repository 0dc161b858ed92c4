package proxy

import (
	"net/http"
	"testing"
	"time"

	"github.com/warren-mesh/warren/route"
)

// TestATimeoutDoesNotWaitForAStalledUpload: a client that stops sending its body is answered when the route's time is up.
func TestATimeoutDoesNotWaitForAStalledUpload(t *testing.T) {
	for name, rule := range map[string]route.Rule{
		"the request's": {Backends: to("shop/web"), Timeout: 300 * time.Millisecond},
		"a try's":       {Backends: to("shop/web"), BackendTimeout: 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }))
			r.route(rule).start()
			_, in := r.raw("POST / HTTP/1.1\r\nHost: web.shop\r\nContent-Length: 10\r\n\r\nabc")
			res, err := http.ReadResponse(in, nil)
			if err != nil || res.StatusCode != http.StatusGatewayTimeout {
				t.Fatal(res, err)
			}
		})
	}
}
