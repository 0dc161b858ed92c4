package ztunnel_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/internal/nettest"
	"github.com/warren-mesh/warren/ztunnel"
)

// tripwire is an app that must not be reached: it counts who does, and answers each with one byte.
func tripwire(t *testing.T, ns *nettest.NS, port int) *atomic.Int64 {
	t.Helper()
	var reached atomic.Int64
	serve(t, ns, port, func(c *net.TCPConn) {
		reached.Add(1)
		c.Write([]byte("!"))
		c.Close()
	})
	return &reached
}

// evilEcho is an app that sends back what it gets.
func evilEcho(t *testing.T, ns *nettest.NS, port int) {
	t.Helper()
	serve(t, ns, port, func(c *net.TCPConn) {
		io.Copy(c, c)
		c.Close()
	})
}

func workloadID(t *testing.T, s string) identity.ID {
	t.Helper()
	id, err := identity.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// presenting is the TLS of an attacker, who cares for no rule of ours.
func presenting(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: certs,
		VerifyConnection: func(tls.ConnectionState) error { return nil },
	}
}

// rawH2 is an HTTP/2 client that sends what it is told.
type rawH2 struct {
	net.Conn
	fr  *http2.Framer
	buf bytes.Buffer
	enc *hpack.Encoder
	dec *hpack.Decoder
}

// intrude makes a tunnel to a pod from any namespace.
func intrude(t *testing.T, from *nettest.NS, to netip.Addr, config *tls.Config) *rawH2 {
	t.Helper()
	h, err := tryIntrude(t, from, to, config)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func tryIntrude(t *testing.T, from *nettest.NS, to netip.Addr, config *tls.Config) (*rawH2, error) {
	t.Helper()
	raw, err := tryDial(t, from, netip.AddrPortFrom(to, ztunnel.TunnelPort))
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, config)
	if err := c.Handshake(); err != nil {
		return nil, err
	}
	h := &rawH2{Conn: c, fr: http2.NewFramer(c, c)}
	h.enc, h.dec = hpack.NewEncoder(&h.buf), hpack.NewDecoder(4096, nil)
	h.fr.AllowIllegalWrites = true
	h.fr.SetMaxReadFrameSize(1<<24 - 1)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return nil, err
	}
	return h, h.fr.WriteSettings()
}

// block encodes names and values in turn.
func (h *rawH2) block(fields ...string) []byte {
	h.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		h.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return h.buf.Bytes()
}

func (h *rawH2) request(id uint32, end bool, fields ...string) error {
	return h.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h.block(fields...), EndHeaders: true, EndStream: end})
}

// answer returns what a stream comes to: "200", "400 bad_target", "RST PROTOCOL_ERROR", "GOAWAY ..." or "closed".
func (h *rawH2) answer(id uint32) string {
	h.SetReadDeadline(time.Now().Add(8 * time.Second))
	for {
		f, err := h.fr.ReadFrame()
		if err != nil {
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				return "silence"
			}
			return "closed"
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				h.fr.WriteSettingsAck()
			}
		case *http2.GoAwayFrame:
			return "GOAWAY " + f.ErrCode.String()
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return "RST " + f.ErrCode.String()
			}
		case *http2.HeadersFrame:
			fields, err := h.dec.DecodeFull(f.HeaderBlockFragment())
			if err != nil {
				return err.Error()
			}
			if f.StreamID == id {
				return statusAndReason(fields)
			}
		}
	}
}

func statusAndReason(fields []hpack.HeaderField) string {
	var out []string
	for _, f := range fields {
		if f.Name == ":status" || f.Name == "warren-reason" {
			out = append(out, f.Value)
		}
	}
	return strings.Join(out, " ")
}

// connect asks for a target and returns the answer.
func (h *rawH2) connect(id uint32, authority string, more ...string) string {
	if err := h.request(id, false, append([]string{":method", "CONNECT", ":authority", authority}, more...)...); err != nil {
		return "closed"
	}
	return h.answer(id)
}

// say sends bytes on a connected stream and tells whether they come back.
func (h *rawH2) say(id uint32, text string) bool {
	if h.fr.WriteData(id, false, []byte(text)) != nil {
		return false
	}
	h.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		f, err := h.fr.ReadFrame()
		if err != nil {
			return false
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			if f.StreamID == id {
				return string(f.Data()) == text && !f.StreamEnded()
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return false
			}
		case *http2.GoAwayFrame:
			return false
		}
	}
}

func everything(ztunnel.Record) bool { return true }

func describe(r ztunnel.Record) string {
	return fmt.Sprintf("%s %s %s %s->%s (%s)", r.Reporter, r.Verdict, r.Reason, r.Src.Addr, r.Dst.Addr, r.Detail)
}
