package hbone

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// script builds raw bytes of frames. It may build what no framer would.
type script struct{ bytes.Buffer }

func (s *script) frame(typ http2.FrameType, flags http2.Flags, id uint32, payload ...byte) *script {
	s.Write(appendFrame(nil, typ, flags, id, payload))
	return s
}

func (s *script) preface() *script {
	s.WriteString(http2.ClientPreface)
	return s.frame(http2.FrameSettings, 0, 0)
}

func block(fields ...string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

const endHeaders, endStream = http2.FlagHeadersEndHeaders, http2.FlagHeadersEndStream

func (s *script) headers(id uint32, fields ...string) *script {
	return s.frame(http2.FrameHeaders, endHeaders, id, block(fields...)...)
}

func (s *script) connect(id uint32) *script {
	return s.headers(id, ":method", "CONNECT", ":authority", "10.0.0.7:80")
}

func (s *script) window(id, inc uint32) *script {
	return s.frame(http2.FrameWindowUpdate, 0, id, be32(inc)...)
}

func (s *script) setting(id http2.SettingID, v uint32) *script {
	return s.frame(http2.FrameSettings, 0, 0, append(binary.BigEndian.AppendUint16(nil, uint16(id)), be32(v)...)...)
}

func (s *script) times(n int, f func(i int)) *script {
	for i := range n {
		f(i)
	}
	return s
}

// outcome is how an endpoint took a script: "goaway CODE", "reset ID CODE", "status ID N", or "lives" if it answers a
// PING behind it. Of many, the first that is no status of stream 1 counts, unless a status is what is wanted.
func outcome(nc net.Conn, want string) string {
	const sentinel = "are you?"
	nc.SetReadDeadline(time.Now().Add(patience))
	fr := http2.NewFramer(nc, nc)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var last []string
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return fmt.Sprint(last, " then ", err)
		}
		got := ""
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			got = fmt.Sprint("goaway ", f.ErrCode)
		case *http2.RSTStreamFrame:
			got = fmt.Sprint("reset ", f.StreamID, " ", f.ErrCode)
		case *http2.MetaHeadersFrame:
			got = fmt.Sprint("status ", f.StreamID, " ", f.PseudoValue("status"))
		case *http2.PingFrame:
			if f.IsAck() && string(f.Data[:]) == sentinel {
				got = "lives"
			}
		}
		if got == want {
			return got
		}
		if got != "" {
			last = append(last, got)
		}
		if strings.HasPrefix(got, "goaway") || got == "lives" && !strings.HasPrefix(want, "status") {
			return fmt.Sprint(last)
		}
	}
}

func ping() []byte { return appendFrame(nil, http2.FramePing, 0, 0, []byte("are you?")) }

