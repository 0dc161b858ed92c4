package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// fuzzPatience bounds one input. An endpoint that needs it hangs.
const fuzzPatience = 5 * time.Second

// wire is a connection whose input is given and whose output is lost.
type wire struct {
	io.Reader
	net.Conn
}

func (w wire) Read(p []byte) (int, error)     { return w.Reader.Read(p) }
func (wire) Write(p []byte) (int, error)      { return len(p), nil }
func (wire) Close() error                     { return nil }
func (wire) SetReadDeadline(time.Time) error  { return nil }
func (wire) SetWriteDeadline(time.Time) error { return nil }
func (wire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (wire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func newWire(b []byte) net.Conn               { return wire{Reader: bytes.NewReader(b)} }
func within(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(fuzzPatience):
		t.Fatal("the endpoint hangs")
	}
}

func seeds() [][]byte {
	var all [][]byte
	for _, s := range []*script{
		new(script).connect(1).frame(http2.FrameData, 0, 1, []byte("hello")...).frame(http2.FrameData, http2.FlagDataEndStream, 1),
		new(script).connect(1).frame(http2.FrameData, http2.FlagDataPadded, 1, 2, 'x', 0, 0).frame(http2.FrameRSTStream, 0, 1, be32(10)...),
		new(script).headers(1, ":status", "200").frame(http2.FrameData, http2.FlagDataEndStream, 1, 'x'),
		new(script).headers(1, ":status", "503", reasonHeader, "x"),
		new(script).setting(http2.SettingInitialWindowSize, 1).setting(http2.SettingMaxFrameSize, 1<<20).window(0, 9).frame(http2.FramePing, 0, 0, make([]byte, 8)...),
		new(script).connect(1).connect(3).frame(http2.FrameGoAway, 0, 0, make([]byte, 8)...).window(3, 5),
		new(script).frame(http2.FrameHeaders, 0, 1, block(":method", "CONNECT")...).frame(http2.FrameContinuation, endHeaders, 1, block(":authority", "a:1")...),
		new(script).frame(http2.FramePriority, 0, 1, 0, 0, 0, 0, 1).frame(0x0b, 0, 0, 1, 2, 3).frame(http2.FramePushPromise, 4, 1, be32(2)...),
	} {
		all = append(all, s.Bytes())
	}
	return all
}

// FuzzServerFrames gives a server any bytes behind the preface. It must end, orderly, with the input, and give back
// every byte of its budget.
func FuzzServerFrames(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		budget := NewBudget(1 << 20)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = ServeConn(context.Background(), newWire(append(new(script).preface().Bytes(), b...)), Config{Budget: budget}, func(_ context.Context, in *Inbound) {
				if s, err := in.Accept(Answer{}); err == nil {
					_, _ = io.Copy(io.Discard, s)
				}
			})
		}()
		within(t, done)
		if used := budget.Used(); used != 0 {
			t.Errorf("%d bytes are still buffered", used)
		}
	})
}

// FuzzClientFrames gives a client any bytes as the server's.
func FuzzClientFrames(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		budget := NewBudget(1 << 20)
		near, far := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		cc, _ := NewClientConn(near, Config{Budget: budget})
		go func() {
			_, _ = far.Write(new(script).frame(http2.FrameSettings, 0, 0).Bytes())
			for !hasStream(cc) {
				time.Sleep(10 * time.Microsecond)
			}
			_, _ = far.Write(b)
			_ = far.Close()
		}()
		ctx, cancel := context.WithTimeout(context.Background(), fuzzPatience)
		defer cancel()
		s, err := cc.Connect(ctx, Request{Authority: "a:1"})
		if err == nil {
			_, err = io.Copy(io.Discard, s)
			_ = s.Close()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			t.Fatal("the client hangs")
		}
		_ = cc.Close()
		if used := budget.Used(); used != 0 {
			t.Errorf("%d bytes are still buffered", used)
		}
	})
}

// hasStream tells whether a stream was opened, or never will be.
func hasStream(cc *ClientConn) bool {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	return cc.nextID > 1 || cc.c.err != nil
}

// FuzzParseAuthority checks that what is accepted is exactly one address, without a second spelling of its family.
func FuzzParseAuthority(f *testing.F) {
	for _, s := range []string{"1.2.3.4:80", "[::1]:80", "[::ffff:1.2.3.4]:80", "a.b:80", "[fe80::1%25x]:1", "1.2.3.4:080", ":", "[]:1", "0x7f.1:80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ap, err := ParseAuthority(s)
		switch {
		case err != nil:
			if ap.IsValid() || !errors.Is(err, ErrHostname) && !errors.Is(err, ErrAuthority) {
				t.Errorf("%q: %v, %v", s, ap, err)
			}
		case !ap.IsValid() || ap.Port() == 0 || ap.Addr() != ap.Addr().Unmap() || ap.Addr().Zone() != "":
			t.Errorf("%q: accepted as %v", s, ap)
		default:
			if same, err := netip.ParseAddrPort(s); err != nil || same != ap {
				t.Errorf("%q: netip reads %v, %v", s, same, err)
			}
		}
	})
}

// FuzzRequestHeaders encodes any fields and checks that only what may be a CONNECT comes out as one.
func FuzzRequestHeaders(f *testing.F) {
	f.Add("CONNECT", "10.0.0.7:80", "baggage", "a=b")
	f.Add("GET", "a", ":path", "/")
	f.Add("CONNECT", "a:1", ":scheme", "https")
	f.Add("CONNECT", "a:1", "forwarded", "for=\"1.2.3.4\"\x00")
	f.Fuzz(func(t *testing.T, method, authority, name, value string) {
		var b bytes.Buffer
		enc := hpack.NewEncoder(&b)
		for _, h := range [][2]string{{":method", method}, {":authority", authority}, {name, value}} {
			_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		frames := appendFrame(nil, http2.FrameHeaders, endHeaders, 1, b.Bytes())
		fr := http2.NewFramer(nil, bytes.NewReader(frames))
		fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		fr.MaxHeaderListSize = 16 << 10
		frame, err := fr.ReadFrame()
		if err != nil {
			return
		}
		r, err := parseRequest(frame.(*http2.MetaHeadersFrame))
		if err != nil {
			return
		}
		if method != "CONNECT" || r.Authority != authority || r.check() != nil {
			t.Errorf("%q %q %q: %q was read as %+v", method, authority, name, value, r)
		}
	})
}
