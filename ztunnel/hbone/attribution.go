package hbone

import (
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"strings"
)

// ForwardedFor is a Request's Forwarded that names the client, "" if it is not known.
func ForwardedFor(client netip.AddrPort) string {
	if !client.IsValid() {
		return ""
	}
	return `for="` + client.String() + `"`
}

// Client returns the client's address. The address itself is the one that the tunnel came from; Forwarded adds the port,
// and only if it names that same address: a peer may say what it likes there, and a waypoint speaks for clients elsewhere.
// Else it is `from`, the tunnel's own end.
func (r Request) Client(from netip.AddrPort) netip.AddrPort {
	_, rest, ok := strings.Cut(r.Forwarded, `for="`)
	if !ok {
		return from
	}
	value, _, closed := strings.Cut(rest, `"`)
	if ap, err := netip.ParseAddrPort(value); closed && err == nil && ap.Addr().Unmap() == from.Addr() {
		return netip.AddrPortFrom(from.Addr(), ap.Port())
	}
	return from
}

// NewTraceID returns 16 random bytes in hex: the trace id that both ends of a connection share.
func NewTraceID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// TraceparentOf is a Request's Traceparent that carries a connection's id, of NewTraceID's form, to the peer, not sampled.
func TraceparentOf(id string) string { return "00-" + id + "-" + id[:16] + "-00" }

// TraceID returns the id in Traceparent, in lower case, or a new one if that is not well formed.
func (r Request) TraceID() string {
	parts := strings.Split(r.Traceparent, "-")
	if len(parts) == 4 && len(parts[1]) == 32 {
		if raw, err := hex.DecodeString(parts[1]); err == nil {
			return hex.EncodeToString(raw)
		}
	}
	return NewTraceID()
}
