package proxy

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
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

// TestAStalledUploadIsToldThatTheBackendHasClosed: not only once it goes on. What is kept of it may be tried elsewhere.
func TestAStalledUploadIsToldThatTheBackendHasClosed(t *testing.T) {
	const begun = "POST / HTTP/1.1\r\nHost: web.shop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
	var n atomic.Int32
	closes := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if n.Add(1) > 1 {
			all, err := io.ReadAll(q.Body)
			if err != nil || string(all) != "abcdef" {
				t.Errorf("the second try reads %q, %v", all, err)
			}
			return
		}
		_, _ = io.ReadFull(q.Body, make([]byte, 3))
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = c.Close()
	})
	t.Run("without retries", func(t *testing.T) {
		n.Store(0)
		r := newRig(t, closes).start()
		_, in := r.raw(begun)
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != http.StatusBadGateway {
			t.Fatal(res, err)
		}
		if rec := r.record(); !strings.Contains(rec.Detail, "closed the connection") {
			t.Errorf("the record says %q", rec.Detail)
		}
	})
	t.Run("with one", func(t *testing.T) {
		n.Store(0)
		r := newRig(t, closes)
		r.route(route.Rule{Backends: to("shop/web"), Retry: &route.Retry{Attempts: 1}}).start()
		c, in := r.raw(begun)
		for deadline := time.Now().Add(10 * time.Second); n.Load() < 2; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("there was no second try while the client was silent")
			}
		}
		_, _ = io.WriteString(c, "3\r\ndef\r\n0\r\n\r\n")
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(res, err)
		}
	})
}