func TestServerMeetsMalice(t *testing.T) {
	long := strings.Repeat("x", 12<<10)
	cases := []struct {
		name   string
		script *script
		want   string
	}{
		{"CONNECT", new(script).preface().connect(1), "status 1 200"},
		{"HTTP/1", &script{*bytes.NewBufferString("GET / HTTP/1.1\r\nHost: a\r\n\r\n" + long)}, "goaway PROTOCOL_ERROR"},
		{"no SETTINGS first", (&script{*bytes.NewBufferString(http2.ClientPreface)}).connect(1), "goaway PROTOCOL_ERROR"},
		{"SETTINGS ack first", (&script{*bytes.NewBufferString(http2.ClientPreface)}).frame(http2.FrameSettings, http2.FlagSettingsAck, 0), "goaway PROTOCOL_ERROR"},

		{"GET", new(script).preface().headersEnd(1, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a"), "status 1 405"},
		{"GET without path", new(script).preface().headers(1, ":method", "GET", ":scheme", "https"), "reset 1 PROTOCOL_ERROR"},
		{"CONNECT with path", new(script).preface().headers(1, ":method", "CONNECT", ":authority", "a:1", ":path", "/"), "reset 1 PROTOCOL_ERROR"},
		{"CONNECT with scheme", new(script).preface().headers(1, ":method", "CONNECT", ":authority", "a:1", ":scheme", "https"), "reset 1 PROTOCOL_ERROR"},
		{"extended CONNECT", new(script).preface().headers(1, ":method", "CONNECT", ":authority", "a:1", ":protocol", "websocket"), "reset 1 PROTOCOL_ERROR"},
		{"no authority", new(script).preface().headers(1, ":method", "CONNECT"), "reset 1 PROTOCOL_ERROR"},
		{"empty authority", new(script).preface().headers(1, ":method", "CONNECT", ":authority", ""), "reset 1 PROTOCOL_ERROR"},
		{"two authorities", new(script).preface().headers(1, ":method", "CONNECT", ":authority", "a:1", ":authority", "b:1"), "reset 1 PROTOCOL_ERROR"},
		{"two methods", new(script).preface().headers(1, ":method", "CONNECT", ":method", "GET", ":authority", "a:1"), "reset 1 PROTOCOL_ERROR"},
		{"NUL in authority", new(script).preface().headers(1, ":method", "CONNECT", ":authority", "a\x00:1"), "reset 1 PROTOCOL_ERROR"},
		{"user info in authority", new(script).preface().headersEnd(1, ":method", "CONNECT", ":authority", "u@a:1"), "status 1 400"},
		{"long authority", new(script).preface().headersEnd(1, ":method", "CONNECT", ":authority", long[:300]), "status 1 400"},
		{"status in a request", new(script).preface().headers(1, ":status", "200"), "reset 1 PROTOCOL_ERROR"},
		{"unknown pseudo header", new(script).preface().headers(1, ":method", "CONNECT", ":authority", "a:1", ":x", "y"), "reset 1 PROTOCOL_ERROR"},
		{"pseudo header behind others", new(script).preface().headers(1, ":method", "CONNECT", "a", "b", ":authority", "a:1"), "reset 1 PROTOCOL_ERROR"},
		{"upper case name", new(script).preface().headers(1, ":method", "CONNECT", ":authority", "a:1", "Baggage", "x"), "reset 1 PROTOCOL_ERROR"},
		{"line break in value", new(script).preface().headers(1, ":method", "CONNECT", ":authority", "a:1", "baggage", "x\r\ny: z"), "reset 1 PROTOCOL_ERROR"},
		{"connection header", new(script).preface().headers(1, ":method", "CONNECT", ":authority", "a:1", "connection", "close"), "reset 1 PROTOCOL_ERROR"},
		{"te header", new(script).preface().headers(1, ":method", "CONNECT", ":authority", "a:1", "te", "gzip"), "reset 1 PROTOCOL_ERROR"},
		{"long header list", new(script).preface().headersEnd(1, ":method", "CONNECT", ":authority", "a:1", "a", long, "b", long), "status 1 431"},
		{"HPACK bomb", bomb(), "status 1 431"},
		{"HPACK garbage", new(script).preface().frame(http2.FrameHeaders, endHeaders, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "goaway COMPRESSION_ERROR"},
		{"CONTINUATION flood", flood(), "goaway PROTOCOL_ERROR"},
		{"DATA inside a header block", new(script).preface().frame(http2.FrameHeaders, 0, 1, block(":method", "CONNECT")...).frame(http2.FrameData, 0, 1, 'x'), "goaway PROTOCOL_ERROR"},
		{"DATA of another stream inside a header block", new(script).preface().connect(1).frame(http2.FrameHeaders, 0, 3, block(":method", "CONNECT")...).frame(http2.FrameData, 0, 1, 'x'), "goaway PROTOCOL_ERROR"},
		{"CONTINUATION without HEADERS", new(script).preface().frame(http2.FrameContinuation, endHeaders, 1), "goaway PROTOCOL_ERROR"},
		{"second HEADERS", new(script).preface().connect(1).connect(1), "reset 1 PROTOCOL_ERROR"},
		{"trailers", new(script).preface().connect(1).frame(http2.FrameHeaders, endHeaders|endStream, 1, block("a", "b")...), "reset 1 PROTOCOL_ERROR"},
		{"even stream", new(script).preface().connect(2), "goaway PROTOCOL_ERROR"},
		{"stream 0", new(script).preface().connect(0), "goaway PROTOCOL_ERROR"},
		{"lower stream", new(script).preface().connect(5).connect(3), "goaway PROTOCOL_ERROR"},
		{"stream depends on itself", new(script).preface().frame(http2.FrameHeaders, endHeaders|http2.FlagHeadersPriority, 1, append(append(be32(1), 16), block(":method", "CONNECT", ":authority", "a:1")...)...), "reset 1 PROTOCOL_ERROR"},
		{"HEADERS above the frame size", new(script).preface().frame(http2.FrameHeaders, endHeaders, 1, make([]byte, 64<<10+1)...), "goaway FRAME_SIZE_ERROR"},
		{"padding longer than HEADERS", new(script).preface().frame(http2.FrameHeaders, endHeaders|http2.FlagHeadersPadded, 1, 200, 0), "reset 1 PROTOCOL_ERROR"},
		{"padded HEADERS without length", new(script).preface().frame(http2.FrameHeaders, endHeaders|http2.FlagHeadersPadded, 1), "goaway FRAME_SIZE_ERROR"},

		{"DATA on stream 0", new(script).preface().frame(http2.FrameData, 0, 0, 'x'), "goaway PROTOCOL_ERROR"},
		{"DATA on idle stream", new(script).preface().frame(http2.FrameData, 0, 1, 'x'), "goaway PROTOCOL_ERROR"},
		{"DATA after END_STREAM", new(script).preface().connect(1).frame(http2.FrameData, http2.FlagDataEndStream, 1).frame(http2.FrameData, 0, 1, 'x'), "reset 1 STREAM_CLOSED"},
		{"DATA after RST_STREAM", new(script).preface().connect(1).frame(http2.FrameRSTStream, 0, 1, be32(8)...).frame(http2.FrameData, 0, 1, 'x'), "reset 1 STREAM_CLOSED"},
		{"padding longer than DATA", new(script).preface().connect(1).frame(http2.FrameData, http2.FlagDataPadded, 1, 9, 'x'), "goaway PROTOCOL_ERROR"},
		{"padded DATA without length", new(script).preface().connect(1).frame(http2.FrameData, http2.FlagDataPadded, 1), "goaway FRAME_SIZE_ERROR"},
		{"DATA above the frame size", new(script).preface().connect(1).frame(http2.FrameData, 0, 1, make([]byte, 64<<10+1)...), "goaway FRAME_SIZE_ERROR"},
		{"DATA above the stream window", new(script).preface().headers(1, ":method", "CONNECT", ":authority", "unread:1").times2(5, func(s *script) { s.frame(http2.FrameData, 0, 1, make([]byte, 60<<10)...) }), "reset 1 FLOW_CONTROL_ERROR"},
		{"empty DATA flood", new(script).preface().connect(1).times2(5000, func(s *script) { s.frame(http2.FrameData, 0, 1) }), "goaway ENHANCE_YOUR_CALM"},

		{"RST_STREAM on idle stream", new(script).preface().frame(http2.FrameRSTStream, 0, 1, be32(8)...), "goaway PROTOCOL_ERROR"},
		{"RST_STREAM on stream 0", new(script).preface().frame(http2.FrameRSTStream, 0, 0, be32(8)...), "goaway PROTOCOL_ERROR"},
		{"RST_STREAM of 3 bytes", new(script).preface().connect(1).frame(http2.FrameRSTStream, 0, 1, 0, 0, 8), "goaway FRAME_SIZE_ERROR"},
		{"second RST_STREAM", new(script).preface().connect(1).frame(http2.FrameRSTStream, 0, 1, be32(8)...).frame(http2.FrameRSTStream, 0, 1, be32(8)...), "lives"},
		{"made you reset", madeYouReset(), "goaway ENHANCE_YOUR_CALM"},

		{"WINDOW_UPDATE of 0", new(script).preface().window(0, 0), "goaway PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of 0 on a stream", new(script).preface().connect(1).window(1, 0), "reset 1 PROTOCOL_ERROR"},
		{"WINDOW_UPDATE overflow", new(script).preface().window(0, maxWindow), "goaway FLOW_CONTROL_ERROR"},
		{"WINDOW_UPDATE overflow on a stream", new(script).preface().connect(1).window(1, maxWindow), "reset 1 FLOW_CONTROL_ERROR"},
		{"WINDOW_UPDATE on idle stream", new(script).preface().window(7, 1), "goaway PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of 3 bytes", new(script).preface().frame(http2.FrameWindowUpdate, 0, 0, 0, 0, 1), "goaway FRAME_SIZE_ERROR"},

		{"SETTINGS on a stream", new(script).preface().frame(http2.FrameSettings, 0, 1), "goaway PROTOCOL_ERROR"},
		{"SETTINGS of 5 bytes", new(script).preface().frame(http2.FrameSettings, 0, 0, 0, 0, 0, 0, 0), "goaway FRAME_SIZE_ERROR"},
		{"SETTINGS ack with payload", new(script).preface().frame(http2.FrameSettings, http2.FlagSettingsAck, 0, 0, 0, 0, 0, 0, 0), "goaway FRAME_SIZE_ERROR"},
		{"window setting too large", new(script).preface().setting(http2.SettingInitialWindowSize, 1<<31), "goaway FLOW_CONTROL_ERROR"},
		{"window setting overflows a stream", new(script).preface().connect(1).window(1, maxWindow-65535).setting(http2.SettingInitialWindowSize, 65536), "goaway FLOW_CONTROL_ERROR"},
		{"frame size setting 0", new(script).preface().setting(http2.SettingMaxFrameSize, 0), "goaway PROTOCOL_ERROR"},
		{"frame size setting too large", new(script).preface().setting(http2.SettingMaxFrameSize, 1<<24), "goaway PROTOCOL_ERROR"},
		{"push setting 2", new(script).preface().setting(http2.SettingEnablePush, 2), "goaway PROTOCOL_ERROR"},
		{"unknown setting", new(script).preface().setting(0x99, 7), "lives"},
		{"many settings", new(script).preface().frame(http2.FrameSettings, 0, 0, make([]byte, 6*100)...), "goaway ENHANCE_YOUR_CALM"},
		{"SETTINGS flood", new(script).preface().times2(5000, func(s *script) { s.setting(http2.SettingHeaderTableSize, 1) }), "goaway ENHANCE_YOUR_CALM"},

		{"PING of 7 bytes", new(script).preface().frame(http2.FramePing, 0, 0, make([]byte, 7)...), "goaway FRAME_SIZE_ERROR"},
		{"PING on a stream", new(script).preface().frame(http2.FramePing, 0, 1, make([]byte, 8)...), "goaway PROTOCOL_ERROR"},
		{"PING flood", new(script).preface().times2(5000, func(s *script) { s.frame(http2.FramePing, 0, 0, make([]byte, 8)...) }), "goaway ENHANCE_YOUR_CALM"},
		{"answers to no PING", new(script).preface().times2(5000, func(s *script) { s.frame(http2.FramePing, http2.FlagPingAck, 0, make([]byte, 8)...) }), "goaway ENHANCE_YOUR_CALM"},
		{"PRIORITY flood", new(script).preface().times2(5000, func(s *script) { s.frame(http2.FramePriority, 0, 1, 0, 0, 0, 0, 16) }), "goaway ENHANCE_YOUR_CALM"},
		{"PUSH_PROMISE", new(script).preface().connect(1).frame(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, be32(2)...), "goaway PROTOCOL_ERROR"},
		{"GOAWAY on a stream", new(script).preface().frame(http2.FrameGoAway, 0, 1, make([]byte, 8)...), "goaway PROTOCOL_ERROR"},
		{"reserved bits", new(script).preface().window(1<<31, 1), "lives"},
	}
	for typ := http2.FrameType(0x0a); typ < 0x10; typ++ {
		cases = append(cases, struct {
			name   string
			script *script
			want   string
		}{fmt.Sprintf("unknown frame %#x", typ), new(script).preface().frame(typ, 0xff, 0).frame(typ, 0xff, 9, 1, 2, 3), "lives"})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			near, far := tcpPair(t)
			over := make(chan error, 1)
			go func() { over <- ServeConn(context.Background(), far, Config{}, echoOrHold) }()
			go func() { near.Write(append(c.script.Bytes(), ping()...)) }()
			if got := outcome(near, c.want); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			near.Close()
			err := <-over
			var ce *ConnError
			if said := strings.HasPrefix(c.want, "goaway"); said != errors.As(err, &ce) {
				t.Errorf("ServeConn: %v", err)
			}
		})
	}
}

// echoOrHold echoes, but does not read a stream to "unread:1", so that its window is not renewed.
func echoOrHold(ctx context.Context, in *Inbound) {
	if in.Request().Authority == "unread:1" {
		<-ctx.Done()
		return
	}
	echo(ctx, in)
}

func (s *script) times2(n int, f func(*script)) *script {
	for range n {
		f(s)
	}
	return s
}

// bomb is a header list that is short on the wire and long decoded: one indexed field, repeated (CVE-2026-47774).
func bomb() *script {
	b := block(":method", "CONNECT", ":authority", "a:1", "cookie", strings.Repeat("x", 3<<10))
	for range 1000 {
		b = append(b, 0x80|62) // the entry that the cookie made
	}
	return new(script).preface().frame(http2.FrameHeaders, endHeaders|endStream, 1, b...)
}

// flood never ends a header block (CVE-2023-45288).
func flood() *script {
	s := new(script).preface().frame(http2.FrameHeaders, 0, 1, block(":method", "CONNECT", ":authority", "a:1")...)
	return s.times2(1000, func(s *script) {
		s.frame(http2.FrameContinuation, 0, 1, block("a", strings.Repeat("x", 1<<10))...)
	})
}

// madeYouReset opens streams and provokes their reset by the server (CVE-2025-8671).
func madeYouReset() *script {
	s := new(script).preface()
	return s.times(1000, func(i int) { s.connect(uint32(2*i+1)).window(uint32(2*i+1), 0) })
}

func TestServerRefusesStreamsAboveItsLimit(t *testing.T) {
	near, far := tcpPair(t)
	over := make(chan error, 1)
	hold := func(ctx context.Context, _ *Inbound) { <-ctx.Done() }
	go func() { over <- ServeConn(context.Background(), far, Config{MaxStreams: 2}, hold) }()
	go near.Write(append(new(script).preface().connect(1).connect(3).connect(5).Bytes(), ping()...))
	if want, got := "reset 5 REFUSED_STREAM", outcome(near, "reset 5 REFUSED_STREAM"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	near.Close()
	<-over
}

func TestRapidReset(t *testing.T) {
	stuck := make(chan struct{})
	for name, hold := range map[string]func(context.Context, *Inbound){
		"handlers that end with their stream": func(ctx context.Context, _ *Inbound) { <-ctx.Done() },
		"handlers that linger":                func(context.Context, *Inbound) { <-stuck },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := tcpPair(t)
			over := make(chan error, 1)
			go func() { over <- ServeConn(context.Background(), far, Config{}, hold) }()
			s := new(script).preface()
			s.times(1000, func(i int) {
				s.connect(uint32(2*i+1)).frame(http2.FrameRSTStream, 0, uint32(2*i+1), be32(8)...)
			})
			go near.Write(s.Bytes())
			if got := outcome(near, "goaway ENHANCE_YOUR_CALM"); got != "goaway ENHANCE_YOUR_CALM" {
				t.Errorf("got %.200s", got)
			}
			near.Close()
			if name == "handlers that linger" {
				close(stuck)
			}
			if err := <-over; !isCalm(err) {
				t.Errorf("ServeConn: %v", err)
			}
		})
	}
}

// What a peer resets after it was served costs it nothing: apps do that.
func TestResetsOfServedStreamsAreFree(t *testing.T) {
	e := newPair(t, pairConfig{handle: echo})
	for range 1000 {
		mustConnect(t, e.ClientConn).Reset(CodeConnect)
	}
	if !e.Usable() {
		t.Error("the connection is gone")
	}
}

func TestPingFloodWithoutReading(t *testing.T) {
	near, far := net.Pipe()
	over := make(chan error, 1)
	go func() {
		over <- ServeConn(context.Background(), far, Config{MaxJunk: 1 << 30}, echo)
	}()
	near.Write(new(script).preface().Bytes())
	for {
		near.SetWriteDeadline(time.Now().Add(patience))
		if _, err := near.Write(ping()); err != nil {
			break
		}
	}
	near.Close()
	if err := <-over; !isCalm(err) {
		t.Errorf("ServeConn: %v", err)
	}
}

// headersEnd is a request without content.
func (s *script) headersEnd(id uint32, fields ...string) *script {
	return s.frame(http2.FrameHeaders, endHeaders|endStream, id, block(fields...)...)
}
