package hbone

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// repeated is a connection on which the same bytes come for ever.
type repeated struct {
	net.Conn
	bytes []byte
	at    int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.bytes[r.at:])
	r.at = (r.at + n) % len(r.bytes)
	return n, nil
}

var aRequest = Request{
	Authority:   "10.0.0.7:8080",
	Forwarded:   ForwardedFor(netip.MustParseAddrPort("10.0.0.1:40000")),
	Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}

// BenchmarkEncodeData is DATA's headers put around a payload: 60 KiB take four frames for a peer with frames of 16 KiB.
func BenchmarkEncodeData(b *testing.B) {
	for _, size := range []int{64, smallUnit, smallBatch} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			const start = controlRoom + headerSize
			buf := make([]byte, start+size+4*headerSize)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				spreadFrames(buf, start, size, smallUnit, 1)
			}
		})
	}
}

// BenchmarkDecodeData is DATA read from a connection into its stream and out of that.
func BenchmarkDecodeData(b *testing.B) {
	for _, size := range []int{64, smallUnit, 64 << 10} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			in := &repeated{bytes: appendFrame(nil, http2.FrameData, 0, 1, noise(size))}
			c := newConn(in, Config{}.withDefaults())
			s := newStream(b.Context(), c, 1, true)
			c.streams[1] = s
			out := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				fh, err := c.reader.fr.ReadFrameHeader()
				if err == nil {
					err = c.onData(fh)
				}
				if err == nil {
					_, err = io.ReadFull(s, out)
				}
				if err != nil {
					b.Fatal(err)
				}
				c.writer.wmu.Lock()
				c.takeControl() // what credits the peer is written by somebody else
				c.writer.wmu.Unlock()
			}
			if !bytes.Equal(out, noise(size)) {
				b.Error("other bytes came out")
			}
		})
	}
}

// BenchmarkEncodeRequest is the header block of a CONNECT.
func BenchmarkEncodeRequest(b *testing.B) {
	e := newHeaderEncoder()
	b.ReportAllocs()
	for b.Loop() {
		e.block(aRequest.fields())
	}
}

// BenchmarkDecodeRequest is HEADERS read and understood.
func BenchmarkDecodeRequest(b *testing.B) {
	frame := appendFrame(nil, http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, newHeaderEncoder().block(aRequest.fields()))
	fr := http2.NewFramer(nil, &repeated{bytes: frame})
	fr.SetReuseFrames()
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	b.ReportAllocs()
	for b.Loop() {
		f, err := fr.ReadFrame()
		if err != nil {
			b.Fatal(err)
		}
		if r, err := parseRequest(f.(*http2.MetaHeadersFrame)); err != nil || r != aRequest {
			b.Fatal(r, err)
		}
	}
}

// BenchmarkStreamRoundTrip is a message to an echo and back over one stream, by loopback, client and server counted.
func BenchmarkStreamRoundTrip(b *testing.B) {
	for name, dial := range transports() {
		b.Run("over="+name, func(b *testing.B) {
			e := newPair(b, pairConfig{dial: dial, handle: echo})
			s := mustConnect(b, e.ClientConn)
			buf := noise(64)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(s, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStreamOneWay is what a stream carries in one direction.
func BenchmarkStreamOneWay(b *testing.B) {
	for name, dial := range transports() {
		b.Run("over="+name, func(b *testing.B) {
			client, server, _ := peers(b, pairConfig{dial: dial})
			done := make(chan int64)
			go func() {
				n, _ := server.WriteTo(io.Discard)
				done <- n
			}()
			buf, sent := noise(64<<10), 0
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				n, err := client.Write(buf)
				if sent += n; err != nil {
					b.Fatal(err)
				}
			}
			client.CloseWrite()
			if got := <-done; got != int64(sent) {
				b.Errorf("%d bytes arrived of %d", got, sent)
			}
		})
	}
}

// BenchmarkConnect opens a stream and ends it.
func BenchmarkConnect(b *testing.B) {
	e := newPair(b, pairConfig{dial: tlsPair, handle: echo})
	b.ReportAllocs()
	for b.Loop() {
		s, err := e.Connect(b.Context(), aRequest)
		if err != nil {
			b.Fatal(err)
		}
		s.CloseWrite()
		if _, err := s.Read(make([]byte, 1)); err != io.EOF {
			b.Fatal(err)
		}
		s.Close()
	}
}
