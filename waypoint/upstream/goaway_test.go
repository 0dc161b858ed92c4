package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/warren-mesh/warren/route"
)

// leaving serves HTTP/2: one request a connection. When the second has arrived with all of its body, it says that it
// did not look at it, and goes away.
func leaving(t *testing.T, f *field, addr string) {
	t.Helper()
	rude(t, f, addr, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := io.ReadFull(r, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		fr := http2.NewFramer(c, r)
		_ = fr.WriteSettings()
		for {
			frame, err := fr.ReadFrame()
			if err != nil {
				return
			}
			h := frame.Header()
			request := h.Type == http2.FrameData || h.Type == http2.FrameHeaders
			switch ended := request && h.Flags.Has(http2.FlagDataEndStream); {
			case h.Type == http2.FrameSettings && !h.Flags.Has(http2.FlagSettingsAck):
				_ = fr.WriteSettingsAck()
			case ended && h.StreamID == 1:
				var block bytes.Buffer
				_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "204"})
				_ = fr.WriteHeaders(http2.HeadersFrameParam{
					StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
				})
			case ended:
				_ = fr.WriteGoAway(1, http2.ErrCodeNo, nil)
				return
			}
		}
	})
}

func TestRequestThatAServerDidNotLookAtIsSentAgainWithItsBody(t *testing.T) {
	for name, tt := range map[string]struct {
		size    int
		getBody bool
		sent    bool
	}{
		"small":                       {keptOfBody, false, true},
		"large":                       {keptOfBody + 1, false, false},
		"large, and can be made anew": {keptOfBody + 1, true, true},
	} {
		f := newField(t)
		f.pod("a", "10.0.0.1", nil)
		leaving(t, f, "10.0.0.1")
		f.publish()
		ask := f.ask()
		ask.HTTP2 = true
		text := strings.Repeat("x", tt.size)
		var closed atomic.Int32
		post := func() error {
			r := get("/")
			r.Method, r.ContentLength = http.MethodPost, int64(len(text))
			r.Body = &counted{strings.NewReader(text), &closed}
			if tt.getBody {
				r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
			}
			_, err := f.do(ask, r)
			return err
		}
		if err := post(); err != nil {
			t.Fatalf("%s: first: %v", name, err)
		}
		err := post()
		if tt.sent && err != nil || !tt.sent && !errors.Is(err, ErrNotSent) {
			t.Errorf("%s: second: %v", name, err)
		}
		if want := int64(2); tt.sent && f.dials.Load() != want {
			t.Errorf("%s: %d connections, want %d", name, f.dials.Load(), want)
		}
		eventually(t, name+": both bodies are closed once each", func() bool { return closed.Load() == 2 })
	}
}

type counted struct {
	io.Reader
	closed *atomic.Int32
}

func (c *counted) Close() error { c.closed.Add(1); return nil }

func TestBurstThatTheConnectionsSufficeForDoesNotCountAsWaiting(t *testing.T) {
	f := newField(t)
	release, arrived := make(chan struct{}), make(chan struct{}, 20)
	f.pod("a", "10.0.0.1", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release }))
	f.publish()
	ask := f.ask()
	ask.Traffic.Connections = &route.ConnectionLimits{MaxConnectionsPerEndpoint: 20, MaxPending: 1}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := f.do(ask, get("/")); err != nil {
				t.Error(err)
			}
		})
	}
	for range 20 {
		<-arrived
	}
	close(release)
	wg.Wait()
}
