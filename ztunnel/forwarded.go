package ztunnel

import (
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"strings"
)

// clientOf returns the client's address as its app's peer will see it. The address itself is the one that the
// tunnel came from; the peer's `forwarded` header (RFC 7239) adds the port, and only if it names that same
// address. Else the port is the tunnel's own: a waypoint speaks for clients elsewhere, and no app should see a peer with
// port 0.
func clientOf(forwarded string, from netip.AddrPort) netip.AddrPort {
	_, rest, ok := strings.Cut(forwarded, `for="`)
	if ok {
		value, _, closed := strings.Cut(rest, `"`)
		if ap, err := netip.ParseAddrPort(value); closed && err == nil && ap.Addr().Unmap() == from.Addr() {
			return netip.AddrPortFrom(from.Addr(), ap.Port())
		}
	}
	return from
}

// newTraceID returns 16 random bytes in hex: the trace id that both ends of a connection share.
func newTraceID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// traceparent returns the header (W3C Trace Context) that carries a connection's id to the peer, not sampled.
func traceparent(id string) string { return "00-" + id + "-" + id[:16] + "-00" }

// traceIDOf returns the id in a peer's traceparent, or a new one if the header is not well formed.
func traceIDOf(header string) string {
	parts := strings.Split(header, "-")
	if len(parts) == 4 && len(parts[1]) == 32 {
		if _, err := hex.DecodeString(parts[1]); err == nil {
			return strings.ToLower(parts[1])
		}
	}
	return newTraceID()
}
